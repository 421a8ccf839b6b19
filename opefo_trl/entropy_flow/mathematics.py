"""The mathematics of entropy flow: pure functions of tensors that need only torch.

Notation, per token of a completion: π is the policy at the sampling temperature, a the sampled token, p = π(a),
H = −Σ_j π_j ln π_j the entropy in nats, A the advantage and c ≥ 0 the weight of the token in the loss. No gradient is
needed: call these functions on detached tensors or under `torch.no_grad`.
"""

import torch


# Replaces −inf, since −inf − (−inf) is NaN; e^(z − m) is 0 for both
LOWEST_LOGIT = -1e30


def entropy_sensitivity(
    logits: torch.Tensor, tokens: torch.Tensor, candidates: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Change of entropy at a position per unit policy-gradient step on its sampled token, from full logits.

    A step moves the logits by η (e_a − π̃), where π̃ is the policy that the token was drawn from: π itself, or π
    restricted to the candidates S of a truncated sampler (top-k, top-p, min-p) and normalized there. H stays the
    entropy of the whole vocabulary, ∂H/∂z_j = −π_j (ln π_j + H), so it moves by η s to first order, with

        s = −[p (ln p + H) − Σ_{j∈S} π̃_j π_j (ln π_j + H)]

    s > 0 means that reinforcing the token raises entropy. This is the definition that the estimators below are tested
    against; training never creates the (tokens × vocabulary) tensor that it needs.

    Args:
        logits (`torch.Tensor` of shape `(*, V)`):
            Logits divided by the sampling temperature.
        tokens (`torch.Tensor` of shape `(*)`):
            Sampled token ids.
        candidates (`torch.Tensor` of shape `(*, K)`, *optional*):
            Token ids of S, padded with −1. Without them, and at a position where all are −1, S is the whole
            vocabulary.

    Returns:
        `torch.Tensor` of shape `(*)`, in nats per unit step, float32 or wider.
    """
    log_pi = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)  # (*, V)
    pi = log_pi.exp()
    sampler = pi if candidates is None else log_pi.masked_fill(~_among(candidates, pi), -torch.inf).softmax(-1)
    # π ln π is 0 where a token is impossible (logit −inf)
    surprisal = torch.where(pi > 0, log_pi, 0.0)  # (*, V)
    entropies = -(pi * surprisal).sum(-1)  # (*)
    logps = log_pi.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)  # (*)
    mean_term = (sampler * pi * (surprisal + entropies.unsqueeze(-1))).sum(-1)  # (*)
    return mean_term - logps.exp() * (logps + entropies)


def _among(candidates: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Which entries of `(*, V)` logits are candidates; all of them where no candidate is known."""
    vocab = logits.size(-1)
    chosen = logits.new_zeros(*logits.shape[:-1], vocab + 1, dtype=torch.bool)  # (*, V + 1), the last for padding
    chosen.scatter_(-1, torch.where(candidates < 0, vocab, candidates), True)
    chosen = chosen[..., :vocab]  # (*, V)
    return chosen | ~chosen.any(-1, keepdim=True)


def flow_from_sums(
    target: torch.Tensor,
    exp_sum: torch.Tensor,
    shifted_sum: torch.Tensor,
    square_sum: torch.Tensor,
    shifted_square_sum: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Entropy and the value of [`entropy_sensitivity`] from sums that one pass over the logits z accumulates.

    With m the largest z and e_j = exp(z_j − m),

        ln π_j = z_j − m − ln Σe       H = ln Σe − Σe(z − m) / Σe
        Σπ² = Σe² / (Σe)²              Σπ² ln π = Σe²(z − m) / (Σe)² − ln Σe · Σπ²

    Using z − m instead of z keeps float32's precision where the logits are large.

    Args:
        target (`torch.Tensor`):
            z_a − m of the sampled token a, any shape.
        exp_sum, shifted_sum, square_sum, shifted_square_sum (`torch.Tensor`, same shape):
            Σe, Σe(z − m), Σe² and Σe²(z − m) over the vocabulary.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: H in nats and s in nats per unit step, both of the same shape.
    """
    log_sum = exp_sum.log()
    entropies = log_sum - shifted_sum / exp_sum
    mean_term = _square_term(exp_sum, square_sum, shifted_square_sum, entropies)
    # p ln p is 0 where the token is impossible
    logps = target.clamp(min=LOWEST_LOGIT) - log_sum
    return entropies, mean_term - logps.exp() * (logps + entropies)


def truncated_flow_from_sums(
    target: torch.Tensor,
    exp_sum: torch.Tensor,
    shifted_sum: torch.Tensor,
    candidate_maximum: torch.Tensor,
    candidate_exp_sum: torch.Tensor,
    candidate_square_sum: torch.Tensor,
    candidate_shifted_square_sum: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    As [`flow_from_sums`], for tokens drawn from the candidates S of a truncated sampler.

    In the sums over S, m is the largest z in S. With π̃_j = π_j / μ the policy on S and μ = Σ_{j∈S} π_j,

        Σ_{j∈S} π̃_j π_j (ln π_j + H) = μ Σ_{j∈S} π̃_j² (ln π̃_j + ln μ + H)

    which loses no precision where S has little of the policy's probability.

    Args:
        target, exp_sum, shifted_sum (`torch.Tensor`):
            As in [`flow_from_sums`], over the whole vocabulary.
        candidate_maximum (`torch.Tensor`, same shape):
            Largest z in S, minus the largest z of the vocabulary.
        candidate_exp_sum, candidate_square_sum, candidate_shifted_square_sum (`torch.Tensor`, same shape):
            Σe, Σe² and Σe²(z − m) over S.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: H of the whole vocabulary in nats and s in nats per unit step.
    """
    log_sum = exp_sum.log()
    entropies = log_sum - shifted_sum / exp_sum
    log_mass = candidate_maximum + (candidate_exp_sum.log() - log_sum)
    mean_term = log_mass.exp() * _square_term(
        candidate_exp_sum, candidate_square_sum, candidate_shifted_square_sum, entropies + log_mass
    )
    logps = target.clamp(min=LOWEST_LOGIT) - log_sum
    return entropies, mean_term - logps.exp() * (logps + entropies)


def _square_term(
    exp_sum: torch.Tensor, square_sum: torch.Tensor, shifted_square_sum: torch.Tensor, constant: torch.Tensor
) -> torch.Tensor:
    """Σπ² (ln π + constant)."""
    sum_square = square_sum / exp_sum.square()
    return shifted_square_sum / exp_sum.square() + sum_square * (constant - exp_sum.log())


def sampled_sensitivity(logps: torch.Tensor, entropies: torch.Tensor) -> torch.Tensor:
    """
    Sensitivity without its sum over the vocabulary: s = −p (ln p + H), in nats per unit step.

    The dropped sum is, up to its sign, the mean of this form over sampled tokens. It is the same for every token at a
    position.
    """
    return -logps.exp() * (logps + entropies)


def paper_sensitivity(logps: torch.Tensor, entropies: torch.Tensor) -> torch.Tensor:
    """
    The paper's estimate as a value per sampled token: s = −(1 − p)² (ln p + H), in nats per unit step.

    Reconstructed from a published numeric example of OPEFO (arXiv 2605.11491), not from its authors' code, which they
    have not published.
    """
    return -(1 - logps.exp()).square() * (logps + entropies)


def flow_sums(
    weights: torch.Tensor,
    advantages: torch.Tensor,
    sensitivities: torch.Tensor,
    entropies: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """
    The sums that give λ and the metrics of a batch. They add up over micro-batches and processes.

    Args:
        weights (`torch.Tensor` of shape `(B, T)`):
            Weight c of each token in the loss.
        advantages (`torch.Tensor` of shape `(B, 1)` or `(B, T)`):
            Advantages A.
        sensitivities, entropies (`torch.Tensor` of shape `(B, T)`):
            Entropy sensitivity s in nats per unit step, and H in nats.
        mask (`torch.Tensor` of shape `(B, T)`, bool):
            Whether the token is trained.

    Returns:
        `torch.Tensor` of shape `(7,)`: P, N, the numbers of tokens that raise entropy, that are trained, and that are
        skipped because their flow or entropy is not finite, the summed entropy in nats, the tokens in that sum.
    """
    flow = weights * advantages * sensitivities  # (B, T)
    is_known = flow.isfinite() & entropies.isfinite()  # (B, T)
    flow = torch.where(is_known, flow, 0.0)
    is_counted = mask & entropies.isfinite()  # (B, T)
    return torch.stack(
        [
            flow.clamp(min=0).sum(),
            -flow.clamp(max=0).sum(),
            (flow > 0).float().sum(),
            (weights > 0).float().sum(),
            (mask & ~is_known).float().sum(),
            torch.where(is_counted, entropies, 0.0).sum(),
            is_counted.float().sum(),
        ]
    )


def balance_coefficient(increase: torch.Tensor, decrease: torch.Tensor) -> torch.Tensor:
    """
    λ that makes the two flows cancel: (1 + λ) P = (1 − λ) N, so λ = (N − P) / (N + P); 0 where both are 0.

    Args:
        increase, decrease (`torch.Tensor`):
            P = Σ_{d>0} c·d and N = Σ_{d<0} c·|d|, both ≥ 0, any shape.

    Returns:
        `torch.Tensor` of the same shape, in [−1, 1].
    """
    total = decrease + increase
    return torch.where(total > 0, (decrease - increase) / total, torch.zeros_like(total))


def flow_coefficient(
    increase: torch.Tensor,
    decrease: torch.Tensor,
    entropy: torch.Tensor,
    strength: float,
    max_coefficient: float,
    entropy_target: float | None = None,
    entropy_gain: float = 0.0,
) -> torch.Tensor:
    """
    Coefficient of one update: λ = clip(strength · λ_balance + gain · (H* − H̄) / H*, −λ_max, λ_max).

    The first term is the rule of OPEFO (arXiv 2605.11491). The second is an addition of this package: the rule keeps
    entropy constant only to first order, and cannot restore it once it is lost.

    Args:
        increase, decrease (`torch.Tensor`, 0-d):
            Increasing and decreasing entropy flow, P and N.
        entropy (`torch.Tensor`, 0-d):
            Mean token entropy H̄ in nats. NaN if no token was trained; the target term is then left out.
        strength (`float`):
            Fraction of the correction to apply, in [0, 1].
        max_coefficient (`float`):
            Bound λ_max on |λ|; below 1 every token keeps the sign of its advantage.
        entropy_target (`float`, *optional*):
            H* in nats per token. Without it the target term is absent.
        entropy_gain (`float`, *optional*, defaults to `0.0`):
            Gain of the target term, dimensionless.

    Returns:
        `torch.Tensor`, 0-d, in [−λ_max, λ_max].
    """
    coefficient = strength * balance_coefficient(increase, decrease)
    if entropy_target is not None:
        coefficient = coefficient + torch.nan_to_num(entropy_gain * (entropy_target - entropy) / entropy_target)
    # Flows too large for float32 give NaN, and get no correction
    return torch.nan_to_num(coefficient).clamp(-max_coefficient, max_coefficient)


def balance_advantages(
    advantages: torch.Tensor, sensitivities: torch.Tensor, coefficient: torch.Tensor
) -> torch.Tensor:
    """
    A' = A (1 + λ) where the token raises entropy (d = A·s > 0), A (1 − λ) where it lowers it, and A where d is 0 or
    not finite.

    Args:
        advantages (`torch.Tensor` of shape `(B, 1)` or `(B, T)`):
            Advantages A.
        sensitivities (`torch.Tensor` of shape `(B, T)`):
            Entropy sensitivities s.
        coefficient (`torch.Tensor`, 0-d):
            λ.

    Returns:
        `torch.Tensor` of shape `(B, T)`.
    """
    change = advantages * sensitivities  # (B, T)
    return advantages * (1 + coefficient * torch.where(change.isfinite(), change.sign(), 0.0))  # (B, T)
