"""The ratios of a run beside their budgets, drawn."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from opefo_trl.plotting.drawing import COLOURS


PASSES = {"TRL": COLOURS[0], "OPEFO": COLOURS[1], "two projections": COLOURS[2], "naive": COLOURS[3]}
PASS_BUDGET = 1.05


def step_budget(case: dict[str, Any]) -> float | None:
    """Of the step's time against GRPO's; a step with an added pass is judged with its generation alone."""
    if case["trl_pass"]:
        return 1.01
    return 1.05 if case["generation"] == "transformers" else None


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """
    Draws time and memory of the measuring pass, and the time of a step, against TRL's.

    Args:
        records (`list[dict]`):
            Of the parts `projection` and `step`.
        path (`Path`):
            Picture to write.
    """
    passes = [record for record in records if record["benchmark"] == "projection"]
    steps = [record for record in records if record["benchmark"] == "step" and record["arm"] == "OPEFO"]
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    cases = list(dict.fromkeys((record["case"]["shape"], record["case"]["tokens"]) for record in passes))
    for panel, ratio, title in zip(axes, ("time_ratio", "memory_ratio"), ("time", "peak memory"), strict=False):
        for i, (name, colour) in enumerate(PASSES.items()):
            of_arm = {(r["case"]["shape"], r["case"]["tokens"]): r[ratio] for r in passes if r["arm"] == name}
            positions = [position + 0.2 * (i - 1.5) for position, case in enumerate(cases) if case in of_arm]
            panel.bar(positions, [of_arm[case] for case in cases if case in of_arm], 0.2, color=colour, label=name)
        panel.axhline(PASS_BUDGET, color="0.2", linewidth=0.8, linestyle="--")
        panel.set_xticks(range(len(cases)), [f"{shape}\n{tokens:,} tokens" for shape, tokens in cases], fontsize=7)
        panel.set_title(f"Measuring pass: {title} / TRL's own", fontsize=10)
    axes[0].set_ylim(0, 3.2)
    axes[0].legend(fontsize=8, loc="upper left", ncols=2)
    axes[1].set_yscale("log")
    places = range(len(steps))
    axes[2].bar(places, [record["time_ratio"] for record in steps], 0.5, color=COLOURS[1])
    for position, record in zip(places, steps, strict=True):
        budget = step_budget(record["case"])
        if budget is not None:
            ends = [position - 0.35, position + 0.35]
            axes[2].plot(ends, [budget, budget], color="0.2", linewidth=0.8, linestyle="--")
        axes[2].text(
            position, record["time_ratio"], f"{record['time_ratio']:.2f}", ha="center", va="bottom", fontsize=8
        )
    labels = [
        f"{record['case']['training']}\n{'pass: TRL’s' if record['case']['trl_pass'] else 'pass added'}\n"
        f"{record['case']['generation']}"
        for record in steps
    ]
    axes[2].set_xticks(places, labels, fontsize=7)
    axes[2].set_ylim(0.8, None)
    axes[2].set_title("Optimizer step: time / GRPO's", fontsize=10)
    figure.suptitle("Dashed: the budget", fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)
