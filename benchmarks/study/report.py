"""The records of a task as tables and a picture.

python -m benchmarks.study.report outputs/study/countdown
"""

import argparse
import json
import sys
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.markdown import table
from benchmarks.study.arms import Arm, find_arm, make_arms, make_forms
from benchmarks.study.tasks import BATCH_SIZE, TASKS, Task
from opefo_trl.plot import COLOURS, smooth
from opefo_trl.scores import pass_at_k


if TYPE_CHECKING:
    from matplotlib.axes import Axes


Record = dict[str, Any]
# 0.975 quantiles of Student's t distribution for 1, 2, … degrees of freedom
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
NORMAL_QUANTILE = 1.960  # 0.975 quantile, for intervals over many problems
BASELINE = "grpo"
EDGE = 10  # steps behind "at the start", "at the end" and an excursion
NEAR = 0.05  # of a target: as near as its arm has to come
REWARD_WINDOW = 20  # steps of training reward that stand for pass@1 during the training
SAMPLINGS = {"hot": "temperature 1", "nucleus": "temperature 1, top-p 0.7", "cold": "temperature 0.3"}
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


def interval(values: Sequence[float]) -> tuple[float, float]:
    """
    Mean and half the width of its 95 % interval by Student's t; the half-width of a single value is NaN.

    Raises:
        `ValueError`: if there are more values than the table of quantiles reaches.
    """
    if len(values) < 2:
        return mean(values), float("nan")
    if len(values) > len(T_QUANTILES) + 1:
        raise ValueError(
            f"{len(values)} seeds, but the table of t quantiles ends at {len(T_QUANTILES) + 1}: extend it."
        )
    return mean(values), T_QUANTILES[len(values) - 2] * stdev(values) / sqrt(len(values))


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


def misses_target(record: Record, second_half: float) -> bool:
    """Whether an arm of OPEFO with a target is farther than [`NEAR`] from it over the second half of its run."""
    target = find_arm(TASKS[record["task"]], record["arm"]).settings.get("flow_entropy_target")
    return target is not None and abs(second_half - target) > NEAR * target


def rank_learning_rates(records: Sequence[Record]) -> dict[str, dict[float, list[float]]]:
    """
    Scores on the validation problems: of each arm, by learning rate, pass@1 with each seed. Rates with which a target
    is missed come last; of the others those with the most seeds come first, then those with the best mean.
    """
    scores: dict[str, dict[float, dict[int, float]]] = {}
    missed = set()
    for record in records:
        if record["split"] == "validation":
            arm, rate = record["arm"], record["learning_rate"]
            numbers = measure(record, 0.0)
            scores.setdefault(arm, {}).setdefault(rate, {})[record["seed"]] = numbers["nucleus@1"]
            if misses_target(record, numbers["second_half"]):
                missed.add((arm, rate))
    by_seed = {
        arm: {rate: [of_seed[seed] for seed in sorted(of_seed)] for rate, of_seed in rates.items()}
        for arm, rates in scores.items()
    }
    return {
        arm: dict(sorted(rates.items(), key=lambda item: ((arm, item[0]) in missed, -len(item[1]), -mean(item[1]))))
        for arm, rates in by_seed.items()
    }


def choose_learning_rates(records: Sequence[Record]) -> dict[str, dict[float, list[float]]]:
    """
    What [`rank_learning_rates`] returns: the first rate of an arm is the chosen one.

    Raises:
        `ValueError`: if the arms were not tuned alike: the same rates, as many of them with as many seeds.
    """
    ranks = rank_learning_rates(records)
    grids = {arm: (sorted(rates), sorted(map(len, rates.values()))) for arm, rates in ranks.items()}
    for arm, grid in grids.items():
        first, reference = next(iter(grids.items()))
        if grid != reference:
            raise ValueError(
                f"Arms {first!r} and {arm!r} were not tuned alike, learning rates and seeds of each {reference} and "
                f"{grid}: run the grid for all arms with the same `--learning_rates` and `--seeds`."
            )
    return ranks


def show(values: Sequence[float], digits: int) -> str:
    """`mean ± half-width`; where some runs have no value, of the rest, with their number."""
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return "never" if values else ""
    centre, half = interval(finite)
    text = f"{centre:.{digits}f}" + (f" ± {half:.{digits}f}" if np.isfinite(half) else "")
    return text if len(finite) == len(values) else f"{text} ({len(finite)} of {len(values)})"


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


