"""The whole Countdown example: prepares it, trains GRPO and OPEFO with `opefo train`, tests them, and reports.

python -m examples.countdown.demo --output_dir outputs/countdown
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from examples.countdown.countdown import is_solution
from examples.countdown.prepare import TEST_PUZZLES, TRAIN_PUZZLES, prepare
from opefo_trl.plotting import drawing
from opefo_trl.plotting.panels import ENTROPY
from opefo_trl.plotting.runs import read_run


LABELS = {"grpo": "GRPO", "opefo": "OPEFO", "opefo_target": "OPEFO with a target"}
ARMS = ("grpo", "opefo_target")
TEMPERATURES = (1.0, 0.3)  # of the test
SAMPLES = 16  # answers per test puzzle
KEPT = 3.0  # puzzles of 100 that are "about as many": less than two standard errors of 500 puzzles
JOBS = 2  # trainings at a time, one thread each
LAST_STEPS = 10  # steps behind every "at the end"
LOG_LINES = 15  # lines to show of a run that failed


@dataclass(frozen=True)
class Run:
    """
    One training of one arm.

    Args:
        arm (`str`):
            Name of the YAML file beside this one.
        seed (`int`):
            Seed of the training.
        folder (`Path`):
            Where `opefo train` writes.
    """

    arm: str
    seed: int
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "train.log"

    @cached_property
    def logged(self) -> list[dict[str, float]]:
        """What the trainer logged: one dictionary per step, and a last one on the whole training."""
        return json.loads((self.folder / "trainer_state.json").read_text())["log_history"]

    @property
    def history(self) -> list[dict[str, float]]:
        """What was logged of each step."""
        return [entry for entry in self.logged if "entropy" in entry]

    @property
    def seconds(self) -> float:
        """How long the training took, without the start of Python."""
        return self.logged[-1]["train_runtime"]


def config_of(arm: str) -> Path:
    return Path(__file__).with_name(f"{arm}.yaml")


def train(runs: list[Run], output_dir: Path, steps: int) -> None:
    """
    Trains every run with the command `opefo train`, one bar each, [`JOBS`] at a time.

    Args:
        runs (`list[Run]`):
            What to train.
        output_dir (`Path`):
            Folder that [`~examples.countdown.prepare.prepare`] wrote.
        steps (`int`):
            Optimizer steps of each run.

    Raises:
        `RuntimeError`: if the command is missing or a run fails, with the end of its log.
    """
    opefo = shutil.which("opefo", path=str(Path(sys.executable).parent))
    if opefo is None:
        raise RuntimeError("The command `opefo` is missing beside this Python; install it with `pip install -e .`")
    # One thread each, as in `prepare`
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    waiting = list(runs)
    bars: dict[Run, tqdm] = {
        run: tqdm(desc=f"{run.arm} seed {run.seed}", total=steps, unit="step", position=position)
        for position, run in enumerate(runs)
    }
    processes: dict[Run, subprocess.Popen] = {}
    try:
        while waiting or processes:
            while waiting and len(processes) < JOBS:
                run = waiting.pop(0)
                run.folder.mkdir(parents=True, exist_ok=True)
                options = {
                    "config": config_of(run.arm),
                    "output_dir": run.folder,
                    "model_name_or_path": output_dir / "base",
                    "dataset_name": output_dir / "data",
                    "seed": run.seed,
                    "max_steps": steps,
                }
                command = [opefo, "train", *(w for name, value in options.items() for w in (f"--{name}", str(value)))]
                with run.log.open("w") as log:
                    # In a session of its own, so that the launcher and what it launched can be ended together.
                    processes[run] = subprocess.Popen(
                        command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
                    )
                bars[run].unpause()  # the speed that the bar shows starts now
            time.sleep(0.5)
            for run, process in list(processes.items()):
                # One line per step, because of `logging_steps: 1` and `disable_tqdm: true`.
                bars[run].update(run.log.read_text().count("{'loss'") - bars[run].n)
                if process.poll() is None:
                    continue
                del processes[run]
                if process.returncode != 0:
                    end = "\n".join(run.log.read_text().splitlines()[-LOG_LINES:])
                    raise RuntimeError(
                        f"Training {run.arm} with seed {run.seed} failed; see {run.log}, which ends:\n{end}"
                    )
    finally:
        for bar in bars.values():
            bar.close()
        for process in processes.values():
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


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


def summarize(run: Run) -> dict[str, float]:
    """Returns what the table says about the course of a run: its first entropy, and means over its last steps."""
    history = run.history

    def at_end(name: str) -> float:
        return statistics.mean(entry[name] for entry in history[-LAST_STEPS:])

    return {
        "entropy, start": history[0]["entropy"],
        "entropy, end": at_end("entropy"),
        "reward, end": at_end("reward"),
        "λ": at_end("entropy_flow/coefficient"),
        "seconds": run.seconds,
    }


def mean_and_deviation(values: list[float], digits: int) -> str:
    """Returns `mean`, and ` ± standard deviation` where there are several values; `""` where there is none."""
    if not values:
        return ""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def format_table(rows: dict[str, list[dict[str, float]]]) -> str:
    """
    Writes the Markdown table.

    Args:
        rows (`dict[str, list[dict[str, float]]]`):
            Measurements of each arm, one dictionary per seed.

    Returns:
        `str`: one line per arm, in columns that also line up as plain text.
    """
    columns = {"entropy, start": 2, "entropy, end": 2, "λ": 2, "reward, end": 3}
    columns |= {f"T={temperature:g} {score}": 3 for temperature in TEMPERATURES for score in ("pass@1", "pass@16")}
    columns |= {"seconds": 0}
    table = [["arm", *columns]]
    for arm, measured in rows.items():
        values = {name: [row[name] for row in measured if name in row] for name in columns}
        table.append([arm, *(mean_and_deviation(values[name], digits) for name, digits in columns.items())])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in table]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def describe(label: str, measured: list[dict[str, float]], base: dict[str, float]) -> str:
    """What became of an arm, in two sentences: what it solves beside the base model, and its entropy."""

    def mean(name: str) -> float:
        return statistics.mean(row[name] for row in measured)

    solved, before = 100 * mean("T=1 pass@16"), 100 * base["T=1 pass@16"]
    compared = f"{abs(solved - before):.0f} {'more' if solved > before else 'fewer'} than"
    if abs(solved - before) < KEPT:
        compared = "about as many as"
    return (
        f"{label} solves {solved:.0f} of 100 unseen puzzles with 16 answers, {compared} the base model "
        f"({before:.0f}). A single answer is right in {mean('T=1 pass@1'):.1%} of the cases (base "
        f"model: {base['T=1 pass@1']:.1%}). Entropy went from {mean('entropy, start'):.2f} to "
        f"{mean('entropy, end'):.2f} nats."
    )


def draw(runs: list[Run], measured: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draws the entropy of all runs over their steps, and beside it what the models solve."""
    from matplotlib.figure import Figure

    arms = [arm for arm in measured if arm != "base"]
    groups = {LABELS[arm]: [read_run(run.folder) for run in runs if run.arm == arm] for arm in arms}
    colours = {"base": "#999999", **dict(zip(arms, drawing.COLOURS, strict=False))}
    figure = Figure(figsize=(13.0, 3.9), layout="constrained")
    entropy, *tests = figure.subplots(1, 3)
    drawing.draw_panel(entropy, ENTROPY, groups)
    drawing.draw_targets(entropy, groups)
    titles = {"pass@1": "One answer: share that is right", "pass@16": "16 answers: puzzles with a right one"}
    for axes, (score, title) in zip(tests, titles.items(), strict=True):
        for place, (arm, rows) in enumerate(measured.items()):
            names = [f"T={temperature:g} {score}" for temperature in TEMPERATURES]
            heights = [statistics.mean(row[name] for row in rows) for name in names]
            spread = [statistics.stdev([row[name] for row in rows]) if len(rows) > 1 else 0.0 for name in names]
            places = [index + (place - (len(measured) - 1) / 2) * 0.8 / len(measured) for index in range(len(names))]
            label = LABELS.get(arm, "base model")
            bars = axes.bar(places, heights, 0.75 / len(measured), yerr=spread, color=colours[arm], label=label)
            axes.bar_label(bars, fmt=lambda height: f"{height:.0%}", fontsize=8, padding=2)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xticks(range(len(TEMPERATURES)), [f"temperature {temperature:g}" for temperature in TEMPERATURES])
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = tests[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=150)


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
    measured = {"base": [test(output_dir / "base", rows, "Testing base")]}
    for arm in arms:
        measured[arm] = [
            {**summarize(run), **test(run.folder, rows, f"Testing {arm} seed {run.seed}")}
            for run in runs
            if run.arm == arm
        ]
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
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of each arm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="seeds to train each arm with")
    parser.add_argument("--arms", nargs="+", choices=LABELS, default=list(ARMS), help="what to train")
    parser.add_argument("--puzzles", type=int, default=TEST_PUZZLES, help=f"test puzzles, at most {TEST_PUZZLES}")
    parser.add_argument("--sft_steps", type=int, default=900, help="steps of supervised fine-tuning of the base model")
    try:
        demo(**vars(parser.parse_args()))
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
