"""What is measured of a run, by its record: entropies, scores, steps to a level."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.study.records import Record
from benchmarks.study.tasks import TASKS
from opefo_trl.evaluation.scores import pass_at_k


EDGE = 10  # steps behind "at the start", "at the end" and an excursion
REWARD_WINDOW = 20  # steps of training reward that stand for pass@1 during the training


def steps_to(rewards: Sequence[float], level: float) -> float:
    """Steps until the mean of the last [`REWARD_WINDOW`] rewards reaches the level; NaN if it never does."""
    for step in range(REWARD_WINDOW, len(rewards) + 1):
        if mean(rewards[step - REWARD_WINDOW : step]) >= level:
            return step
    return float("nan")


def problem_scores(result: dict[str, Any], k: int) -> list[float]:
    """pass@k of each problem of one test."""
    return [pass_at_k(result["samples"], right, k) for right in result["correct"]]


def measure(record: Record, level: float) -> dict[str, float]:
    """
    The numbers of one run, by the keys of the columns; a base model has no others than its scores.

    `second_half` is the mean entropy of the second half of the run. `distance` and `worst` are in nats from the arm's
    entropy target, or without one from the entropy at the start: that of the end, and the largest of any mean over
    [`EDGE`] steps in the second half of the run.
    """
    numbers = {}
    for name, result in record["tests"].items():
        for k in (1, 4, 16, 64):
            if k <= result["samples"]:
                numbers[f"{name}@{k}"] = mean(problem_scores(result, k))
    kinds = TASKS[record["task"]].kinds
    for index, kind in enumerate(kinds if "hot" in record["tests"] else ()):
        for k in (1, 16):
            numbers[f"{kind}@{k}"] = mean(problem_scores(record["tests"]["hot"], k)[index :: len(kinds)])
    # Who wants one right answer samples coldly, who wants one of 16 hotly: the ends of an arm's frontier
    for k in (1, 16):
        if scores := [numbers[key] for name in record["tests"] if (key := f"{name}@{k}") in numbers]:
            numbers[f"best@{k}"] = max(scores)
    hot = record["tests"].get("hot", {})
    numbers |= {key: hot[key] for key in ("distinct", "distinct_correct") if key in hot}
    if "curves" not in record:
        return numbers
    entropies = record["curves"]["entropy"]
    start, end = mean(entropies[:EDGE]), mean(entropies[-EDGE:])
    reference = start if record["entropy_target"] is None else record["entropy_target"]
    second_half = entropies[len(entropies) // 2 :]
    windows = [mean(second_half[i : i + EDGE]) for i in range(max(1, len(second_half) - EDGE + 1))]
    return numbers | {
        "start": start,
        "end": end,
        "second_half": mean(second_half),
        "distance": abs(end - reference),
        "worst": max(abs(window - reference) for window in windows),
        "steps_to_level": steps_to(record["curves"]["reward"], level),
        "train_seconds": record["train_seconds"],
    }


def correlate(records: Sequence[Record]) -> tuple[float, float, int]:
    """
    On the validation problems Pearson's correlations of the entropy at the end with pass@16 and with the number of
    different answers, and the number of runs in them: those whose entropy fell. One whose entropy rises unlearns.
    """
    rows = []
    for record in records:
        if record["split"] == "validation":
            numbers = measure(record, 0.0)
            if numbers["end"] < numbers["start"]:
                rows.append((numbers["end"], numbers["nucleus@16"], record["tests"]["nucleus"]["distinct"]))
    matrix = np.corrcoef(np.array(rows).T)  # (3, 3)
    return float(matrix[0, 1]), float(matrix[0, 2]), len(rows)
