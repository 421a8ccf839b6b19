"""The mathematics of entropy flow: pure tensor functions, torch alone.

Notation, per token of a completion: π is the policy at the sampling temperature, a the sampled token, p = π(a),
H = −Σ_j π_j ln π_j the entropy in nats, A the advantage and c ≥ 0 the weight of the token in the loss. Nothing here is
differentiated through: call it on detached tensors or under `torch.no_grad`.
"""

import torch


# Stands for −inf, which has no differences: e^(z − m) is 0 for both
LOWEST_LOGIT = -1e30


def entropy_sensitivity(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """
    Change of entropy at a position per unit policy-gradient step on its sampled token, from full logits.

    A step moves the logits by η (e_a − π), and the entropy by η s to first order, with

        s = −[p (ln p + H) − Σ_j π_j² (ln π_j + H)]

    s > 0 means that reinforcing the token raises entropy. This is the definition that the estimators below are tested
    against; training never makes the (tokens × vocabulary) tensor it needs.

    Args:
        logits (`torch.Tensor` of shape `(*, V)`):
            Logits divided by the sampling temperature.
        tokens (`torch.Tensor` of shape `(*)`):
            Sampled token ids.

    Returns:
        `torch.Tensor` of shape `(*)`, in nats per unit step, float32 or wider.
    """
    log_pi = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)  # (*, V)
    pi = log_pi.exp()
    # π ln π is 0 where a token is impossible (logit −inf)
    surprisal = torch.where(pi > 0, log_pi, 0.0)  # (*, V)
    entropies = -(pi * surprisal).sum(-1)  # (*)
    logps = log_pi.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)  # (*)
    mean_term = (pi.square() * (surprisal + entropies.unsqueeze(-1))).sum(-1)  # (*)
    return mean_term - logps.exp() * (logps + entropies)


def flow_from_sums(
    target: torch.Tensor,
    exp_sum: torch.Tensor,
    shifted_sum: torch.Tensor,
    square_sum: torch.Tensor,
    shifted_square_sum: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Entropy and the value of [`entropy_sensitivity`] from sums that one pass over the logits z can carry along.

    With m the largest z and e_j = exp(z_j − m),

        ln π_j = z_j − m − ln Σe       H = ln Σe − Σe(z − m) / Σe
        Σπ² = Σe² / (Σe)²              Σπ² ln π = Σe²(z − m) / (Σe)² − ln Σe · Σπ²

    The differences z − m, rather than z, keep float32's digits where the logits are large.

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
    sum_square = square_sum / exp_sum.square()
    mean_term = shifted_square_sum / exp_sum.square() + sum_square * (entropies - log_sum)
    # p ln p is 0 where the token is impossible
    logps = target.clamp(min=LOWEST_LOGIT) - log_sum
    return entropies, mean_term - logps.exp() * (logps + entropies)


def sampled_sensitivity(logps: torch.Tensor, entropies: torch.Tensor) -> torch.Tensor:
    """
    Sensitivity without its sum over the vocabulary: s = −p (ln p + H), in nats per unit step.

    The dropped sum is what this form averages to over sampled tokens, the same for every token of a position.
    """
    return -logps.exp() * (logps + entropies)


def paper_sensitivity(logps: torch.Tensor, entropies: torch.Tensor) -> torch.Tensor:
    """
    The paper's estimate as a value per sampled token: s = −(1 − p)² (ln p + H), in nats per unit step.

    Reconstructed from a published numeric example of OPEFO (arXiv 2605.11491), not from its authors' code, which they
    have not published.
    """
    return -(1 - logps.exp()).square() * (logps + entropies)


def token_weights(
    mask: torch.Tensor, loss_type: str, items_per_batch: torch.Tensor | float, max_completion_length: int
) -> torch.Tensor:
    """
    Weight c of each token in TRL's loss over one micro-batch, at ratio 1: the loss is −Σ c A ln p, up to a constant.

    Args:
        mask (`torch.Tensor` of shape `(B, T)`):
            1 where the token is trained, 0 elsewhere (padding, tool tokens, truncated completions).
        loss_type (`str`):
            `loss_type` of [`~trl.GRPOConfig`].
        items_per_batch (`torch.Tensor` or `float`):
            Trained tokens per micro-batch, averaged over the rollout batch and all processes. Only the loss types that
            divide by the global count (`"dapo"`, `"cispo"`, `"vespo"`) read it.
        max_completion_length (`int`):
            Tokens. Only `"dr_grpo"` reads it.

    Returns:
        `torch.Tensor` of shape `(B, T)`, per token.

    Raises:
        `ValueError`: if the loss type is not one of TRL's.
    """
    mask = mask.float()
    num_sequences = mask.size(0)
    if loss_type in ("grpo", "sapo"):
        return mask / mask.sum(-1, keepdim=True).clamp(min=1.0) / num_sequences
    if loss_type == "bnpo":
        return mask / mask.sum().clamp(min=1.0)
    if loss_type == "dr_grpo":
        return mask / (num_sequences * max_completion_length)
    if loss_type == "luspo":
        return mask / num_sequences
    if loss_type in ("dapo", "cispo", "vespo"):
        return mask / items_per_batch
    raise ValueError(f"Loss type {loss_type!r} has no known token weights, so its entropy flow cannot be balanced.")


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

    The first term is the rule of OPEFO (arXiv 2605.11491). The second is ours: the rule holds entropy only to first
    order and has no way back once it is lost.

    Args:
        increase, decrease (`torch.Tensor`, 0-d):
            Increasing and decreasing entropy flow, P and N.
        entropy (`torch.Tensor`, 0-d):
            Mean token entropy H̄ in nats; NaN where no token was trained, which leaves the target term out.
        strength (`float`):
            Share of the balance to apply, in [0, 1].
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
    # Flows too large for float32 have no balance
    return torch.nan_to_num(coefficient).clamp(-max_coefficient, max_coefficient)


def balance_advantages(
    advantages: torch.Tensor, sensitivities: torch.Tensor, coefficient: torch.Tensor
) -> torch.Tensor:
    """
    A' = A (1 + λ) where the token raises entropy (d = A·s > 0), A (1 − λ) where it lowers it; where d is 0 or no
    number, A.

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
