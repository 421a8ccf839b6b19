"""How the measuring pass grows with tokens and vocabulary, and the one reduction with the number of processes."""

import json
import math
import subprocess
import sys
import time
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.cost.measure import Cost, compare
from opefo_trl.entropy_flow.projection import project_flow
from tests.references import VOCAB_TILE


RANKS = (1, 2, 4)
REDUCTIONS = 200
NUM_SUMS = 6  # float32 numbers that a rollout batch reduces


def run(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """One record per number of tokens, vocabulary and number of processes."""
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    hidden_size, unit = (1536, 4096) if on_gpu else (256, 64)
    shapes = [(unit * 2**i, 151_936) for i in range(2 if quick else 5)]
    shapes += [(unit * 4, VOCAB_TILE * i) for i in ([1, 2] if quick else [1, 2, 4, 6])]
    weight = torch.randn(VOCAB_TILE * 6, hidden_size, device=device).div_(16).to(dtype)
    hidden = torch.randn(max(tokens for tokens, _ in shapes), hidden_size, device=device).to(dtype)
    labels = torch.zeros(len(hidden), dtype=torch.long, device=device)
    costs = compare(
        {
            f"{tokens} {vocab}": partial(
                project_flow, hidden[:tokens], weight[:vocab], None, labels[:tokens], 1.0, VOCAB_TILE
            )
            for tokens, vocab in shapes
        },
        device,
        rounds=3 if quick else 7,
    )
    records = []
    for (tokens, vocab), cost in zip(shapes, costs.values(), strict=True):
        records.append(
            {
                "benchmark": "growth",
                "case": {"tokens": tokens, "vocabulary": vocab, "hidden": hidden_size},
                "arm": "OPEFO",
                "seconds": cost.quantiles,
                "peak_bytes": cost.peak_bytes,
                "nanoseconds_per_logit": cost.quantiles[1] / tokens / vocab * 1e9,
            }
        )
    return records + [reduce_on(ranks) for ranks in (RANKS[:2] if quick else RANKS)]


def reduce_on(ranks: int) -> dict[str, Any]:
    """The all-reduce of a rollout batch, on so many processes of this machine (gloo)."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    result = subprocess.run([*command, "-m", "benchmarks.cost.growth"], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"The reduction on {ranks} processes failed:\n{result.stderr[-2000:]}")
    cost = Cost(json.loads(result.stdout.splitlines()[-1]))
    return {
        "benchmark": "ranks",
        "case": {"ranks": ranks, "bytes": 4 * NUM_SUMS},
        "arm": "OPEFO",
        "seconds": cost.quantiles,
    }


def on_paper(ranks: int, hop_seconds: float) -> float:
    """Seconds of a reduction of a few bytes up and down a binary tree: 2 ⌈log₂ ranks⌉ messages one after the other."""
    return 2 * math.ceil(math.log2(ranks)) * hop_seconds


def time_reductions() -> None:
    """Run by each process: prints the seconds of each reduction on the first."""
    dist.init_process_group("gloo")
    seconds = []
    for _ in range(REDUCTIONS):
        sums = torch.ones(NUM_SUMS)
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(sums)
        seconds.append(time.perf_counter() - start)
        if not torch.equal(sums, torch.full((NUM_SUMS,), float(dist.get_world_size()))):
            raise RuntimeError("The reduction gave a wrong sum.")
    if dist.get_rank() == 0:
        print(json.dumps(seconds))
    dist.destroy_process_group()


if __name__ == "__main__":
    time_reductions()
