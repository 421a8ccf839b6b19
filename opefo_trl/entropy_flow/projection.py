"""ln p, H and the entropy sensitivity from hidden states, in one tiled projection that never holds all logits."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE

from .mathematics import LOWEST_LOGIT, flow_from_sums, truncated_flow_from_sums


# Logits that the fold in torch processes at a time: as many as fit into a core's cache
_BLOCK_ELEMENTS = 2**17


class TokenFlow(NamedTuple):
    """ln p, H (nats) and entropy sensitivity (nats per unit step) of tokens, three tensors of the same shape."""

    logps: torch.Tensor
    entropies: torch.Tensor
    sensitivities: torch.Tensor


def fold_tile(
    tile: torch.Tensor,
    tokens: torch.Tensor,
    vocab_start: int,
    sums: torch.Tensor,
    logit_scale: float,
    softcap: float | None,
    inverse_temperature: float,
) -> None:
    """
    Fold a tile of logits into the running sums of its rows, in float32.

    Args:
        tile (`torch.Tensor` of shape `(N, W)`):
            Logits of `W` vocabulary entries as the LM head gives them, in any floating dtype. Overwritten.
        tokens (`torch.Tensor` of shape `(N)`):
            Sampled token ids.
        vocab_start (`int`):
            Vocabulary entry of the tile's first column.
        sums (`torch.Tensor` of shape `(6, N)`, float32):
            Rows m, Σe, Σe·(z − m), Σe², Σe²·(z − m), and the z of the sampled token. z are the logits at the sampling
            temperature, m is the largest z so far, and e = exp(z − m). Updated in place.
        logit_scale, inverse_temperature (`float`):
            Factors of the logits, before and after the soft cap.
        softcap (`float`, *optional*):
            z ↦ softcap · tanh(z / softcap).
    """
    rows = max(1, _BLOCK_ELEMENTS // tile.size(1))
    for start in range(0, tile.size(0), rows):
        block = slice(start, start + rows)
        maximum, exp_sum, shifted, square, shifted_square, target = sums[:, block]  # (n,) each
        z = _scale(tile[block].float(), logit_scale, softcap, inverse_temperature)  # (n, W)
        column = tokens[block] - vocab_start  # (n,)
        inside = (column >= 0) & (column < z.size(1))  # (n,)
        own = z.gather(-1, column.clamp(0, z.size(1) - 1).unsqueeze(-1)).squeeze(-1)  # (n,)
        target.copy_(torch.where(inside, own, target))
        z.clamp_(min=LOWEST_LOGIT)
        new_maximum = torch.maximum(maximum, z.amax(-1))  # (n,)
        change = maximum - new_maximum  # (n,)
        rescale = change.exp()  # (n,)
        z.sub_(new_maximum.unsqueeze(-1))
        e = z.exp()  # (n, W)
        # If the maximum moves by `change`, so does every z − m
        shifted.add_(change * exp_sum).mul_(rescale).add_((e * z).sum(-1))
        exp_sum.mul_(rescale).add_(e.sum(-1))
        e.square_()
        shifted_square.add_(change * square).mul_(rescale.square()).add_((e * z).sum(-1))
        square.mul_(rescale.square()).add_(e.sum(-1))
        maximum.copy_(new_maximum)


def _scale(
    logits: torch.Tensor, logit_scale: float, softcap: float | None, inverse_temperature: float
) -> torch.Tensor:
    """Logits at the sampling temperature, in place."""
    logits.mul_(logit_scale)
    if softcap is not None:
        logits.div_(softcap).tanh_().mul_(softcap)
    return logits.mul_(inverse_temperature)


def _candidates_in(
    tile: torch.Tensor, candidates: torch.Tensor, vocab_start: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of `(N, K)` candidates in a `(N, W)` tile, in float32, and which of the candidates are not in it."""
    columns = candidates - vocab_start  # (N, K)
    outside = (columns < 0) | (columns >= tile.size(1))
    return tile.gather(-1, columns.clamp_(0, tile.size(1) - 1)).float(), outside


