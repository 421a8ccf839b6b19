"""Reads runs from their `trainer_state.json`, and groups them by seed. Loads neither a model nor torch."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .panels import DRAWN, TARGET


# A copy, since the module that defines this name loads torch
TRAINER_STATE = "trainer_state.json"
# The end of a run's name that only gives its seed: `grpo-seed1`, `grpo_seed1`, `grpo-s1`, or a folder `grpo/seed1`
SEED = re.compile(r"[-_/]s(eed)?[-_]?\d+$")
ANSWERED = "/answered"
READ = {*DRAWN, TARGET, "frac_reward_zero_std"}


@dataclass(frozen=True)
class Run:
    """
    The log of one training.

    Args:
        name (`str`):
            Name or path that the user gave.
        history (`dict[str, dict[int, float]]`):
            Finite values of each metric by step; a metric that was not logged is absent.
        broken (`dict[str, list[int]]`, *optional*):
            Steps at which a metric was NaN or infinite.
    """

    name: str
    history: dict[str, dict[int, float]]
    broken: dict[str, list[int]] = field(default_factory=dict)

    def values(self, metric: str) -> np.ndarray:
        """All values of one metric in the order of the steps, shape `(steps,)`; empty where there is none."""
        return np.array([value for _, value in sorted(self.history.get(metric, {}).items())])


def read_json(path: Path) -> dict[str, Any]:
    """
    Raises:
        `ValueError`: if the file cannot be read or does not hold an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{path} is broken or cut off: it is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a trainer state: it holds no JSON object.")
    return content


def read_log(path: Path, name: str) -> Run:
    """Read a run from a file. Entries about evaluations and about the whole training have none of its metrics."""
    log = read_json(path).get("log_history")
    if not isinstance(log, list) or not all(isinstance(entry, dict) for entry in log):
        raise ValueError(f"{path} is not a trainer state: it holds no list `log_history`.")
    run = Run(name, {})
    for entry in log:
        add_entry(run, entry)
    return run


def add_entry(run: Run, entry: dict[str, Any]) -> None:
    """Add one entry of a trainer's log to a run; one without a step is left out."""
    step = entry.get("step")
    if not isinstance(step, int | float) or not math.isfinite(step):
        return
    for metric in [name for name in entry if name in READ or name.endswith(ANSWERED)]:
        value = entry[metric]
        if isinstance(value, int | float) and math.isfinite(value):
            run.history.setdefault(metric, {})[int(step)] = float(value)
        elif isinstance(value, int | float) or (value is None and metric == "reward"):  # no reward was given
            run.broken.setdefault(metric, []).append(int(step))


def last_step(run: Run) -> int:
    return max((step for steps in (*run.history.values(), *run.broken.values()) for step in steps), default=0)


def read_run(path: Path) -> Run:
    """
    Read a run from its folder, from one of its checkpoints, or from the file itself.

    Args:
        path (`Path`):
            A `trainer_state.json`, or a folder that holds one, directly or in a `checkpoint-*`. Of several, the one
            with the most steps is used: an extended run has newer checkpoints beside the state of its first end.

    Returns:
        [`Run`]

    Raises:
        `ValueError`: if there is no such file, it is broken, or it holds nothing to draw.
    """
    files = [path]
    if not path.is_file():
        if not path.is_dir():
            raise ValueError(f"{path} does not exist.")
        checkpoints = {
            int(match[1]): folder
            for folder in path.glob("checkpoint-*")
            if (match := re.fullmatch(r"checkpoint-(\d+)", folder.name)) and (folder / TRAINER_STATE).is_file()
        }
        newest = [checkpoints[max(checkpoints)]] if checkpoints else []
        files = [folder / TRAINER_STATE for folder in [path, *newest] if (folder / TRAINER_STATE).is_file()]
        if not files:
            raise ValueError(
                f"{path} holds no {TRAINER_STATE}, and no checkpoint-* with one: give the `output_dir` of a run that "
                "has ended or saved a checkpoint."
            )
    run = max((read_log(file, str(path)) for file in files), key=last_step)
    if not DRAWN & run.history.keys():
        raise ValueError(f"{files[0]} has no metric of GRPO, such as `entropy` or `reward`: there is nothing to draw.")
    return run


def group_by_seed(runs: dict[Path, Run]) -> dict[str, list[Run]]:
    """
    Group runs that differ only in their seed: they lie in one folder, and their names are equal except for what
    [`SEED`] matches. The label of a group is the folder name without the seed, or its path if names would be the same.
    """
    groups: dict[str, list[Run]] = {}
    for path, run in runs.items():
        # The names of the file and of the checkpoint add nothing to that of the run's folder
        path = path.parent if path.name == TRAINER_STATE else path
        path = path.parent if path.name.startswith("checkpoint-") else path
        groups.setdefault(SEED.sub("", path.as_posix()), []).append(run)
    names = [Path(group).name for group in groups]
    return {group if names.count(name) > 1 else name: groups[group] for name, group in zip(names, groups, strict=True)}
