"""The whole Countdown example: prepares it, trains GRPO and OPEFO with `opefo train`, tests them, and reports.

python -m examples.countdown.demo --output_dir outputs/countdown
"""

import argparse
import json
import multiprocessing
import shlex
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from examples.countdown.countdown import is_solution
from examples.countdown.prepare import SFT_STEPS, TEST_PUZZLES, TRAIN_PUZZLES, prepare
from examples.countdown.report import LAST_STEPS, TEMPERATURES, describe, draw, format_table, summarize
from examples.countdown.training import JOBS, LABELS, Run, train


ARMS = ("grpo", "opefo_target")
SAMPLES = 16  # answers per test puzzle


@torch.no_grad()
def test(model_dir: Path, puzzles: list[dict], label: str) -> dict[str, float]:
    """
    Samples answers at each of [`TEMPERATURES`] and scores them.

    Args:
        model_dir (`Path`):
            Folder of the model and its tokenizer.
        puzzles (`list[dict]`):
            Rows with `prompt`, `numbers` and `target`.
        label (`str`):
            Text beside the progress bar.

    Returns:
        `dict[str, float]`: for each temperature, means over the puzzles of `pass@1` (share of right answers) and
        `pass@16` (whether any of 16 is right), under names such as `T=1 pass@1`.
    """
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, use_safetensors=True)
    scores: dict[str, float] = {}
    for temperature in TEMPERATURES:
        right = []  # answers to each puzzle
        for start in tqdm(range(0, len(puzzles), 50), f"{label}, temperature {temperature:g}", unit="batch"):
            batch = puzzles[start : start + 50]
            prompts = tokenizer([puzzle["prompt"] for puzzle in batch], return_tensors="pt", padding=True)  # (B, P)
            sequences = model.generate(
                **prompts,
                do_sample=True,
                temperature=temperature,
                top_p=1.0,
                top_k=0,
                num_return_sequences=SAMPLES,
                max_new_tokens=20,
            )  # (B * SAMPLES, P + T)
            texts = tokenizer.batch_decode(sequences[:, prompts["input_ids"].size(1) :], skip_special_tokens=True)
            for index, puzzle in enumerate(batch):
                answers = texts[index * SAMPLES : (index + 1) * SAMPLES]
                right.append(sum(is_solution(answer, puzzle["numbers"], puzzle["target"]) for answer in answers))
        scores[f"T={temperature:g} pass@1"] = statistics.mean(right) / SAMPLES
        scores[f"T={temperature:g} pass@16"] = statistics.mean(count > 0 for count in right)
    return scores


def demo(output_dir: Path, steps: int, seeds: list[int], arms: list[str], puzzles: int, sft_steps: int) -> None:
    """
    Runs the example from beginning to end and writes `table.md` and `demo.png`.

    Args:
        output_dir (`Path`):
            Folder for everything that is written.
        steps (`int`):
            Optimizer steps of each arm.
        seeds (`list[int]`):
            Seeds to train each arm with.
        arms (`list[str]`):
            Names of the YAML files to train.
        puzzles (`int`):
            Number of test puzzles.
        sft_steps (`int`):
            Steps of supervised fine-tuning of the base model.
    """
    started = time.monotonic()
    prepare(output_dir, sft_steps=sft_steps)
    runs = [Run(arm, seed, output_dir / "runs" / f"{arm}-seed{seed}") for seed in seeds for arm in arms]
    train(runs, output_dir, steps)

    with (output_dir / "data" / "test.jsonl").open() as lines:
        rows = [json.loads(line) for line in lines][:puzzles]
    # Processes of one thread each, as for the training: numbers must not depend on the machine
    with ProcessPoolExecutor(
        JOBS, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        base = pool.submit(test, output_dir / "base", rows, "Testing base")
        tested = [pool.submit(test, run.folder, rows, f"Testing {run.arm} seed {run.seed}") for run in runs]
        measured = {"base": [base.result()]} | {arm: [] for arm in arms}
        for run, scores in zip(runs, tested, strict=True):
            measured[run.arm].append({**summarize(run), **scores.result()})
    command = shlex.join(["python", "-m", "examples.countdown.demo", *sys.argv[1:]])
    packages = ", ".join(f"{name} {version(name)}" for name in ("opefo_trl", "trl", "transformers", "torch"))
    sentences = [describe(LABELS[arm], measured[arm], measured["base"][0]) for arm in arms]
    table = (
        f"{format_table(measured)}\n\n"
        f"Entropy in nats per token; at the end: means over the last {LAST_STEPS} of {steps} steps; reward: of the "
        f"{TRAIN_PUZZLES} puzzles that are trained on. pass@1 and pass@16: {len(rows)} unseen puzzles, {SAMPLES} "
        f"answers each, at temperature T.\n"
        f"Made by `{command}`, seeds {seeds}, with {packages}.\n\n" + "\n\n".join(sentences) + "\n"
    )
    (output_dir / "table.md").write_text(table)
    draw(runs, measured, output_dir / "demo.png")
    print(
        f"\n{table}\nWrote {output_dir / 'table.md'} and {output_dir / 'demo.png'} in "
        f"{time.monotonic() - started:.0f} seconds."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains GRPO and OPEFO on Countdown and compares them.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/countdown"), help="folder to write to")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of each arm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="seeds to train each arm with")
    parser.add_argument("--arms", nargs="+", choices=LABELS, default=list(ARMS), help="what to train")
    parser.add_argument("--puzzles", type=int, default=300, help=f"test puzzles, at most {TEST_PUZZLES}")
    parser.add_argument("--sft_steps", type=int, default=SFT_STEPS, help="supervised steps that teach the base model")
    try:
        demo(**vars(parser.parse_args()))
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
