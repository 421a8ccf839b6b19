"""`opefo plot`: the curves of one or many runs side by side, and in words what is wrong with them.

Reads `trainer_state.json` alone; neither a model nor torch is loaded.
"""

import argparse
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np


if TYPE_CHECKING:
    from matplotlib.axes import Axes


PROG = "opefo plot"
# Written out, since the modules that own these names load torch
TRAINER_STATE = "trainer_state.json"
ENDINGS = (".png", ".svg")
# What the name of a run ends with for its seed alone: `grpo-seed1`, `grpo_seed1`, `grpo-s1`, or a folder `grpo/seed1`
SEED = re.compile(r"[-_/]s(eed)?[-_]?\d+$")
# Colours of Okabe and Ito, which colour-blind readers can tell apart; their yellow is too pale for a line
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LEGEND_WIDTH = 110  # characters of labels in one line above the panels
SMOOTHING = 26  # a moving average over n points takes n/26 on either side
EDGE = 20  # "at the start" and "at the end" are means over the first and the last twentieth
COLLAPSED_SHARE, COLLAPSED = 0.2, 0.05  # of the entropy at the start; in nats
EXPLODED_SHARE, EXPLODED = 1.1, 2.0  # the same, and both: a model that starts high and stays there does not explode
PINNED = 0.05  # |λ| below which a bound would not matter
PINNED_STEPS = 3  # fewer equal values may be chance
ZERO_STD = 0.7  # share of groups whose rewards are all alike


class Panel(NamedTuple):
    """
    One picture among several.

    Args:
        title (`str`):
            What is drawn.
        unit (`str`):
            Of the vertical axis.
        metrics (`tuple[str, ...]`):
            Names in the log: the first one drawn solid, the second dashed.
        from_zero (`bool`, *optional*, defaults to `False`):
            Whether the axis starts at 0.
    """

    title: str
    unit: str
    metrics: tuple[str, ...]
    from_zero: bool = False


ENTROPY = Panel("Entropy", "nats per token", ("entropy",), from_zero=True)
REWARD = Panel("Reward", "mean", ("reward",))
FLOW = Panel(
    "Entropy flow: increasing, decreasing (dashed)",
    "nats per unit step",
    ("entropy_flow/increase", "entropy_flow/decrease"),
    from_zero=True,
)
COEFFICIENT = Panel("Balance coefficient λ", "λ", ("entropy_flow/coefficient",))
LENGTH = Panel("Length of completions", "tokens, mean", ("completions/mean_length",))
CLIPPED = Panel("Completions cut off", "share", ("completions/clipped_ratio",), from_zero=True)
PANELS = (ENTROPY, REWARD, FLOW, COEFFICIENT, LENGTH, CLIPPED)
DRAWN = {metric for panel in PANELS for metric in panel.metrics}
TARGET = "entropy_flow/target"
READ = {*DRAWN, TARGET, "frac_reward_zero_std"}


@dataclass(frozen=True)
class Run:
    """
    The log of one training.

    Args:
        name (`str`):
            How the user called it.
        history (`dict[str, dict[int, float]]`):
            Finite values of each metric by step; a metric that was not logged is absent.
    """

    name: str
    history: dict[str, dict[int, float]]

    def values(self, metric: str) -> np.ndarray:
        """All values of one metric in the order of the steps, shape `(steps,)`; empty where there is none."""
        return np.array([value for _, value in sorted(self.history.get(metric, {}).items())])


class Curve(NamedTuple):
    """
    One metric of runs that differ in their seed alone, at the steps that all of them logged.

    Args:
        steps (`list[int]`):
            Optimizer steps.
        values (`np.ndarray` of shape `(runs, steps)`):
            What was logged.
        mean, deviation (`np.ndarray` of shape `(steps,)`):
            Mean and standard deviation of the smoothed values over the runs; of a single run the deviation is 0.
    """

    steps: list[int]
    values: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


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
        raise ValueError(f"{path} is not a trainer's: it holds no JSON object.")
    return content


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def read_history(path: Path) -> dict[str, dict[int, float]]:
    """The `history` of [`Run`]: logs of evaluations and of the training as a whole name no such metric"""
    log = read_json(path).get("log_history")
    if not isinstance(log, list) or not all(isinstance(entry, dict) for entry in log):
        raise ValueError(f"{path} is not a trainer's: it holds no list `log_history`.")
    history: dict[str, dict[int, float]] = {}
    for entry in log:
        if is_number(entry.get("step")):
            for metric in READ & entry.keys():
                if is_number(entry[metric]):
                    history.setdefault(metric, {})[int(entry["step"])] = float(entry[metric])
    return history


