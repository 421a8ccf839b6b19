"""ln p, H and the entropy sensitivity of every completion token, in one pass through the backbone."""

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from .entropy_flow import half_temperature_sensitivity, paper_sensitivity, sampled_sensitivity


class TokenFlow(NamedTuple):
    """What one recorded forward pass says of its tokens; 0 where the label is ignored."""

    logps: torch.Tensor  # (B, L)
    entropies: torch.Tensor  # (B, L)
    sensitivities: torch.Tensor  # (B, L)


class _Replay:
    """
    Stands where TRL's fused LM head expects a model, and answers with backbone outputs that were computed before.

    This way the second projection, at half the temperature, is TRL's own: same tiles, same soft-capping and logit
    scale, same gathering of a sharded head.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.config = model.config
        self.backbone_outputs: Any = None

    def base_model(self, **kwargs: Any) -> Any:
        return self.backbone_outputs

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.model.get_output_embeddings()

    def forward(self, **kwargs: Any) -> Any:
        raise NotImplementedError  # replaced by `add_fused_lm_head`, which wants something to replace


class FlowHead:
    """
    Records log-probabilities, entropies and entropy sensitivities on the passes it is told to, without ever making the
    (tokens × vocabulary) logits. On every other pass the model's forward runs untouched.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model, not wrapped by PEFT, that already has TRL's fused LM head.
        estimator (`str`):
            `"exact"` (a second projection through the LM head, not through the backbone), `"sampled"` or `"paper"`.
        temperature (`float`):
            Sampling temperature, as given to TRL's fused LM head.
        cast_lm_head_to_fp32 (`bool`):
            As given to TRL's fused LM head.
    """

    def __init__(self, model: PreTrainedModel, estimator: str, temperature: float, cast_lm_head_to_fp32: bool):
        self._estimator = estimator
        self._rows_left = 0
        self._chunks: list[TokenFlow] = []
        self._replay = _Replay(model)
        add_fused_lm_head(
            self._replay,  # type: ignore[arg-type]
            temperature=temperature / 2,
            cast_lm_head_to_fp32=cast_lm_head_to_fp32,
            outputs=("log_probs", "entropy"),
        )
        # Unbound, so that a copy of the model runs on its own weights
        fused_forward = cast(types.MethodType, model.forward).__func__

        # Keep the original signature: `generate` validates its model kwargs against it
        @functools.wraps(type(model).forward)
        def forward(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
            if self._rows_left == 0 or not kwargs.get("fused_lm_head", False):
                return fused_forward(model, *args, **kwargs)
            with self._capture_backbone():
                outputs = fused_forward(model, *args, **kwargs)
                flow = TokenFlow(outputs.log_probs, outputs.entropy, self._sensitivities(outputs, kwargs["labels"]))
            self._chunks.append(flow)
            self._rows_left = max(0, self._rows_left - flow.logps.size(0))
            return outputs

        model.forward = types.MethodType(forward, model)  # type: ignore[method-assign]

    @contextmanager
    def record(self, rows: int) -> Iterator[list[TokenFlow]]:
        """
        Record the next `rows` sequences that pass through the fused LM head, and no more.

        Args:
            rows (`int`):
                Sequences to record. The bound keeps a later pass through the same model out (the reference pass of a
                LoRA policy, with its adapter off).

        Yields:
            `list[TokenFlow]`: filled chunk by chunk, in the order of the passes.
        """
        self._rows_left, self._chunks = rows, []
        try:
            yield self._chunks
        finally:
            self._rows_left, self._chunks = 0, []

    @contextmanager
    def _capture_backbone(self) -> Iterator[None]:
        # The backbone is looked up on each pass, since FSDP replaces it after patching
        def keep(module: torch.nn.Module, args: tuple, outputs: Any) -> None:
            self._replay.backbone_outputs = outputs

        handle = self._replay.model.base_model.register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()
            self._replay.backbone_outputs = None

    def _sensitivities(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        if self._estimator == "sampled":
            return sampled_sensitivity(outputs.log_probs, outputs.entropy)
        if self._estimator == "paper":
            return paper_sensitivity(outputs.log_probs, outputs.entropy)
        # Router logits belong to the pass itself, not to a second projection of its hidden states
        half = self._replay.forward(labels=labels, fused_lm_head=True, output_router_logits=False)
        return half_temperature_sensitivity(outputs.log_probs, outputs.entropy, half.log_probs, half.entropy)
