"""The tables of a task: arms, their differences to strict GRPO, and their learning rates."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from benchmarks.markdown import table
from benchmarks.study.arms import Arm
from benchmarks.study.intervals import interval, show
from benchmarks.study.measures import measure, problem_scores
from benchmarks.study.records import BASELINE, SAMPLINGS, Record
from benchmarks.study.tasks import Task


NORMAL_QUANTILE = 1.960  # 0.975 quantile, for intervals over many problems
# Keys and heads of the columns, with their digits
ENTROPY_COLUMNS = {
    "start": ("entropy, start", 3),
    "end": ("end", 3),
    "second_half": ("second half", 3),
    "distance": ("distance", 3),
    "worst": ("worst", 3),
}
SCORE_COLUMNS = {
    "hot@1": ("pass@1", 3),
    "hot@4": ("pass@4", 3),
    "hot@16": ("pass@16", 3),
    "hot@64": ("pass@64", 3),
    "nucleus@1": ("top-p 0.7: pass@1", 3),
    "nucleus@16": ("top-p 0.7: pass@16", 3),
    "cold@1": ("temperature 0.3: pass@1", 3),
    "cold@16": ("temperature 0.3: pass@16", 3),
    "best@1": ("best sampling: pass@1", 3),
    "best@16": ("best sampling: pass@16", 3),
    "distinct": ("distinct", 1),
    "distinct_correct": ("distinct, right", 2),
}
TRAINING_COLUMNS = {"steps_to_level": ("steps to level", 0), "train_seconds": ("seconds", 0)}


def score_columns(task: Task) -> dict[str, tuple[str, int]]:
    """Keys, heads and digits of the scores, those of each kind of problem last."""
    kinds = {f"{kind}@{k}": (f"{kind}: pass@{k}", 3) for kind in task.kinds for k in (1, 16)}
    return {**SCORE_COLUMNS, **kinds}


def make_table(groups: dict[str, dict[int, Record]], arms: dict[str, Arm], task: Task) -> str:
    """One line per arm: mean and 95 % interval over its seeds."""
    columns = {**ENTROPY_COLUMNS, **score_columns(task), **TRAINING_COLUMNS}
    rows = []
    for name, runs in groups.items():
        measured = [measure(run, task.level) for run in runs.values()]
        rate = f"{next(iter(runs.values()))['learning_rate']:g}" if arms[name].updates else ""
        cells = [
            show([numbers[key] for numbers in measured if key in numbers], digits)
            for key, (_, digits) in columns.items()
        ]
        rows.append([arms[name].label, rate, str(len(runs)), *cells])
    return table(["arm", "learning rate", "seeds", *(head for head, _ in columns.values())], rows)


def differ_over_problems(pairs: Sequence[tuple[Record, Record]], sampling: str, k: int) -> bool:
    """
    Whether the 95 % interval of the difference in pass@k leaves out 0 over the problems, whose scores are means over
    the pairs of runs: would other problems show it, too?
    """
    scores = [[problem_scores(run["tests"][sampling], k) for run in pair] for pair in pairs]
    changed, unchanged = np.array(scores).mean(0)  # (problems,) each
    differences = changed - unchanged  # (problems,)
    half = NORMAL_QUANTILE * differences.std(ddof=1) / sqrt(len(differences))
    return bool(abs(differences.mean()) > half)


def make_paired_table(groups: dict[str, dict[int, Record]], arms: dict[str, Arm], task: Task) -> str:
    """
    One line per arm: its difference to strict GRPO with the same seed, `*` where the interval leaves out 0, `**` where
    that over the problems does so, too.
    """
    columns = {"end": ("entropy, end", 3), **score_columns(task)}
    baseline = groups.get(BASELINE, {})
    unchanged = {seed: measure(run, task.level) for seed, run in baseline.items()}
    rows = []
    for name, runs in groups.items():
        pairs = [(run, baseline[seed]) for seed, run in runs.items() if seed in baseline]
        if name == BASELINE or not arms[name].updates or not pairs:
            continue
        measured = [(measure(run, task.level), unchanged[run["seed"]]) for run, _ in pairs]
        cells = []
        for key, (_, digits) in columns.items():
            centre, half = interval([numbers[key] - other[key] for numbers, other in measured])
            width = f" ± {half:.{digits}f}" if np.isfinite(half) else ""
            marks = "*" if abs(centre) > half else ""
            sampling, _, k = key.partition("@")
            if marks and sampling in SAMPLINGS and differ_over_problems(pairs, sampling, int(k)):
                marks = "**"
            cells.append(f"{centre:+.{digits}f}{width}{marks}")
        rows.append([arms[name].label, str(len(pairs)), *cells])
    return table(["arm", "pairs", *(head for head, _ in columns.values())], rows)


def make_rates_table(chosen: dict[str, dict[float, list[float]]], arms: dict[str, Arm]) -> str:
    """One line per arm: pass@1 on the validation problems of each learning rate, seed by seed."""
    rates = sorted({rate for scores in chosen.values() for rate in scores})
    rows = [
        [
            arms[name].label,
            *(", ".join(f"{score:.3f}" for score in scores[rate]) for rate in rates),
            f"{next(iter(scores)):g}",
        ]
        for name, scores in chosen.items()
    ]
    return table(["arm", *(f"{rate:g}" for rate in rates), "chosen"], rows)
