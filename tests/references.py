"""ln p, H and the sensitivity in other ways than the package's, to test it against and to measure it against."""

import torch
from trl.kernels import ChunkedLogProbFunction

from opefo_trl.entropy_flow import entropy_sensitivity
from opefo_trl.entropy_flow.projection import TokenFlow


VOCAB_TILE = 32768  # as TRL's fused LM head has it


def naive_flow(logits: torch.Tensor, tokens: torch.Tensor, candidates: torch.Tensor | None = None) -> TokenFlow:
    """
    From full logits of shape `(N, V)`, in float32 or their own dtype if that is wider. ln p is normalized over the
    candidates, token ids of shape `(N, K)` padded with −1, in each row that has some.
    """
    log_pi = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)  # (N, V)
    pi = log_pi.exp()
    entropies = -torch.where(pi > 0, pi * log_pi, 0.0).sum(-1)  # (N,)
    logps = log_pi.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)  # (N,)
    if candidates is not None:
        inside = torch.stack([torch.isin(torch.arange(logits.size(1)), row) for row in candidates])  # (N, V)
        inside[(candidates < 0).all(-1)] = True
        logps = logps - log_pi.masked_fill(~inside, -torch.inf).logsumexp(-1)
    return TokenFlow(logps, entropies, entropy_sensitivity(logits, tokens, candidates))


def trl_projection(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    tokens: torch.Tensor,
    temperature: float = 1.0,
    outputs: tuple[str, ...] = ("entropy",),
) -> tuple[torch.Tensor, torch.Tensor]:
    """ln p and H of shape `(N,)` by TRL's fused LM head."""
    with torch.no_grad():
        logps, entropies, *_ = ChunkedLogProbFunction.apply(
            hidden, weight, None, tokens, temperature, VOCAB_TILE, None, 1.0, outputs
        )
    return logps, entropies


def half_temperature_sensitivity(
    logps: torch.Tensor, entropies: torch.Tensor, half_logps: torch.Tensor, half_entropies: torch.Tensor
) -> torch.Tensor:
    """
    The exact sensitivity from ln p and H of the same token at two temperatures, T and T/2, all of the same shape.

    π² is, up to its sum, the policy at half the temperature, so that with ln p', H' there

        Σ_j π_j² = exp(2 ln p − ln p')        Σ_j π_j² ln π_j = Σ_j π_j² · (ln p − (ln p' + H') / 2)
    """
    sum_square = torch.exp(2 * logps - half_logps)
    mean_term = sum_square * (logps - (half_logps + half_entropies) / 2 + entropies)
    return mean_term - logps.exp() * (logps + entropies)


def two_projections(
    hidden: torch.Tensor, weight: torch.Tensor, tokens: torch.Tensor, temperature: float = 1.0
) -> TokenFlow:
    """The flow of tokens by TRL's fused LM head alone, at T and at T/2."""
    logps, entropies = trl_projection(hidden, weight, tokens, temperature)  # (N,)
    half = trl_projection(hidden, weight, tokens, temperature / 2)
    return TokenFlow(logps, entropies, half_temperature_sensitivity(logps, entropies, *half))
