"""The metrics of each rollout batch, read from the device once per optimizer step."""

from typing import TYPE_CHECKING

import torch

from .config import OPEFOConfig
from .guards import check_counts
from .seam import check_seam


if TYPE_CHECKING:
    from trl import GRPOTrainer as Base
else:
    Base = object  # what the mixin is mixed with

NAMES = ("increase", "decrease", "net", "coefficient", "increase_share", "skipped")


class FlowMetrics(Base):
    """
    Mixin for a [`~trl.GRPOTrainer`]. Metrics stay on the device until the last micro-batch before an optimizer step.
    Then the host reads those of all rollout batches since the last step in one transfer, checks and logs them.

    Logged beside TRL's metrics, once per rollout batch:

    - `entropy_flow/increase` (P) and `entropy_flow/decrease` (N), in nats per unit step, before balancing;
    - `entropy_flow/net`: (P − N) / (P + N), before balancing;
    - `entropy_flow/coefficient`: λ, as applied;
    - `entropy_flow/increase_share`: share of the trained tokens that raise entropy;
    - `entropy_flow/skipped`: trained tokens whose entropy or flow is NaN or infinite. Their advantages stay unchanged,
      and the balance does not count them;
    - `entropy_flow/target`: H* in nats per token, if one is set;
    - `entropy_flow/seam_error`: largest deviation of the loss's gradient from −c·A' in this process, as a fraction of
      the largest value. Logged once per optimizer step, if training is on-policy.
    """

    args: OPEFOConfig
    entropy_target: float | None
    _unread: tuple[torch.Tensor, ...] = ()  # of each rollout batch, (8,)
    _largest_error: torch.Tensor | None

    def _keep_metrics(self, *values: torch.Tensor) -> None:
        """Keep the metrics in `NAMES`, and the numbers of lost tokens and infinite rewards of a batch, 0-d each."""
        self._unread += (torch.stack(values),)

    def _read_metrics(self) -> None:
        """
        Check and log the kept metrics before an optimizer step.

        Raises:
            `RunStopped`: if the loss is not finite at a token, or does not train what was measured.
        """
        if not self._unread or not self.accelerator.sync_gradients:
            return
        error = self._unread[0].new_zeros(()) if self._largest_error is None else self._largest_error
        *rows, (seam_error, *_) = torch.stack([*self._unread, error.expand_as(self._unread[0])]).tolist()
        self._unread, self._largest_error = (), None
        step, log = self.state.global_step, self._metrics["train"]
        for *metrics, num_lost, num_infinite in rows:
            check_counts(num_lost, num_infinite, step)
            for name, value in zip(NAMES, metrics, strict=True):
                log[f"entropy_flow/{name}"].append(value)
            if self.entropy_target is not None:
                log["entropy_flow/target"].append(self.entropy_target)
        if self.args.is_on_policy:
            check_seam(seam_error, self, is_monitor=not self.args.balances, step=step)
            log["entropy_flow/seam_error"].append(seam_error)
