"""Trains the arms of the demo with the command `opefo train`, side by side."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tqdm.auto import tqdm


LABELS = {"grpo": "GRPO", "opefo": "OPEFO", "opefo_target": "OPEFO with a target"}  # by name of the YAML file
JOBS = 2  # trainings at a time, one thread each
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
