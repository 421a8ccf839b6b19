"""Draws runs: one panel per metric, with curves that are smoothed and averaged over the seeds."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .panels import ENTROPY, PANELS, TARGET, Panel
from .runs import Run


if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Colours of Okabe and Ito, which colour-blind readers can tell apart; their yellow is too pale for a line
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LEGEND_WIDTH = 110  # characters of labels in one line above the panels
SMOOTHING = 26  # a moving average over n points takes n/26 on either side


class Curve(NamedTuple):
    """
    One metric of runs that differ only in their seed, at the steps that all of them logged.

    Args:
        steps (`list[int]`):
            Optimizer steps.
        values (`np.ndarray` of shape `(runs, steps)`):
            What was logged.
        mean, deviation (`np.ndarray` of shape `(steps,)`):
            Mean and standard deviation of the smoothed values over the runs; the deviation of a single run is 0.
    """

    steps: list[int]
    values: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def smooth(values: np.ndarray) -> np.ndarray:
    """Average over a window around each step, narrower at both ends, along the last dimension."""
    radius = values.shape[-1] // SMOOTHING
    steps = range(values.shape[-1])
    return np.stack([values[..., max(0, s - radius) : s + radius + 1].mean(-1) for s in steps], axis=-1)  # (*, steps)


def make_curve(runs: list[Run], metric: str) -> Curve | None:
    """
    Returns:
        [`Curve`], or `None` if none of the runs logged the metric; runs that did not are left out.

    Raises:
        `ValueError`: if the runs have no step in common.
    """
    logged = [run.history[metric] for run in runs if metric in run.history]
    if not logged:
        return None
    steps = sorted(set.intersection(*map(set, logged)))
    if not steps:
        names = ", ".join(run.name for run in runs)
        raise ValueError(f"{names} have no step of `{metric}` in common, so no mean can be drawn: plot them apart.")
    values = np.array([[history[step] for step in steps] for history in logged])  # (runs, steps)
    smoothed = smooth(values)  # (runs, steps)
    deviation = smoothed.std(0, ddof=1) if len(values) > 1 else np.zeros(len(steps))  # (steps,)
    return Curve(steps, values, smoothed.mean(0), deviation)


def draw_panel(axes: "Axes", panel: Panel, groups: dict[str, list[Run]]) -> None:
    for colour, runs in zip(COLOURS, groups.values(), strict=False):
        for metric, style in zip(panel.metrics, ("-", "--"), strict=False):
            curve = make_curve(runs, metric)
            if curve is None:
                continue
            # A single point makes no line
            marker = "o" if len(curve.steps) == 1 else None
            if len(curve.values) == 1:
                axes.plot(curve.steps, curve.values[0], color=colour, alpha=0.2, linewidth=0.6, zorder=1)
            else:
                low, high = curve.mean - curve.deviation, curve.mean + curve.deviation
                axes.fill_between(curve.steps, low, high, color=colour, alpha=0.18, linewidth=0, zorder=1)
            axes.plot(curve.steps, curve.mean, style, color=colour, linewidth=2.0, marker=marker, zorder=3)
    axes.set_title(panel.title, loc="left", fontsize=11)
    axes.set_ylabel(panel.unit)
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    if panel.from_zero:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def draw_targets(axes: "Axes", groups: dict[str, list[Run]]) -> None:
    """Draw the entropy target of each group in its colour: the last logged one, averaged over its runs."""
    lines = {}
    for colour, runs in zip(COLOURS, groups.values(), strict=False):
        if targets := [run.values(TARGET)[-1] for run in runs if TARGET in run.history]:
            lines[colour] = sum(targets) / len(targets)
    for colour, target in lines.items():
        axes.axhline(target, color=colour, linestyle="--", linewidth=1.2)
    if lines:
        axes.set_title(f"{axes.get_title(loc='left')} (dashed: target)", loc="left", fontsize=11)


def draw(groups: dict[str, list[Run]], path: Path, panels: Sequence[Panel] = PANELS) -> None:
    """
    Draw runs over their steps, one line per group: the mean in a band of one standard deviation over the runs, or a
    single run over its faint unsmoothed values.

    Args:
        groups (`dict[str, list[Run]]`):
            Runs that differ only in their seed, by the label of their line.
        path (`Path`):
            File to write, `.png` or `.svg`. An existing file is replaced.
        panels (`Sequence[Panel]`, *optional*, defaults to `PANELS`):
            What to draw. Panels that no run has a value for are left out.

    Raises:
        `ValueError`: if matplotlib is missing, or there are more groups than colours.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ModuleNotFoundError as error:
        raise ValueError(
            "matplotlib is missing: run `pip install 'opefo_trl[plot]'`, or in a checkout `pip install -e '.[plot]'`."
        ) from error
    if len(groups) > len(COLOURS):
        raise ValueError(f"{len(groups)} lines, but only {len(COLOURS)} colours can be told apart: plot fewer runs.")
    logged = {metric for runs in groups.values() for run in runs for metric in run.history}
    panels = [panel for panel in panels if logged & {*panel.metrics}]
    rows = math.ceil(len(panels) / 3)
    columns = math.ceil(len(panels) / rows)
    figure = Figure(figsize=(max(6.0, 4.4 * columns), 3.7 * rows + 0.5), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # type: ignore[union-attr,call-arg]
    all_axes = figure.subplots(rows, columns, squeeze=False).flat
    for axes, panel in zip(all_axes, panels, strict=False):
        draw_panel(axes, panel, groups)
        if panel is ENTROPY:
            draw_targets(axes, groups)
    for axes in all_axes[len(panels) :]:
        axes.remove()
    handles = [Line2D([], [], color=colour, linewidth=2.0) for colour in COLOURS[: len(groups)]]
    columns = max(1, min(len(groups), LEGEND_WIDTH // (max(map(len, groups)) + 6)))
    legend = figure.legend(handles, ["x"] * len(groups), loc="outside upper center", ncols=columns, frameon=False)
    # Folder names are plain text: `$` must not start a formula, and a leading `_` must not hide the label
    for text, label in zip(legend.get_texts(), groups, strict=True):
        text.set_parse_math(False)
        text.set_text(label)
    figure.savefig(path, dpi=150)
