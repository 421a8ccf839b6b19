"""The study's two pictures."""

from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.study.prediction.decomposition import PARTS
from benchmarks.study.prediction.merits import Pairs, merits_of
from benchmarks.study.prediction.records import (
    ARMS,
    LABELS,
    OPTIMIZERS,
    PREDICTIONS,
    balance_pairs,
    of_arm,
    own_updates,
    part_of,
    plain_pairs,
    sizes_of,
)
from opefo_trl.config import FLOW_ESTIMATORS
from opefo_trl.plotting.drawing import COLOURS


def draw_scatter(records: list[dict], path: Path) -> None:
    """Measured against predicted change of the mean entropy, one point per batch."""

    def pairs(chosen: list[dict], optimizer: str, column: str) -> Pairs:
        if column == "balance":
            return balance_pairs(chosen, optimizer, "exact", "exact", 1.0)
        return plain_pairs(chosen, optimizer, column, 1.0)

    columns = {name: LABELS[name] for name in (*FLOW_ESTIMATORS, "parametric")} | {"balance": "effect of the balance"}
    figure, all_axes = plt.subplots(2, len(columns), figsize=(14, 5.8), layout="constrained", sharey="row")
    points = sorted({record["step"] for record in records})
    for line, optimizer in zip(all_axes, OPTIMIZERS, strict=True):
        for axes, (column, label) in zip(line, columns.items(), strict=True):
            for arm, marker in zip(ARMS, "os", strict=True):
                chosen = of_arm(records, arm)
                x, y = zip(*pairs(chosen, optimizer, column), strict=True)
                colours = [points.index(record["step"]) / max(len(points) - 1, 1) for record in chosen]
                axes.scatter(x, y, c=colours, cmap="viridis", vmin=0, vmax=1, s=20, marker=marker, alpha=0.85)
            merit = merits_of(pairs(records, optimizer, column))
            axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
            axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
            ends = np.array(axes.get_xlim())
            axes.plot(ends, merit["slope"] * ends, color="#D55E00", linewidth=1.2, scalex=False, scaley=False)
            axes.set_title(f"{LABELS[optimizer]}, {label}: r = {merit['pearson']:.2f}", fontsize=9)
            axes.set_xlabel("predicted, nats per token", fontsize=8)
            axes.tick_params(labelsize=8)
            axes.ticklabel_format(style="sci", scilimits=(0, 0))
            axes.locator_params(axis="x", nbins=4)
            for axis in (axes.xaxis, axes.yaxis):
                axis.get_offset_text().set_fontsize(8)
        line[0].set_ylabel("measured change of the\nmean entropy, nats per token", fontsize=9)
    figure.suptitle(
        "One step from each batch. First four columns: the plain update; last: balanced (exact) minus plain.\n"
        "Circles: batches of GRPO's runs, squares: of OPEFO's; dark: first steps, light: last; line: slope through 0.",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_decay(axes: Axes, records: list[dict]) -> None:
    """How correlations decay with the step size."""
    sizes = sizes_of(records)
    for name, colour in zip(PREDICTIONS, COLOURS, strict=False):
        for optimizer, style in zip(OPTIMIZERS, ("-", "--"), strict=True):
            correlations = [merits_of(plain_pairs(records, optimizer, name, size))["pearson"] for size in sizes]
            label = LABELS[name] if optimizer == "sgd" else None
            axes.plot(sizes, correlations, style, color=colour, marker="o", ms=4, label=label)
    axes.set_xscale("log")
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.set_xlabel("step size, as a multiple of the trainer's")
    axes.set_ylabel("correlation over batches")
    axes.set_title(
        "Predicted and measured change of the mean entropy\nplain update; SGD solid, AdamW dashed", fontsize=10
    )
    axes.set_ylim(bottom=-0.5)
    axes.legend(fontsize=8, loc="lower left", ncols=2)


def draw_drift(axes: Axes, records: list[dict]) -> None:
    """Of what the drift of each run consists."""
    names = ("measured", *PARTS)
    for i, ((optimizer, arm), colour) in enumerate(zip(product(OPTIMIZERS, ARMS), COLOURS, strict=False)):
        steps = own_updates(records, arm, optimizer, 1.0)
        values = np.array([[part_of(step, name) for name in names] for step in steps]) * 1e4  # (steps, names)
        error = values.std(0, ddof=1) / len(values) ** 0.5
        positions = np.arange(len(names)) + 0.2 * (i - 1.5)
        label = f"{LABELS[optimizer]}, {LABELS[arm]}"
        axes.bar(positions, values.mean(0), 0.2, yerr=error, color=colour, label=label, error_kw={"linewidth": 0.8})
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names], fontsize=8)
    axes.set_ylabel("1e-4 nats per token, mean ± s.e.")
    axes.set_title("The change of one step, and the parts that add up to it (update of the run itself)", fontsize=10)
    axes.legend(fontsize=8, loc="lower right")


def draw_parts(records: list[dict], path: Path) -> None:
    """[`draw_decay`] beside [`draw_drift`]."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained", width_ratios=(1, 1.5))
    draw_decay(left, records)
    draw_drift(right, records)
    figure.savefig(path, dpi=130)
    plt.close(figure)
