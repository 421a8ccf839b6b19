"""The pictures of a task: its arms, and their learning rates."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.study.arms import Arm
from benchmarks.study.intervals import interval
from benchmarks.study.measures import measure
from benchmarks.study.records import BASELINE, SAMPLINGS, Record
from benchmarks.study.tasks import Task
from opefo_trl.plotting.drawing import COLOURS, smooth


if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
