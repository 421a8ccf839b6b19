"""The records of a task's runs: read from `records.jsonl`, and grouped by arm."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.arms import Arm


Record = dict[str, Any]
BASELINE = "grpo"
SAMPLINGS = {"hot": "temperature 1", "nucleus": "temperature 1, top-p 0.7", "cold": "temperature 0.3"}


def read_records(path: Path) -> list[Record]:
    """
    Raises:
        `ValueError`: if a line is broken, with its number.
    """
    records = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"Line {number} of {path} is not JSON ({error}): delete it, and run again.") from error
    return records


def by_arm(records: Sequence[Record], arms: dict[str, Arm]) -> dict[str, dict[int, Record]]:
    """
    Records of tests by arm, in the order of the arms, and by seed.

    Raises:
        `ValueError`: if the runs of an arm differ in more than their seed.
    """
    grouped: dict[str, dict[int, Record]] = {}
    for name in arms:
        runs = [record for record in records if record["arm"] == name and record["split"] == "test"]
        if len({(run["learning_rate"], run["steps"]) for run in runs}) > 1:
            raise ValueError(
                f"The records of {name!r} have several learning rates or numbers of steps, which are not one line of "
                "a table: delete those that are out of date from `records.jsonl`."
            )
        if runs:
            grouped[name] = {run["seed"]: run for run in sorted(runs, key=lambda run: run["seed"])}
    return grouped
