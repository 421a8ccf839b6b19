"""Entropy controls of other papers that still act at ratio 1, as functions of one rollout batch.

Each takes the advantages A, shape `(B, 1)`, and of each token, shape `(B, T)`, the log-probability ln p, the entropy H
in nats and the mask (1 where the token is trained); it returns the advantages that the loss takes instead, `(B, T)`.
Nothing is differentiated through. Sums and ranks go over the whole batch. Values are the papers' where none is said.
"""

import math

import torch


def stare(
    advantages: torch.Tensor,
    logps: torch.Tensor,
    entropies: torch.Tensor,
    mask: torch.Tensor,
    entropy_threshold: float,
    share: float = 0.1,
    weight: float = 1.1,
) -> torch.Tensor:
    """
    STARE (arXiv 2606.19236): while the batch's mean entropy is below the threshold (0.3 in the paper), the `share` of
    the tokens with A > 0 that have the largest −ln p get `weight`, all others 1.
    """
    if (entropies * mask).sum() >= entropy_threshold * mask.sum():
        return advantages.expand_as(logps)  # (B, T)
    candidates = (advantages > 0) & mask.bool()  # (B, T)
    count = int(share * candidates.sum())
    surprisal = torch.where(candidates, -logps, -math.inf)  # (B, T)
    weights = torch.ones_like(logps)  # (B, T)
    weights.view(-1)[surprisal.flatten().topk(count).indices] = weight
    return advantages * weights  # (B, T)


def steer(
    advantages: torch.Tensor,
    logps: torch.Tensor,
    entropies: torch.Tensor,
    mask: torch.Tensor,
    smallest_weight: float = 0.8,
) -> torch.Tensor:
    """
    STEER (arXiv 2510.10150): weight exp(−k·|A·p(1 − p)(ln p + H)|), with k such that the token of the largest estimate
    gets `smallest_weight`. The direction of the entropy change is not used.
    """
    p = logps.exp()  # (B, T)
    change = (advantages * p * (1 - p) * (logps + entropies)).abs() * mask  # (B, T)
    largest = change.max()
    if largest == 0:
        return advantages.expand_as(logps)  # (B, T)
    return advantages * smallest_weight ** (change / largest)  # (B, T)


def repo_r(advantages: torch.Tensor, logps: torch.Tensor, coefficient: float) -> torch.Tensor:
    """
    REPO-R (arXiv 2603.11682): max(A(1 − ζ ln p), 0) where A > 0, min(A(1 + ζ ln p), 0) where A < 0. With ζ > 0 rare
    tokens gain when they are right and lose less when they are wrong, which raises entropy; ζ < 0 lowers it.
    """
    weights = 1 - coefficient * advantages.sign() * logps  # (B, T)
    return advantages * weights.clamp(min=0)  # (B, T)


def next_repo_coefficient(
    coefficient: float, entropy: float, target: float, smallest: float = 1e-4, largest: float = 0.05
) -> float:
    """
    REPO-R's controller: ζ doubled where it already pushes toward the target, up to `largest`, halved where it pushes
    away, and its sign changed where halving would take it below `smallest`.
    """
    wanted = 1 if entropy < target else -1
    if coefficient * wanted > 0:
        return wanted * min(2 * abs(coefficient), largest)
    halved = coefficient / 2
    return halved if abs(halved) >= smallest else wanted * smallest


class RepoR:
    """REPO-R with its ζ, which starts at 1e-3 and is updated by each batch before it is used."""

    def __init__(self, entropy_target: float, coefficient: float = 1e-3):
        self.entropy_target = entropy_target
        self.coefficient = coefficient

    def __call__(
        self, advantages: torch.Tensor, logps: torch.Tensor, entropies: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        entropy = ((entropies * mask).sum() / mask.sum()).item()
        self.coefficient = next_repo_coefficient(self.coefficient, entropy, self.entropy_target)
        return repo_r(advantages, logps, self.coefficient)


def clip_cov(
    advantages: torch.Tensor,
    logps: torch.Tensor,
    entropies: torch.Tensor,
    mask: torch.Tensor,
    generator: torch.Generator,
    share: float = 2e-4,
    bounds: tuple[float, float] = (1.0, 5.0),
) -> torch.Tensor:
    """
    Clip-Cov (arXiv 2505.22617): of the tokens whose (A − Ā)(ln p − mean ln p) lies between the bounds, means over all
    trained tokens, `share` of all trained tokens, at least one, are drawn at random and dropped.
    """
    count = mask.sum()
    covariance = (advantages - (advantages * mask).sum() / count) * (logps - (logps * mask).sum() / count)  # (B, T)
    candidates = ((covariance > bounds[0]) & (covariance < bounds[1]) & mask.bool()).flatten().nonzero().squeeze(-1)
    drawn = torch.randperm(len(candidates), generator=generator)[: max(int(share * count), 1)]
    weights = torch.ones_like(logps)  # (B, T)
    weights.view(-1)[candidates[drawn]] = 0
    return advantages * weights  # (B, T)


class EntroPIC:
    """
    EntroPIC (arXiv 2511.15248): A(1 + α) where A > 0 and A(1 − α) where A < 0. α = I + e is a controller's answer to
    e = H − H*, the batch's mean entropy less the target in nats, and I gains 0.01 e with each batch.
    """

    def __init__(self, entropy_target: float, integral_gain: float = 0.01):
        self.entropy_target = entropy_target
        self.integral_gain = integral_gain
        self.integral = 0.0

    def __call__(
        self, advantages: torch.Tensor, logps: torch.Tensor, entropies: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        error = ((entropies * mask).sum() / mask.sum()).item() - self.entropy_target
        alpha = self.integral + error
        self.integral += self.integral_gain * error
        return (advantages * (1 + alpha * advantages.sign())).expand_as(logps)  # (B, T)


class Entrocraft:
    """
    Entrocraft (arXiv 2604.26326): only right answers (A > 0) are trained on while the batch's mean entropy is above a
    band, only wrong ones while it is below, and all of them inside. The band falls linearly over the run: in the paper
    from 0.6–0.7 nats to 0.4–0.5, here its middle from `start` to `end`. `width` is half of it, relative to the middle.
    """

    def __init__(self, start: float, end: float, steps: int, width: float = 0.1):
        self.start, self.end, self.steps, self.width = start, end, steps, width
        self.step = 0

    def __call__(
        self, advantages: torch.Tensor, logps: torch.Tensor, entropies: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        middle = self.start + (self.end - self.start) * min(self.step / self.steps, 1.0)
        self.step += 1
        entropy = ((entropies * mask).sum() / mask.sum()).item()
        if entropy > middle * (1 + self.width):
            advantages = advantages.clamp(min=0)
        elif entropy < middle * (1 - self.width):
            advantages = advantages.clamp(max=0)
        return advantages.expand_as(logps)  # (B, T)


def random_drop(
    advantages: torch.Tensor,
    logps: torch.Tensor,
    entropies: torch.Tensor,
    mask: torch.Tensor,
    generator: torch.Generator,
    share: float = 0.2,
) -> torch.Tensor:
    """A control of ours: each token is dropped with probability `share`, whatever it would do to the entropy."""
    return advantages * (torch.rand(logps.shape, generator=generator) >= share)  # (B, T)
