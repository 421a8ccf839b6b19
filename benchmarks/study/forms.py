"""Other forms of OPEFO's coefficient than the package's, as functions of one rollout batch.

Each takes a [`Batch`], and returns the factors of the advantages of the tokens that raise entropy and of those that
lower it, each a 0-d tensor, `(B, 1)` or `(B, T)`. No factor leaves 1 by more than the package's default bound, so that
what differs is the form alone.
"""

from typing import NamedTuple

import torch

from opefo_trl.entropy_flow import balance_coefficient


BOUND = 0.5
GAIN = 4.0  # of a target, the package's default
FORK_SHARE = 0.2  # of the trained tokens: those of highest entropy, as in 80/20
Factors = tuple[torch.Tensor, torch.Tensor]


class Batch(NamedTuple):
    """
    What a form sees of a rollout batch.

    Args:
        flow (`torch.Tensor` of shape `(B, T)`):
            c·A·s of each token, 0 where it is not trained.
        advantages (`torch.Tensor` of shape `(B, 1)`):
            A of each completion.
        entropies (`torch.Tensor` of shape `(B, T)`):
            H of each token in nats.
        mask (`torch.Tensor` of shape `(B, T)`):
            1 where the token is trained.
    """

    flow: torch.Tensor
    advantages: torch.Tensor
    entropies: torch.Tensor
    mask: torch.Tensor

    @property
    def entropy(self) -> float:
        """Mean entropy of a trained token, in nats."""
        return ((self.entropies * self.mask).sum() / self.mask.sum()).item()


def sides(flow: torch.Tensor, dim: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """P and N, over everything or over one dimension that is kept."""
    increase, decrease = flow.clamp(min=0), -flow.clamp(max=0)  # (B, T)
    if dim is None:
        return increase.sum(), decrease.sum()
    return increase.sum(dim, keepdim=True), decrease.sum(dim, keepdim=True)


def bounded(coefficient: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(coefficient).clamp(-BOUND, BOUND)


def both_sides(coefficient: torch.Tensor) -> Factors:
    return 1 + coefficient, 1 - coefficient


def overbalanced(batch: Batch, strength: float = 1.5) -> Factors:
    """λ times 1.5: on Countdown λ is two thirds of what cancels the flow through shared weights (prediction study)."""
    return both_sides(bounded(strength * balance_coefficient(*sides(batch.flow))))


def raise_only(batch: Batch) -> Factors:
    """The raising side alone: (1 + λ) P = N."""
    increase, decrease = sides(batch.flow)
    return 1 + bounded((decrease - increase) / increase), torch.ones_like(increase)


def lower_only(batch: Batch) -> Factors:
    """The lowering side alone: P = (1 − λ) N."""
    increase, decrease = sides(batch.flow)
    return torch.ones_like(increase), 1 - bounded((decrease - increase) / decrease)


def per_sequence(batch: Batch) -> Factors:
    """A λ for each completion, which cancels its own two flows."""
    return both_sides(bounded(balance_coefficient(*sides(batch.flow, dim=-1))))


class Smoothed:
    """λ from P and N that are averaged over about ten batches, as AdamW averages their gradients."""

    def __init__(self, decay: float = 0.9):
        self.decay = decay
        self.sums: torch.Tensor | None = None

    def __call__(self, batch: Batch) -> Factors:
        new = torch.stack(sides(batch.flow))  # (2,)
        # The first batch is the whole average
        self.sums = new if self.sums is None else self.decay * self.sums + (1 - self.decay) * new
        return both_sides(bounded(balance_coefficient(*self.sums)))


class Integral:
    """
    The entropy target with an integral term: λ = λ_balance + g·e + g_I·Σe with e = (H* − H̄) / H* and the sum over the
    batches so far, which does not go on where λ is at its bound.
    """

    def __init__(self, target: float, gain: float = 2.0, integral_gain: float = 0.05):
        self.target, self.gain, self.integral_gain = target, gain, integral_gain
        self.total = 0.0

    def __call__(self, batch: Batch) -> Factors:
        error = (self.target - batch.entropy) / self.target
        total = self.total + error
        coefficient = balance_coefficient(*sides(batch.flow)) + self.gain * error + self.integral_gain * total
        if abs(coefficient) < BOUND:
            self.total = total
        return both_sides(bounded(coefficient))


def with_target(batch: Batch, target: float) -> torch.Tensor:
    """λ as the package has it with an entropy target: λ_balance + g·(H* − H̄) / H*."""
    return bounded(balance_coefficient(*sides(batch.flow)) + GAIN * (target - batch.entropy) / target)


class Schedule:
    """A target that goes linearly from `start` to `end` within `steps` batches."""

    def __init__(self, start: float, end: float, steps: int):
        self.start, self.end, self.steps = start, end, steps
        self.step = 0

    def __call__(self, batch: Batch) -> Factors:
        target = self.start + (self.end - self.start) * min(self.step / self.steps, 1.0)
        self.step += 1
        return both_sides(with_target(batch, target))


def by_failure(batch: Batch, target: float) -> Factors:
    """
    The λ of a target times 2 · (1 − q) for a group of which a share q is right: it lets go of what is solved and holds
    what fails (AER, arXiv 2510.10959, has a coefficient per difficulty). With rewards of 0 and 1 that are scaled by
    their deviation, q follows from A: 1 / (1 + A²) of a right answer, A² / (1 + A²) of a wrong one.
    """
    squares = batch.advantages**2  # (B, 1)
    solved = torch.where(batch.advantages > 0, 1.0, squares) / (1 + squares)  # (B, 1)
    return both_sides(bounded(with_target(batch, target) * 2 * (1 - solved)))


def wrong_only(batch: Batch, target: float) -> Factors:
    """The λ of a target over all tokens, applied to wrong answers alone."""
    return both_sides(with_target(batch, target) * (batch.advantages < 0))


def forks_only(batch: Batch, target: float) -> Factors:
    """
    The balance and the target with the tokens of highest entropy alone: their λ cancels the whole batch's flow,
    (1 + λ) P_f + P_r = (1 − λ) N_f + N_r.
    """
    trained = batch.mask.bool()
    threshold = batch.entropies[trained].float().quantile(1 - FORK_SHARE)
    forks = trained & (batch.entropies >= threshold)  # (B, T)
    increase, decrease = sides(batch.flow)
    coefficient = (decrease - increase) / (batch.flow * forks).abs().sum()
    return both_sides(bounded(coefficient + GAIN * (target - batch.entropy) / target) * forks)
