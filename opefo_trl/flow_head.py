"""ln p, H and the entropy sensitivity of every completion token, in one pass through the model."""

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import trl.trainer.utils
from transformers import PreTrainedModel

from .entropy_flow import paper_sensitivity, sampled_sensitivity
from .flow_projection import TokenFlow, project_flow


class FlowHead:
    """
    Records log-probabilities, entropies and entropy sensitivities on the passes it is told to, without ever making the
    (tokens × vocabulary) logits. On every other pass the model's forward runs untouched.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model, not wrapped by PEFT, that already has TRL's fused LM head.
        estimator (`str`):
            `"exact"`, `"sampled"` or `"paper"`.
    """

    def __init__(self, model: PreTrainedModel, estimator: str):
        self._estimator = estimator
        self._rows_left = 0
        self._chunks: list[TokenFlow] = []
        # Unbound, so that a copy of the model runs on its own weights
        fused_forward = cast(types.MethodType, model.forward).__func__

        # Keep the original signature: `generate` validates its model kwargs against it
        @functools.wraps(type(model).forward)
        def forward(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
            if self._rows_left == 0 or not kwargs.get("fused_lm_head", False):
                return fused_forward(model, *args, **kwargs)
            if self._estimator == "exact":
                with _flow_projection():
                    outputs = fused_forward(model, *args, **kwargs)
                sensitivities, outputs.log_sum_sq_probs = outputs.log_sum_sq_probs, None
            else:
                outputs = fused_forward(model, *args, **kwargs)
                estimate = {"sampled": sampled_sensitivity, "paper": paper_sensitivity}[self._estimator]
                sensitivities = estimate(outputs.log_probs, outputs.entropy)
            # 0 where the label is ignored
            self._chunks.append(TokenFlow(outputs.log_probs, outputs.entropy, sensitivities))  # (B, L) each
            self._rows_left = max(0, self._rows_left - sensitivities.size(0))
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


class _FlowFunction:
    """Stands where TRL's fused LM head calls its own projection, and returns the sensitivities with the rest."""

    @staticmethod
    def apply(
        hidden: torch.Tensor,  # (N, D)
        weight: torch.Tensor,  # (V, D)
        bias: torch.Tensor | None,  # (V,)
        tokens: torch.Tensor,  # (N,)
        temperature: float,
        vocab_tile: int,
        softcap: float | None,
        logit_scale: float,
        outputs: tuple[str, ...],
    ) -> tuple[torch.Tensor | None, ...]:
        flow = project_flow(hidden, weight, bias, tokens, temperature, vocab_tile, softcap, logit_scale)
        # In the place of an output that GRPO never asks for
        return flow.logps, flow.entropies, flow.sensitivities, None, None


@contextmanager
def _flow_projection() -> Iterator[None]:
    """
    Within, TRL's fused LM head projects with [`project_flow`]. Which positions are scored, how a sharded head is
    gathered, dtype, temperature, soft-capping and logit scale all stay TRL's.
    """
    original = trl.trainer.utils._ChunkedLogProbFunction
    trl.trainer.utils._ChunkedLogProbFunction = _FlowFunction  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        trl.trainer.utils._ChunkedLogProbFunction = original  # type: ignore[misc]
