"""Other forms of OPEFO's coefficient than the package's, as functions of one rollout batch.

Each takes the flow c·A·s of every token, shape `(B, T)`, and the batch's mean token entropy in nats, and returns the
factors of the advantages of the tokens that raise entropy and of those that lower it, each a 0-d tensor or `(B, 1)`.
No factor leaves 1 by more than the package's default bound, so that what differs is the form alone.
"""

import torch

from opefo_trl.entropy_flow import balance_coefficient


BOUND = 0.5
Factors = tuple[torch.Tensor, torch.Tensor]


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


def overbalanced(flow: torch.Tensor, entropy: float, strength: float = 1.5) -> Factors:
    """λ times 1.5: on Countdown λ is two thirds of what cancels the flow through shared weights (prediction study)."""
    return both_sides(bounded(strength * balance_coefficient(*sides(flow))))


def raise_only(flow: torch.Tensor, entropy: float) -> Factors:
    """The raising side alone: (1 + λ) P = N."""
    increase, decrease = sides(flow)
    return 1 + bounded((decrease - increase) / increase), torch.ones_like(increase)


def lower_only(flow: torch.Tensor, entropy: float) -> Factors:
    """The lowering side alone: P = (1 − λ) N."""
    increase, decrease = sides(flow)
    return torch.ones_like(increase), 1 - bounded((decrease - increase) / decrease)


def per_sequence(flow: torch.Tensor, entropy: float) -> Factors:
    """A λ for each completion, which cancels its own two flows."""
    return both_sides(bounded(balance_coefficient(*sides(flow, dim=-1))))


class Smoothed:
    """λ from P and N that are averaged over about ten batches, as AdamW averages their gradients."""

    def __init__(self, decay: float = 0.9):
        self.decay = decay
        self.sums: torch.Tensor | None = None

    def __call__(self, flow: torch.Tensor, entropy: float) -> Factors:
        new = torch.stack(sides(flow))  # (2,)
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

    def __call__(self, flow: torch.Tensor, entropy: float) -> Factors:
        error = (self.target - entropy) / self.target
        total = self.total + error
        coefficient = balance_coefficient(*sides(flow)) + self.gain * error + self.integral_gain * total
        if abs(coefficient) < BOUND:
            self.total = total
        return both_sides(bounded(coefficient))