def draw_curves(
    axes: "Axes", groups: dict[str, dict[int, Record]], styles: dict[str, dict[str, Any]], quantity: str
) -> None:
    for name, style in styles.items():
        curves = [run["curves"][quantity] for run in groups[name].values()]
        steps = min(map(len, curves))
        smoothed = smooth(np.array([curve[:steps] for curve in curves]))  # (seeds, steps)
        pairs = [interval(list(values)) for values in smoothed.T]
        centre, half = np.array(pairs).T  # (steps,), (steps,)
        axes.plot(range(1, steps + 1), centre, color=style["color"], linestyle=style["linestyle"], linewidth=1.8)
        if len(curves) > 1:
            band = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
            axes.fill_between(range(1, steps + 1), centre - half, centre + half, **band)


def make_styles(arms: dict[str, Arm]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """How the arms that are trained look, the first ones (GRPO and OPEFO) and the others."""
    trained = [name for name in arms if arms[name].updates]
    ours, others = (
        {
            name: {"color": colour, "linestyle": line, "marker": marker, "markerfacecolor": face or colour}
            for name, colour in zip(names, COLOURS, strict=False)
        }
        for names, line, marker, face in (
            (trained[: len(COLOURS)], "-", "o", None),
            (trained[len(COLOURS) :], "--", "s", "white"),
        )
    )
    return ours, others


def draw_rates(records: Sequence[Record], arms: dict[str, Arm], path: Path) -> None:
    """
    Draw pass@16 over pass@1 on the validation problems, a line for each arm through its learning rates, low to high:
    its frontier, for which nothing was chosen. Below, pass@16 over the entropy at the end.
    """
    from matplotlib.figure import Figure

    points: dict[str, dict[float, list[tuple[float, float, float]]]] = {}
    for record in records:
        if record["split"] == "validation" and record["arm"] in arms:
            numbers = measure(record, 0.0)
            of_rate = points.setdefault(record["arm"], {}).setdefault(record["learning_rate"], [])
            of_rate.append((numbers["nucleus@1"], numbers["end"], numbers["nucleus@16"]))
    figure = Figure(figsize=(12.0, 9.6), layout="constrained")
    grid = figure.subplots(2, 2, sharex="row", sharey=True)
    for column, styles in zip(grid.T, make_styles(arms), strict=True):
        for name, style in ({BASELINE: {"color": "0.6", "marker": "o"}} | styles).items():
            if name in points:
                means = [np.mean(points[name][rate], axis=0) for rate in sorted(points[name])]
                *xs, y = np.array(means).T  # (rates,) each
                for axes, x in zip(column, xs, strict=True):
                    axes.plot(x, y, **style, label=arms[name].label)
                    axes.annotate(f"{min(points[name]):g}", (x[0], y[0]), fontsize=7, color=style["color"])
        for axes, label in zip(column, ("pass@1", "entropy at the end, nats per token"), strict=True):
            axes.set_xlabel(label)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        column[0].legend(frameon=False, fontsize=8)
    for axes in grid[:, 0]:
        axes.set_ylabel("pass@16")
    figure.suptitle("One point per learning rate, from the lowest, which is written; top-p 0.7, validation problems")
    figure.savefig(path, dpi=130)


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


def draw(groups: dict[str, dict[int, Record]], arms: dict[str, Arm], task: Task, path: Path) -> None:
    """
    Draw entropy and training reward of all arms over the steps, and pass@16 over pass@1 for each sampling; bands and
    bars are 95 % intervals over the seeds.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    ours, rivals = make_styles(arms)
    styles = {name: style for name, style in (ours | rivals).items() if name in groups}
    figure = Figure(figsize=(14.0, 13.0), layout="constrained")
    curves, frontiers = figure.subfigures(2, 1, height_ratios=(2, 1))  # type: ignore[misc]
    grid = curves.subplots(2, 2, sharex=True, sharey="row")
    for column, names, title in (
        (grid[:, 0], ours, "GRPO and OPEFO"),
        (grid[:, 1], rivals, "other controls; grey: strict GRPO"),
    ):
        shown = {name: styles[name] for name in names if name in styles}
        if names is rivals and BASELINE in groups:
            shown = {BASELINE: {"color": "0.6", "linestyle": "-"}} | shown
        for axes, quantity in zip(column, ("entropy", "reward"), strict=True):
            draw_curves(axes, groups, shown, quantity)
        for target in task.entropy_targets:
            column[0].axhline(target, color="0.25", linestyle=":", linewidth=1.0)
        column[0].set_title(f"Entropy, {title} (dotted: targets)", loc="left", fontsize=11)
        column[1].set_title(f"Training reward, {title}", loc="left", fontsize=11)
    for axes, label in zip(grid[:, 0], ("nats per token", "share of right answers"), strict=True):
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
    for axes in grid[-1]:
        axes.set_xlabel("rollout batches")
    panels = frontiers.subplots(1, 3)
    for axes, (sampling, title) in zip(panels, SAMPLINGS.items(), strict=True):
        for name, runs in groups.items():
            measured = [measure(run, task.level) for run in runs.values()]
            (x, dx), (y, dy) = (interval([numbers[f"{sampling}@{k}"] for numbers in measured]) for k in (1, 16))
            look = styles.get(name, {"color": "black", "marker": "*", "markersize": 11})
            axes.errorbar(x, y, dy, dx, **{**look, "linestyle": "none", "elinewidth": 0.8})
        axes.set_title(f"{title[0].upper()}{title[1:]} (star: base)", loc="left", fontsize=11)
        axes.set_xlabel("pass@1")
        axes.set_ylabel("pass@16")
    for axes in [*grid.flat, *panels]:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], **style, label=arms[name].label) for name, style in styles.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(path, dpi=130)


def write_rates(folder: Path) -> str:
    """
    Write `rates.md` and `rates.png`, the learning rates compared, beside the records, and return what the first holds.

    Raises:
        `ValueError`: if the arms were not tuned alike.
    """
    records = read_records(folder / "records.jsonl")
    chosen = choose_learning_rates(records)
    task = TASKS[records[0]["task"]]
    with_score, with_answers, runs = correlate(records)
    text = f"""# {task.title}: learning rates

pass@1 with top-p 0.7 on the validation problems, which are neither trained nor tested on, one score per seed. Of the
rates with the most seeds the one with the best mean is chosen. An arm with a target takes no rate with which it is
more than {NEAR:.0%} off over the second half of the run.

{make_rates_table(chosen, make_arms(task) | make_forms(task))}

Over the {runs} runs whose entropy fell, of whatever arm and rate, the entropy at the end correlates with pass@16 with
r = {with_score:.2f}, and with the number of different answers of 16 with r = {with_answers:.2f}.
"""
    (folder / "rates.md").write_text(text)
    draw_rates(records, make_arms(task), folder / "rates.png")
    return text


def write_report(folder: Path) -> str:
    """
    Write `table.md` and `study.png` beside the records.

    Args:
        folder (`Path`):
            Folder that holds `records.jsonl` of one task.

    Returns:
        `str`: what `table.md` holds.

    Raises:
        `ValueError`: if there is no record of a test.
    """
    records = read_records(folder / "records.jsonl")
    tested = [record for record in records if record["split"] == "test"]
    if not tested:
        raise ValueError(f"{folder / 'records.jsonl'} holds no record of a test: run the study first.")
    task = TASKS[tested[0]["task"]]
    arms = make_arms(task) | make_forms(task)
    groups = by_arm(records, arms)
    steps = sorted({record["steps"] for record in tested if "curves" in record})
    versions = "; ".join(sorted({", ".join(f"{k} {v}" for k, v in r["versions"].items()) for r in tested}))
    problems = len(next(iter(tested[0]["tests"].values()))["correct"])
    text = f"""# {task.title}

Mean ± half of the 95 % interval (Student's t) over seeds. {", ".join(map(str, steps))} rollout batches of
{BATCH_SIZE} completions; {problems} problems that neither training nor tuning has seen. Unless said, sampled at
temperature 1: 64 answers to each problem, 16 with top-p 0.7 and at temperature 0.3. Entropy in nats per token, over
{EDGE} batches at the start and at the end, and over the second half. distance, worst: from the arm's target, else from
its own start, at the end and at most in the second half. best sampling: of the three, the best for each arm and run.
distinct: different answers of 64, and different right ones. steps to level: rollout batches until the training reward,
a mean of {REWARD_WINDOW}, reaches {task.level:g}. seconds: of the training, several at a time on one machine.

{make_table(groups, arms, task)}

Difference to strict GRPO with the same seed; `*`: the interval leaves out 0; `**`: one over the problems instead
of the seeds leaves it out, too (pass@k of each sampling). Not corrected for the number of comparisons.

{make_paired_table(groups, arms, task)}
"""
    text += f"\n{versions}.\n"
    (folder / "table.md").write_text(text)
    drawn = make_arms(task)
    draw({name: runs for name, runs in groups.items() if name in drawn}, drawn, task, folder / "study.png")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the tables and the picture of a task's records.")
    parser.add_argument("folder", type=Path, help="folder that holds `records.jsonl`")
    try:
        print(write_report(parser.parse_args().folder))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
