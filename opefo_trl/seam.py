"""
Checks at each step that the loss trains what OPEFO measured.

At ratio 1, the gradient of every TRL loss type with respect to ln p is −c·A' per token, plus terms that are computed
separately. The derivative of the returned loss therefore shows whether advantages per token are used, whether c is
right, whether the ratio is 1, and whether the log-probabilities are TRL's. This works for any release of TRL and for
any subclass.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import trl
from accelerate.logging import get_logger
from trl import GRPOTrainer

from . import TESTED_TRL
from .config import OPEFOConfig
from .entropy_flow.projection import TokenFlow
from .entropy_flow.weights import loss_gradient, spread_over_sequence
from .guards import RunStopped


if TYPE_CHECKING:
    Base = GRPOTrainer
else:
    Base = object  # what the mixin is mixed with

logger = get_logger(__name__)

# Largest allowed deviation, as a share of the largest −c·A'. Rounding gives about 1e-6, a wrong loss more than 1e-2
TOLERANCE = 1e-4


class SeamProof(Base):
    """
    Mixin for a [`~trl.GRPOTrainer`]: records the inputs of its loss, and compares the derivative of the loss with its
    expected value. The largest deviation stays on the device until the trainer reads it.
    """

    args: OPEFOConfig
    # Of the current micro-batch, (B, T) each
    _loss_logps: torch.Tensor | None = None
    _entropy_mask: torch.Tensor | None = None
    _largest_error: torch.Tensor | None = None
    _is_balanced = False
    # Of the current rollout batch
    _measured_advantages: Sequence[torch.Tensor] = ()

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple:
        outputs = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if torch.is_grad_enabled():
            self._loss_logps = outputs[0]
        return outputs

    def get_high_entropy_mask(self, entropies: torch.Tensor, mask: torch.Tensor, threshold: float) -> torch.Tensor:
        self._entropy_mask = super().get_high_entropy_mask(entropies, mask, threshold)  # (B, T)
        return self._entropy_mask

    def _spread_high_entropy_mask(self, entropies: torch.Tensor, mask: torch.Tensor, threshold: float) -> torch.Tensor:
        """`get_high_entropy_mask` as sequence-level importance sampling applies it, shape `(B, T)`."""
        kept = type(self).get_high_entropy_mask(self, entropies, mask, threshold)  # (B, T)
        self._entropy_mask = spread_over_sequence(kept, mask, self.args.loss_type) * mask  # (B, T)
        return self._entropy_mask

    def _prove_loss(self, loss: torch.Tensor, inputs: dict[str, Any]) -> None:
        """
        Compare the gradient of one micro-batch's loss with its expected value at ratio 1.

        Args:
            loss (`torch.Tensor`, 0-d):
                Loss, with its graph.
            inputs (`dict[str, Any]`):
                Micro-batch that the loss was computed from, with the advantages A' that it received.
        """
        logps, self._loss_logps = self._loss_logps, None
        if logps is None:
            error = torch.full((), math.inf, device=loss.device)
        else:
            processes = self.accelerator.num_processes
            expected = loss_gradient(inputs, self.args, processes, logps.detach(), self._entropy_mask)  # (B, T)
            error = seam_error(loss, logps, expected / self.current_gradient_accumulation_steps)
        self._largest_error = error if self._largest_error is None else torch.maximum(self._largest_error, error)

    def _check_buffered(self, inputs: dict[str, Any], micro_batches: list[dict[str, Any]]) -> None:
        """Raise [`RunStopped`] unless the batch to train on is one of those that TRL holds."""
        if not any(inputs is micro_batch for micro_batch in micro_batches):
            raise RunStopped(
                f"`_prepare_inputs` of {defined_in(self, '_prepare_inputs')} returns batches that are not in "
                "`_buffered_inputs`, so OPEFO cannot measure the rollout batch as a whole. Create them in "
                "`_generate_and_score_completions` instead."
            )

    def _check_recorded(self, chunks: list[TokenFlow]) -> None:
        """Raise [`RunStopped`] unless a forward pass of the policy was recorded."""
        if not chunks:
            method = "_get_per_token_logps_and_entropies"
            raise RunStopped(
                f"`{method}` of {defined_in(self, method)} does not call the model with `fused_lm_head=True`, as "
                "TRL's method does, so OPEFO cannot measure the policy. Call `super()` in it."
            )

    def _check_measured(self, inputs: dict[str, Any]) -> None:
        """Raise [`RunStopped`] unless the advantages for the loss are those that were measured."""
        if not any(inputs["advantages"] is measured for measured in self._measured_advantages):
            raise RunStopped(
                f"{type(self).__name__} passes advantages to `compute_loss` that OPEFO has not measured, so λ does "
                "not fit them. Change them in `_generate_and_score_completions` instead; (B, T) is allowed."
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise [`RunStopped`] if the loss of a subclass fails on advantages of shape `(B, T)`."""
        try:
            yield
        except RuntimeError as error:
            owner = defined_in(self, "_compute_loss")
            if type(error) is not RuntimeError or owner == GRPOTrainer.__name__ or not self.args.balances:
                raise
            raise RunStopped(
                f"The loss of {owner} fails on `advantages` of shape (B, T), which OPEFO passes instead of (B,) "
                f"({error}). Accept both shapes, as TRL's loss does, or only monitor, with `flow_strength=0` and no "
                "entropy target."
            ) from error

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._is_balanced = False
        loss = super().training_step(*args, **kwargs)
        if not self._is_balanced:
            raise RunStopped(
                f"`compute_loss` of {defined_in(self, 'compute_loss')} does not call `super().compute_loss`, so the "
                "entropy flow was not balanced. Call it, or write `class Mine(EntropyFlowMixin, Theirs)`."
            )
        return loss


