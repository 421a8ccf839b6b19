"""The measuring pass against TRL's fused pass, two projections, and a naive softmax, on the same hidden states."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks.cost.measure import compare, synchronize
from opefo_trl.entropy_flow.projection import TokenFlow, project_flow
from tests.references import VOCAB_TILE, naive_flow, trl_projection, two_projections


VOCABULARY = 151_936
HIDDEN = {"Qwen2.5-Math-1.5B": 1536, "Qwen2.5-Math-7B": 3584}
# Full logits in float32, and what a softmax makes of them, must fit
NAIVE_BYTES = 24e9


class Rates(NamedTuple):
    """What the device reaches: floating-point operations and bytes per second."""

    flops: float
    bytes: float


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """The best of five large matrix products, shaped as a tile of the projection, and of five copies."""
    rows, columns, inner = (4096, VOCAB_TILE, 3584) if device.type == "cuda" else (512, 8192, 1536)
    a, b = torch.randn(rows, inner, device=device).to(dtype), torch.randn(columns, inner, device=device).to(dtype)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    source = torch.randn(rows * columns, device=device)
    target = torch.empty_like(source)

    def best(function: Callable[[], object]) -> float:
        seconds = []
        for _ in range(6):
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])

    product = best(lambda: torch.mm(a, b.t(), out=out))
    copy = best(lambda: target.copy_(source))
    return Rates(2 * rows * columns * inner / product, 2 * source.nbytes / copy)


def floor_seconds(tokens: int, hidden: int, vocab: int, itemsize: int, rates: Rates) -> tuple[float, float]:
    """
    The least that a projection in tiles can take: for its products, and for its bytes, at the rates of the device.

    The bytes: hidden states once, the weight once per 4,096 tokens, each logit written once and read once.
    """
    flops = 2.0 * tokens * hidden * vocab
    moved = itemsize * (tokens * hidden + -(-tokens // 4096) * hidden * vocab + 2.0 * tokens * vocab)
    return flops / rates.flops, moved / rates.bytes


def naive_projection(hidden: torch.Tensor, weight: torch.Tensor, tokens: torch.Tensor) -> TokenFlow:
    """ln p, H and s of shape `(N,)` by way of the full logits."""
    with torch.no_grad():
        return naive_flow(hidden @ weight.t(), tokens)


def run(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """One record per model's shape, number of tokens and way of measuring."""
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    if quick:
        sizes = {"Qwen2.5-Math-1.5B": [32]}
    elif on_gpu:
        sizes = dict.fromkeys(HIDDEN, [4096, 16_384, 65_536, 131_072])
    else:
        sizes = {"Qwen2.5-Math-1.5B": [128, 512], "Qwen2.5-Math-7B": [128]}
    rates = measure_rates(device, dtype)
    records = []
    for model, token_counts in sizes.items():
        generator = torch.Generator(device).manual_seed(0)
        weight = torch.randn(VOCABULARY, HIDDEN[model], device=device, generator=generator).div_(40).to(dtype)
        for tokens in token_counts:
            hidden = torch.randn(tokens, HIDDEN[model], device=device, generator=generator).to(dtype)
            labels = torch.randint(VOCABULARY, (tokens,), device=device, generator=generator)
            functions: dict[str, Callable[[], object]] = {
                "TRL": partial(trl_projection, hidden, weight, labels),
                "OPEFO": partial(project_flow, hidden, weight, None, labels, 1.0, VOCAB_TILE),
                "two projections": partial(two_projections, hidden, weight, labels),
            }
            if 16 * tokens * VOCABULARY < NAIVE_BYTES:
                functions["naive"] = partial(naive_projection, hidden, weight, labels)
            costs = compare(functions, device, rounds=3 if quick else 7)
            products, moves = floor_seconds(tokens, HIDDEN[model], VOCABULARY, hidden.element_size(), rates)
            for name, cost in costs.items():
                records.append(
                    {
                        "benchmark": "projection",
                        "case": {"shape": model, "tokens": tokens, "vocabulary": VOCABULARY, "dtype": str(dtype)[6:]},
                        "arm": name,
                        "seconds": cost.quantiles,
                        "peak_bytes": cost.peak_bytes,
                        "time_ratio": cost.ratio(costs["TRL"]),
                        "memory_ratio": cost.peak_bytes / costs["TRL"].peak_bytes,
                        "floor": {
                            "products_seconds": products,
                            "bytes_seconds": moves,
                            "tflops": rates.flops / 1e12,
                            "gigabytes_per_second": rates.bytes / 1e9,
                        },
                    }
                )
    return records
