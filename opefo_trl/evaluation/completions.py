"""Draws the completions of an evaluation, and saves them batch by batch in `completions-*.jsonl`.

Saved completions are not drawn again, so an interrupted evaluation continues where it stopped.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

from datasets import Dataset
from tqdm.auto import tqdm

from ..data.prompts import check_bos, prompt_ids, render, to_prompts


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the completions depend on: without output folder, number of processes and scoring."""
    others = ("output", "compare", "num_processes")
    return {name: v for name, v in vars(args).items() if name not in others and not name.startswith("math_reward_")}


def make_batches(num_problems: int, k: int, batch_size: int) -> list[list[int]]:
    """Problem numbers that are drawn together. Interruptions and the number of processes do not change them."""
    size = max(1, batch_size // k)
    return [list(range(start, min(start + size, num_problems))) for start in range(0, num_problems, size)]


def read_batches(output: Path) -> Iterator[dict[str, Any]]:
    """The batches that are already drawn. A line that an interruption cut off is skipped, and drawn again."""
    for path in sorted(output.glob("completions-*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                pass


def draw(args: argparse.Namespace, benchmarks: dict[str, list[dict[str, Any]]]) -> None:
    """Draw this process's share of the completions that are still missing."""
    from .sampling import Sampling, TransformersSampler, VLLMSampler

    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    drawn = {(batch["benchmark"], batch["problems"][0]) for batch in read_batches(args.output)}
    batches = []
    for (name, problems), k in zip(benchmarks.items(), args.k, strict=True):
        prompts = to_prompts(
            Dataset.from_dict({"prompt": [problem["problem"] for problem in problems]}),
            name,
            prompt_template=args.prompt_template,
            system_prompt=args.system_prompt,
            conversational=args.conversational,
        )["prompt"][:]
        for numbers in make_batches(len(problems), k, args.batch_size):
            batches.append((name, k, numbers, [prompts[number] for number in numbers]))
    # Divide the batches before skipping the drawn ones, since other processes may already be drawing
    missing = [batch for batch in batches[rank::world_size] if (batch[0], batch[2][0]) not in drawn]
    if not missing:
        return
    how = Sampling(args.temperature, args.top_p, args.max_tokens)
    if args.backend == "vllm":
        sampler: Any = VLLMSampler(args.model, how, args.dtype)
    else:
        sampler = TransformersSampler(args.model, how, args.dtype, args.batch_size)
    check_bos(missing[0][3][0], sampler.tokenizer)
    path = args.output / f"completions-{rank}.jsonl"
    kept = path.read_text() if path.exists() else ""
    if not kept.endswith("\n"):
        path.write_text(kept[: kept.rfind("\n") + 1])
    with path.open("a") as file:
        for name, k, numbers, prompts in tqdm(missing, desc="Drawing", unit="batch", disable=rank != 0):
            seed = crc32(f"{args.seed} {name} {numbers[0]}".encode())
            samples = sampler.draw([prompt_ids(prompt, sampler.tokenizer) for prompt in prompts], k, seed)
            batch = {
                "benchmark": name,
                "problems": numbers,
                "prompts": [render(prompt, sampler.tokenizer) for prompt in prompts],
                "samples": samples,
            }
            file.write(json.dumps(batch) + "\n")
            file.flush()
