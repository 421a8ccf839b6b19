"""The whole Countdown example: prepares it, trains three arms with `opefo train`, tests them, and reports.

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
from examples.countdown.prepare import TEST_PUZZLES, prepare
from opefo_trl.plotting import drawing, panels
from opefo_trl.plotting.runs import read_run


LABELS = {"grpo": "GRPO (strictly on-policy)", "opefo": "OPEFO", "opefo_target": "OPEFO with target"}
ARMS = tuple(LABELS)
PANELS = (panels.ENTROPY, panels.REWARD._replace(unit="share of right answers"), panels.COEFFICIENT)
SAMPLES = 16  # answers per test puzzle
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
    Trains every run with the command `opefo train`, one bar each; as many at a time as there are arms, so that the
    arms of a seed share the machine alike.

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
            while waiting and len(processes) < len(ARMS):
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
    Samples answers at temperature 1 and scores them.

    Args:
        model_dir (`Path`):
            Folder of the model and its tokenizer.
        puzzles (`list[dict]`):
            Rows with `prompt`, `numbers` and `target`.
        label (`str`):
            Text beside the progress bar.

    Returns:
        `dict[str, float]`: means over the puzzles of `pass@1` (share of right answers), `pass@16` (whether any of 16
        is right) and `answers` (different answers among 16, right or wrong).
    """
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, use_safetensors=True)
    scores = []
    for start in tqdm(range(0, len(puzzles), 25), label, unit="batch"):
        batch = puzzles[start : start + 25]
        prompts = tokenizer([puzzle["prompt"] for puzzle in batch], return_tensors="pt", padding=True)  # (B, P)
        sequences = model.generate(
            **prompts,
            do_sample=True,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            num_return_sequences=SAMPLES,
            max_new_tokens=16,
        )  # (B * SAMPLES, P + T)
        texts = tokenizer.batch_decode(sequences[:, prompts["input_ids"].size(1) :], skip_special_tokens=True)
        for index, puzzle in enumerate(batch):
            answers = texts[index * SAMPLES : (index + 1) * SAMPLES]
            right = [is_solution(answer, puzzle["numbers"], puzzle["target"]) for answer in answers]
            scores.append({"pass@1": sum(right) / SAMPLES, "pass@16": float(any(right)), "answers": len(set(answers))})
    return {name: statistics.mean(score[name] for score in scores) for name in scores[0]}


def summarize(run: Run) -> dict[str, float]:
    """Returns what the table says about the course of a run: its first entropy, and means over its last steps."""
    history = run.history

    def at_end(name: str) -> float:
        return statistics.mean(entry[name] for entry in history[-LAST_STEPS:])

    return {
        "entropy, start": history[0]["entropy"],
        "entropy, end": at_end("entropy"),
        "P": at_end("entropy_flow/increase"),
        "N": at_end("entropy_flow/decrease"),
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
    columns = {
        "entropy, start": 3,
        "entropy, end": 3,
        "P": 4,
        "N": 4,
        "λ": 3,
        "pass@1": 3,
        "pass@16": 3,
        "answers": 1,
        "seconds": 0,
    }
    table = [["arm", *columns]]
    for arm, measured in rows.items():
        values = {name: [row[name] for row in measured if name in row] for name in columns}
        table.append([arm, *(mean_and_deviation(values[name], digits) for name, digits in columns.items())])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in table]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def draw(runs: list[Run], path: Path) -> None:
    """Draws entropy, reward and λ of all runs over their steps."""
    groups = {LABELS[arm]: [read_run(run.folder) for run in runs if run.arm == arm] for arm in ARMS}
    drawing.draw(groups, path, PANELS)


def demo(output_dir: Path, steps: int, seeds: list[int], puzzles: int, sft_steps: int) -> None:
    """
    Runs the example from beginning to end and writes `table.md` and `entropy.png`.

    Args:
        output_dir (`Path`):
            Folder for everything that is written.
        steps (`int`):
            Optimizer steps of each arm.
        seeds (`list[int]`):
            Seeds to train each arm with.
        puzzles (`int`):
            Number of test puzzles.
        sft_steps (`int`):
            Steps of supervised fine-tuning of the base model.
    """
    started = time.monotonic()
    prepare(output_dir, sft_steps=sft_steps)
    runs = [Run(arm, seed, output_dir / "runs" / f"{arm}-seed{seed}") for seed in seeds for arm in ARMS]
    train(runs, output_dir, steps)

    with (output_dir / "data" / "test.jsonl").open() as lines:
        rows = [json.loads(line) for line in lines][:puzzles]
    measured = {"base": [test(output_dir / "base", rows, "Testing base")]}
    for arm in ARMS:
        measured[arm] = [
            {**summarize(run), **test(run.folder, rows, f"Testing {arm} seed {run.seed}")}
            for run in runs
            if run.arm == arm
        ]
    command = shlex.join(["python", "-m", "examples.countdown.demo", *sys.argv[1:]])
    packages = ", ".join(f"{name} {version(name)}" for name in ("opefo_trl", "trl", "transformers", "torch"))
    table = (
        f"{format_table(measured)}\n\n"
        f"Entropy in nats per token; at the end, and P, N and λ: means over the last {LAST_STEPS} of {steps} steps. "
        f"{len(rows)} unseen puzzles, {SAMPLES} answers each at temperature 1; answers: different ones among these.\n"
        f"Made by `{command}`, seeds {seeds}, with {packages}.\n"
    )
    (output_dir / "table.md").write_text(table)
    draw(runs, output_dir / "entropy.png")
    print(
        f"\n{table}\nWrote {output_dir / 'table.md'} and {output_dir / 'entropy.png'} in "
        f"{time.monotonic() - started:.0f} seconds."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains GRPO and OPEFO on Countdown and compares them.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/countdown"), help="folder to write to")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of each arm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="seeds to train each arm with")
    parser.add_argument("--puzzles", type=int, default=TEST_PUZZLES, help=f"test puzzles, at most {TEST_PUZZLES}")
    parser.add_argument("--sft_steps", type=int, default=900, help="steps of supervised fine-tuning of the base model")
    try:
        demo(**vars(parser.parse_args()))
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