def seam_error(loss: torch.Tensor, logps: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """
    Largest deviation of ∂loss/∂ln p from its expected value, as a fraction of the largest expected value.

    The backward pass goes from the loss only to ln p: a few operations on `(B, T)` tensors.

    Args:
        loss (`torch.Tensor`, 0-d):
            Loss of one micro-batch, with its graph, which is kept.
        logps (`torch.Tensor` of shape `(B, T)`):
            ln p in that graph.
        expected (`torch.Tensor` of shape `(B, T)`):
            Expected derivative.

    Returns:
        `torch.Tensor`, 0-d, float32: infinite if the loss does not depend on `logps`.
    """
    gradient = None
    if loss.requires_grad:
        (gradient,) = torch.autograd.grad(loss, logps, retain_graph=True, allow_unused=True)
    if gradient is None:
        return torch.full((), math.inf, device=loss.device)
    deviation, largest = (gradient - expected).abs().amax(), expected.abs().amax()
    return torch.where(deviation == 0, 0.0, deviation / largest).float()


def check_seam(error: float, trainer: object, is_monitor: bool, step: int) -> None:
    """
    Stop the run if a [`seam_error`] is larger than rounding. If the trainer only monitors, warn instead.

    Raises:
        `RunStopped`: if it is larger than rounding, and the trainer balances.
    """
    if error <= TOLERANCE:
        return
    found = (
        f"The loss of {defined_in(trainer, '_compute_loss')} (TRL {trl.__version__}; OPEFO is tested with "
        f"{' to '.join(TESTED_TRL)}) does not train what OPEFO measured: at step {step} its gradient is off by "
        f"{error:.2g} of the largest −c·A'."
    )
    if is_monitor:
        logger.warning(f"{found} The logged flows are those of GRPO's loss, not of this one.")
        return
    raise RunStopped(
        f"{found} It must use `advantages` of shape (B, T) unchanged, weight tokens as TRL's loss does, and take "
        "log-probabilities from `_get_per_token_logps_and_entropies` (to only monitor, which works with any loss, set "
        "`flow_strength=0` and no entropy target)."
    )


def defined_in(trainer: object, method: str) -> str:
    """Name of the class that defines a method of a trainer, ignoring the classes of this package."""
    classes = [cls for cls in type(trainer).__mro__ if not cls.__module__.startswith(f"{__package__}.")]
    return next(cls.__name__ for cls in classes if method in vars(cls))