def project_flow(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    tokens: torch.Tensor,
    temperature: float,
    vocab_tile: int,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    candidates: torch.Tensor | None = None,
    estimate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> TokenFlow:
    """
    Log-probability, entropy and entropy sensitivity of tokens from the hidden states before the LM head.

    The projection runs on the same tiles as TRL's fused LM head, `(TOKEN_CHUNK_SIZE, vocab_tile)`, in the autocast
    dtype or that of the hidden states. Each tile is folded into a few float32 sums per token, by a Triton kernel on
    CUDA and in torch elsewhere. Its memory is then reused. No gradient is recorded.

    Args:
        hidden (`torch.Tensor` of shape `(N, D)`):
            Hidden states, one per token.
        weight (`torch.Tensor` of shape `(V, D)`), bias (`torch.Tensor` of shape `(V)`, *optional*):
            Parameters of the LM head. A bias of −inf removes an entry from the vocabulary.
        tokens (`torch.Tensor` of shape `(N)`):
            Sampled token ids.
        temperature (`float`):
            Sampling temperature.
        vocab_tile (`int`):
            Vocabulary entries per tile.
        softcap (`float`, *optional*), logit_scale (`float`, *optional*, defaults to `1.0`):
            The logits are softcap · tanh(logit_scale · x / softcap) for a projection x.
        candidates (`torch.Tensor` of shape `(N, K)`, *optional*):
            Token ids that a truncated sampler drew from, each once, padded with −1. ln p is then normalized over them,
            and the sensitivity is that of a step on this ln p. H stays that of the whole vocabulary. A row without any
            possible candidate uses the whole vocabulary.
        estimate (`Callable`, *optional*):
            Function that returns sensitivities from ln p and H, both of the whole vocabulary. Replaces the exact ones.

    Returns:
        [`TokenFlow`] with tensors of shape `(N)`, float32. On CPU and without candidates, `logps` equal those of TRL's
        fused LM head bit for bit.
    """
    device, num_tokens, vocab = hidden.device, hidden.size(0), weight.size(0)
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else hidden.dtype
    fold = _fold_on(device)
    scaling = (logit_scale, softcap, 1 / temperature)
    sums = torch.zeros(6, num_tokens, device=device)  # (6, N)
    sums[0] = LOWEST_LOGIT
    candidate_sums = sums if candidates is None else sums.clone()  # (6, N)
    buffer = torch.empty(min(num_tokens, TOKEN_CHUNK_SIZE), min(vocab, vocab_tile), device=device, dtype=dtype)
    with torch.no_grad():
        for token_start in range(0, num_tokens, TOKEN_CHUNK_SIZE):
            chunk = slice(token_start, token_start + TOKEN_CHUNK_SIZE)
            states = hidden[chunk].to(dtype)  # (n, D)
            for vocab_start in range(0, vocab, vocab_tile):
                entries = slice(vocab_start, vocab_start + vocab_tile)
                head = weight[entries].to(dtype)  # (W, D)
                tile = buffer[: states.size(0), : head.size(0)]  # (n, W)
                torch.mm(states, head.t(), out=tile)
                if bias is not None:
                    tile.add_(bias[entries].to(dtype))
                if candidates is not None:  # before the fold overwrites the tile
                    picked, outside = _candidates_in(tile, candidates[chunk], vocab_start)  # (n, K) each
                    picked = _scale(picked, *scaling).masked_fill_(outside, -torch.inf)
                    # A tile of its own that starts behind the vocabulary, so that the sampled token is not found in it
                    fold(picked, tokens[chunk], vocab, candidate_sums[:, chunk], 1.0, None, 1.0)
                fold(tile, tokens[chunk], vocab_start, sums[:, chunk], *scaling)
        maximum, exp_sum, shifted, square, shifted_square, target = sums  # (N,) each
        # A row without any possible token has no policy: set NaN, since its equal logits look like a uniform policy
        exp_sum.copy_(torch.where(maximum > LOWEST_LOGIT, exp_sum, torch.nan))
        # In TRL's order of operations: where this pass replaces TRL's own, the ratios must not change
        logps = full_logps = target - (maximum + exp_sum.log())  # (N,)
        if candidates is None:
            entropies, sensitivities = flow_from_sums(target - maximum, exp_sum, shifted, square, shifted_square)
        else:
            own = torch.where(candidate_sums[0] > LOWEST_LOGIT, candidate_sums, sums)  # (6, N)
            own_maximum, own_exp_sum, _, own_square, own_shifted_square, _ = own  # (N,) each
            logps = target - (own_maximum + own_exp_sum.log())
            entropies, sensitivities = truncated_flow_from_sums(
                target - maximum, exp_sum, shifted, own_maximum - maximum, own_exp_sum, own_square, own_shifted_square
            )
        if estimate is not None:
            sensitivities = estimate(full_logps, entropies)
    return TokenFlow(logps, entropies, sensitivities)


def _fold_on(device: torch.device) -> Callable[..., None]:
    if device.type not in ("cuda", "xpu"):
        return fold_tile
    from .kernel import fold_tile as fold_tile_triton  # torch builds for these devices include Triton

    return fold_tile_triton
