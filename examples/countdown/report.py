"""What the demo says of its runs: a table, two sentences for each arm, and a picture."""

import statistics
from pathlib import Path

from examples.countdown.training import LABELS, Run
from opefo_trl.plotting import drawing
from opefo_trl.plotting.panels import ENTROPY
from opefo_trl.plotting.runs import read_run


TEMPERATURES = (1.0, 0.3)  # of the test
KEPT = 3.0  # puzzles of 100 that are "about as many": about one standard error of 300 puzzles
LAST_STEPS = 10  # steps behind every "at the end"


def summarize(run: Run) -> dict[str, float]:
    """Returns what the table says about the course of a run: its first entropy, and means over its last steps."""
    history = run.history

    def at_end(name: str) -> float:
        return statistics.mean(entry[name] for entry in history[-LAST_STEPS:])

    return {
        "entropy, start": history[0]["entropy"],
        "entropy, end": at_end("entropy"),
        "reward, end": at_end("reward"),
        "λ": at_end("entropy_flow/coefficient"),
        "seconds": run.seconds,
    }


def mean_and_deviation(values: list[float], digits: int) -> str:
    """Returns `mean`, and ` ± standard deviation` where there are several values; `""` where there is none."""
    if not values:
        return ""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def format_table(rows: dict[str, list[dict[str, float]]]) -> str:
    """
    Writes the Markdown table.

    Args:
        rows (`dict[str, list[dict[str, float]]]`):
            Measurements of each arm, one dictionary per seed.

    Returns:
        `str`: one line per arm, in columns that also line up as plain text.
    """
    columns = {"entropy, start": 2, "entropy, end": 2, "λ": 2, "reward, end": 3}
    columns |= {f"T={temperature:g} {score}": 3 for temperature in TEMPERATURES for score in ("pass@1", "pass@16")}
    columns |= {"seconds": 0}
    table = [["arm", *columns]]
    for arm, measured in rows.items():
        values = {name: [row[name] for row in measured if name in row] for name in columns}
        table.append([arm, *(mean_and_deviation(values[name], digits) for name, digits in columns.items())])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in table]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def describe(label: str, measured: list[dict[str, float]], base: dict[str, float]) -> str:
    """What became of an arm, in two sentences: what it solves beside the base model, and its entropy."""

    def mean(name: str) -> float:
        return statistics.mean(row[name] for row in measured)

    solved, before = 100 * mean("T=1 pass@16"), 100 * base["T=1 pass@16"]
    compared = f"{abs(solved - before):.0f} {'more' if solved > before else 'fewer'} than"
    if abs(solved - before) < KEPT:
        compared = "about as many as"
    return (
        f"{label} solves {solved:.0f} of 100 unseen puzzles with 16 answers, {compared} the base model "
        f"({before:.0f}). A single answer is right in {mean('T=1 pass@1'):.1%} of the cases (base "
        f"model: {base['T=1 pass@1']:.1%}). Entropy went from {mean('entropy, start'):.2f} to "
        f"{mean('entropy, end'):.2f} nats."
    )


def draw(runs: list[Run], measured: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draws the entropy of all runs over their steps, and beside it what the models solve."""
    from matplotlib.figure import Figure

    arms = [arm for arm in measured if arm != "base"]
    groups = {LABELS[arm]: [read_run(run.folder) for run in runs if run.arm == arm] for arm in arms}
    colours = {"base": "#999999", **dict(zip(arms, drawing.COLOURS, strict=False))}
    figure = Figure(figsize=(13.0, 3.9), layout="constrained")
    entropy, *tests = figure.subplots(1, 3)
    drawing.draw_panel(entropy, ENTROPY, groups)
    drawing.draw_targets(entropy, groups)
    titles = {"pass@1": "One answer: share that is right", "pass@16": "16 answers: puzzles with a right one"}
    for axes, (score, title) in zip(tests, titles.items(), strict=True):
        for place, (arm, rows) in enumerate(measured.items()):
            names = [f"T={temperature:g} {score}" for temperature in TEMPERATURES]
            heights = [statistics.mean(row[name] for row in rows) for name in names]
            spread = [statistics.stdev([row[name] for row in rows]) if len(rows) > 1 else 0.0 for name in names]
            places = [index + (place - (len(measured) - 1) / 2) * 0.8 / len(measured) for index in range(len(names))]
            label = LABELS.get(arm, "base model")
            bars = axes.bar(places, heights, 0.75 / len(measured), yerr=spread, color=colours[arm], label=label)
            axes.bar_label(bars, fmt=lambda height: f"{height:.0%}", fontsize=8, padding=2)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xticks(range(len(TEMPERATURES)), [f"temperature {temperature:g}" for temperature in TEMPERATURES])
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = tests[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=150)