def last_step(history: dict[str, dict[int, float]]) -> int:
    return max((step for values in history.values() for step in values), default=0)


def read_run(path: Path) -> Run:
    """
    Read a run from its folder, from one of its checkpoints, or from the file itself.

    Args:
        path (`Path`):
            A `trainer_state.json`, or a folder that holds one or has it in a `checkpoint-*`. Of several, the one that
            went furthest counts: a training that goes on writes checkpoints beside the state of its first end.

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
                f"{path} holds no {TRAINER_STATE}, nor does a checkpoint-* in it: name the `output_dir` of a run that "
                "ended or saved a checkpoint."
            )
    history = max(map(read_history, files), key=last_step)
    if not DRAWN & history.keys():
        raise ValueError(f"{files[0]} logged no metric of GRPO, such as `entropy` or `reward`: nothing to draw.")
    return Run(str(path), history)


def group_by_seed(runs: dict[Path, Run]) -> dict[str, list[Run]]:
    """
    Put runs together that differ in the seed alone: in one folder, with names that are equal but for what [`SEED`]
    matches. Labels are names of folders without the seed; where two groups would share one, their whole paths.
    """
    groups: dict[str, list[Run]] = {}
    for path, run in runs.items():
        # The file and the checkpoint say nothing that the folder of the run does not
        path = path.parent if path.name == TRAINER_STATE else path
        path = path.parent if path.name.startswith("checkpoint-") else path
        groups.setdefault(SEED.sub("", path.as_posix()), []).append(run)
    names = [Path(group).name for group in groups]
    return {group if names.count(name) > 1 else name: groups[group] for name, group in zip(names, groups, strict=True)}


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
        raise ValueError(f"{names} have no step of `{metric}` in common, so they have no mean: plot them apart.")
    values = np.array([[history[step] for step in steps] for history in logged])  # (runs, steps)
    smoothed = smooth(values)  # (runs, steps)
    deviation = smoothed.std(0, ddof=1) if len(values) > 1 else np.zeros(len(steps))  # (steps,)
    return Curve(steps, values, smoothed.mean(0), deviation)


def diagnose(run: Run) -> list[str]:
    """
    Say what is wrong with a run and which field to change; nothing about a healthy one.

    Args:
        run ([`Run`]):
            The run. What it did not log is not judged.

    Returns:
        `list[str]`: one sentence per trouble.
    """
    found = []

    def edges(metric: str) -> tuple[float, float]:
        """Means at the start and at the end; NaN, which compares false, where there is nothing."""
        values = run.values(metric)
        width = max(1, len(values) // EDGE)
        return (values[:width].mean(), values[-width:].mean()) if len(values) else (math.nan, math.nan)

    start, end = edges("entropy")
    if end < COLLAPSED or end < COLLAPSED_SHARE * start:
        found.append(
            f"entropy collapsed, {start:.2g} → {end:.2g} nats: set `flow_entropy_target` or "
            "`flow_entropy_target_ratio` (with one set already, raise `flow_max_coefficient`), or lower "
            "`learning_rate`."
        )
    if end > max(EXPLODED, EXPLODED_SHARE * start):
        found.append(
            f"entropy exploded, {start:.2g} → {end:.2g} nats: lower `learning_rate`, or lower "
            "`flow_entropy_target` or `flow_entropy_target_ratio` (without one, set one)."
        )
    magnitudes = np.abs(run.values("entropy_flow/coefficient"))
    last = magnitudes[-(len(magnitudes) // 4) :] if len(magnitudes) >= 4 else magnitudes[:0]
    bound = magnitudes.max(initial=0.0)
    # No log tells the bound; a real number that repeats is one. Means over `logging_steps` equal values round
    pinned = np.isclose(last, bound, rtol=1e-6, atol=0.0)
    if bound >= PINNED and pinned.sum() >= PINNED_STEPS and pinned.mean() > 0.5:
        found.append(
            f"λ is pinned at its bound of ±{bound:.2g} in {pinned.mean():.0%} of the last quarter: raise "
            "`flow_max_coefficient`, lower `learning_rate`, or move `flow_entropy_target` (or "
            "`flow_entropy_target_ratio`) nearer to the entropy."
        )
    zero_std = edges("frac_reward_zero_std")[1]
    if zero_std > ZERO_STD:
        found.append(
            f"{zero_std:.0%} of the groups get the same reward for all completions and teach nothing (mean reward "
            f"{edges('reward')[1]:.2g}): take harder data if nearly all are right, easier data if nearly none, or "
            "raise `num_generations` or `temperature`."
        )
    return found


def draw_panel(axes: "Axes", panel: Panel, groups: dict[str, list[Run]]) -> None:
    for colour, runs in zip(COLOURS, groups.values(), strict=False):
        for metric, style in zip(panel.metrics, ("-", "--"), strict=False):
            curve = make_curve(runs, metric)
            if curve is None:
                continue
            # A single point is no line
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
    """Draw the entropy target of each group in its colour: the last one logged, a mean over its runs."""
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
            Runs that differ in their seed alone, by the label of their line.
        path (`Path`):
            File to write, `.png` or `.svg`. One that is there is replaced.
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
            "matplotlib is missing: `pip install 'opefo_trl[plot]'`, from a checkout `pip install -e '.[plot]'`."
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
    # Names of folders are plain text: a dollar starts no formula, and an underscore in front hides nothing
    for text, label in zip(legend.get_texts(), groups, strict=True):
        text.set_parse_math(False)
        text.set_text(label)
    figure.savefig(path, dpi=150)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Draw entropy, reward, flows, λ and lengths of one or many runs, and say what is wrong with them. "
        "Runs in one folder whose names differ only in a trailing `-seed<N>`, `_seed<N>` or `-s<N>`, or that are "
        "folders `seed<N>`, become one line: their mean, in a band of ± one standard deviation, at the steps that all "
        "of them logged.",
    )
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help=f"the `output_dir` of a run, one of its checkpoints, or a {TRAINER_STATE}; of a folder the newest state",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("entropy_flow.png"),
        metavar="FILE",
        help="picture to write, .png or .svg (default: %(default)s); a file that is there is replaced",
    )
    return parser


def plot(paths: Sequence[Path], out: Path) -> list[str]:
    """
    Read runs, draw them, and judge them.

    Args:
        paths (`Sequence[Path]`):
            Runs as [`read_run`] takes them. One that is named twice counts once.
        out (`Path`):
            File to write.

    Returns:
        `list[str]`: lines for the user, warnings first.

    Raises:
        `ValueError`: if something is missing or broken; then nothing is written.
    """
    if out.suffix.lower() not in ENDINGS:
        raise ValueError(f"`--out` {out} must end with {' or '.join(ENDINGS)}.")
    runs = {path.resolve(): read_run(path) for path in paths}
    groups = group_by_seed(runs)
    try:
        draw(groups, out)
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error.strerror}.") from error
    lines = ", ".join(f"{label} ({len(runs)} seeds)" if len(runs) > 1 else label for label, runs in groups.items())
    return [
        *(f"Warning: {run.name}: {trouble}" for run in runs.values() for trouble in diagnose(run)),
        f"Wrote {out}: {lines}.",
    ]


def main(args: list[str] | None = None) -> int:
    parser = make_parser()
    options = parser.parse_args(args)
    try:
        lines = plot(options.runs, options.out)
    except ValueError as error:
        parser.exit(2, f"{PROG}: error: {' '.join(str(error).split())}\n")
    print("\n".join(lines))
    return 0
