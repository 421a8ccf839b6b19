"""A Triton kernel that folds a tile of logits. Imported only on devices whose torch builds include Triton."""

import torch
import triton
import triton.language as tl

from .mathematics import LOWEST_LOGIT


# As in TRL's kernel, so that Σ e^(z − m), and thus ln p, is summed in the same order
_BLOCK_SIZE = 1024


@triton.jit
def _transform(z, logit_scale, softcap, inverse_temperature, HAS_SOFTCAP: tl.constexpr):
    z = z * logit_scale
    if HAS_SOFTCAP:
        z = softcap * (2 * tl.sigmoid(2 * z / softcap) - 1)  # tanh, which Triton lacks on some devices
    return z * inverse_temperature


@triton.jit
def _fold_kernel(
    tile_ptr,
    tile_stride,
    tokens_ptr,
    sums_ptr,
    sums_stride,
    vocab_start,
    num_columns,
    logit_scale,
    softcap,
    inverse_temperature,
    HAS_SOFTCAP: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    # One program per row. Each logit is read once. Of the five numbers that a block is folded into, only the maximum
    # and the sum of exponentials are reduced over the block each time; the others stay one per lane until the end
    row = tl.program_id(0).to(tl.int64)
    tile_row_ptr = tile_ptr + row * tile_stride
    sums_row_ptr = sums_ptr + row
    lanes = tl.arange(0, BLOCK_SIZE)
    maximum = tl.load(sums_row_ptr)
    exp_sum = tl.load(sums_row_ptr + sums_stride)
    shifted_carry = tl.load(sums_row_ptr + 2 * sums_stride)
    shifted = tl.zeros((BLOCK_SIZE,), tl.float32)
    square = tl.where(lanes == 0, tl.load(sums_row_ptr + 3 * sums_stride), 0.0)
    shifted_square = tl.where(lanes == 0, tl.load(sums_row_ptr + 4 * sums_stride), 0.0)
    for start in range(0, num_columns, BLOCK_SIZE):
        inside = start + lanes < num_columns
        z = tl.load(tile_row_ptr + start + lanes, mask=inside, other=0.0).to(tl.float32)
        z = _transform(z, logit_scale, softcap, inverse_temperature, HAS_SOFTCAP)
        # A comparison, since a maximum would hide a NaN
        z = tl.where(inside & ~(z < LOWEST), z, LOWEST)
        new_maximum = tl.maximum(maximum, tl.max(z, axis=0))
        change = maximum - new_maximum
        rescale = tl.exp(change)
        if change < 0:
            # If the maximum moves by `change`, so does every z − m. This is rare after the first blocks
            shifted_carry = (shifted_carry + change * exp_sum) * rescale
            shifted = shifted * rescale
            shifted_square = (shifted_square + change * square) * (rescale * rescale)
            square = square * (rescale * rescale)
        z = z - new_maximum
        e = tl.exp(z)  # 0 outside of the tile
        exp_sum = exp_sum * rescale + tl.sum(e, axis=0)
        shifted += e * z
        square += e * e
        shifted_square += e * e * z
        maximum = new_maximum
    tl.store(sums_row_ptr, maximum)
    tl.store(sums_row_ptr + sums_stride, exp_sum)
    tl.store(sums_row_ptr + 2 * sums_stride, shifted_carry + tl.sum(shifted, axis=0))
    tl.store(sums_row_ptr + 3 * sums_stride, tl.sum(square, axis=0))
    tl.store(sums_row_ptr + 4 * sums_stride, tl.sum(shifted_square, axis=0))

    token = tl.load(tokens_ptr + row) - vocab_start
    if (token >= 0) & (token < num_columns):
        z = tl.load(tile_row_ptr + token).to(tl.float32)
        z = _transform(z, logit_scale, softcap, inverse_temperature, HAS_SOFTCAP)
        tl.store(sums_row_ptr + 5 * sums_stride, z)


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
    [`~opefo_trl.entropy_flow.projection.fold_tile`], one Triton program per row.

    Args:
        tile (`torch.Tensor` of shape `(N, W)`):
            Logits of `W` vocabulary entries, in float32, bfloat16 or float16; the last dimension is contiguous.
        tokens, vocab_start, sums, logit_scale, softcap, inverse_temperature:
            As there.
    """
    _fold_kernel[(tile.size(0),)](
        tile,
        tile.stride(0),
        tokens,
        sums,
        sums.stride(0),
        vocab_start,
        tile.size(1),
        logit_scale,
        1.0 if softcap is None else softcap,
        inverse_temperature,
        HAS_SOFTCAP=softcap is not None,
        LOWEST=LOWEST_LOGIT,
        BLOCK_SIZE=_BLOCK_SIZE,
    )
