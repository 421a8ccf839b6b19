"""ln p, H and the entropy sensitivity of every completion token, in one pass through the model."""

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import trl.trainer.utils
from transformers import PreTrainedModel

from .. import TESTED_TRL
from .mathematics import paper_sensitivity, sampled_sensitivity
from .projection import TokenFlow, project_flow


_Estimate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Estimates from ln p and H alone; "exact" needs sums over the vocabulary
_ESTIMATES: dict[str, _Estimate | None] = {"exact": None, "sampled": sampled_sensitivity, "paper": paper_sensitivity}
# Argument names of TRL's projection, and those of `project_flow`. Which outputs TRL asks for does not matter
_ARGUMENTS = {
    "hidden": "hidden",
    "weight": "weight",
    "bias": "bias",
    "targets": "tokens",
    "temperature": "temperature",
    "chunk_size": "vocab_tile",
    "final_logit_softcapping": "softcap",
    "logit_scale": "logit_scale",
    "sampling_mask": "candidates",
}
_IGNORED = ("ctx", "outputs")
_signature = functools.cache(inspect.signature)


class FlowHead:
    """
    Records log-probabilities, entropies and entropy sensitivities on selected forward passes, without ever creating
    the (tokens × vocabulary) logits. On all other passes, the model's forward runs unchanged.

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
            with _flow_projection(_ESTIMATES[self._estimator]):
                outputs = fused_forward(model, *args, **kwargs)
            sensitivities, outputs.log_sum_sq_probs = outputs.log_sum_sq_probs, None
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
                Sequences to record. Later passes through the same model are not recorded, such as the reference pass
                of a LoRA policy with its adapter off.

        Yields:
            `list[TokenFlow]`: filled chunk by chunk, in the order of the passes.
        """
        self._rows_left, self._chunks = rows, []
        try:
            yield self._chunks
        finally:
            self._rows_left, self._chunks = 0, []


def as_columns(chunks: list[TokenFlow], num_tokens: int) -> dict[str, torch.Tensor]:
    """Recorded chunks as columns of a batch with `num_tokens` completion tokens, `(B, T)` each."""
    return {
        f"flow_{name}": torch.cat([values[:, -num_tokens:] for values in column])
        for name, column in zip(TokenFlow._fields, zip(*chunks, strict=True), strict=True)
    }


def _known_arguments(function: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """
    Translate the arguments of a call of TRL's projection into those of [`project_flow`], by name.

    Raises:
        `TypeError`: if TRL passes another argument that may change the result.
    """
    bound = _signature(function.forward).bind(None, *args)  # None for `ctx`
    bound.apply_defaults()
    for name, value in bound.arguments.items():
        if name not in _ARGUMENTS and name not in _IGNORED:
            default = bound.signature.parameters[name].default
            if isinstance(value, torch.Tensor) or value != default:
                raise TypeError(
                    f"The fused LM head of TRL {trl.__version__} passes `{name}`, which OPEFO does not know, so it "
                    "cannot measure the entropy flow. Leave the setting behind this argument at its default, or "
                    f"install a release of TRL that OPEFO is tested with ({' to '.join(TESTED_TRL)})."
                )
    return {ours: bound.arguments[theirs] for theirs, ours in _ARGUMENTS.items() if theirs in bound.arguments}


def _project(original: Any, estimate: _Estimate | None, *args: Any) -> tuple[torch.Tensor | None, ...]:
    """Replaces the projection that TRL's fused LM head calls, and returns the sensitivities with its outputs."""
    arguments = _known_arguments(original, args)
    if estimate is not None and arguments.get("candidates") is None:
        logps, entropies, _, *rest = original.apply(*args)
        return logps, entropies, estimate(logps, entropies), *rest
    # The estimates need ln p over the whole vocabulary. For a truncated sampler, TRL gives ln p over its candidates
    flow = project_flow(**arguments, estimate=estimate)
    # The sensitivities take the place of an output that GRPO never asks for
    return flow.logps, flow.entropies, flow.sensitivities, None, None


@contextmanager
def _flow_projection(estimate: _Estimate | None) -> Iterator[None]:
    """
    Make TRL's fused LM head return sensitivities, exact or estimated. TRL still decides which positions are scored,
    how a sharded head is gathered, and the dtype, temperature, soft-capping, logit scale and sampling mask.
    """
    original = trl.trainer.utils._ChunkedLogProbFunction
    projection = types.SimpleNamespace(apply=functools.partial(_project, original, estimate))
    trl.trainer.utils._ChunkedLogProbFunction = projection  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        trl.trainer.utils._ChunkedLogProbFunction = original  # type: ignore[misc]
