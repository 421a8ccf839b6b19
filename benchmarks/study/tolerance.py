"""What a learning rate that is too high costs: each arm at its best rate and at 2, 4 and 8 times that.

    python -m benchmarks.study.tolerance --task countdown_hard

The best rates are those of the grid, and the runs at them those of the study; both are in the task's `records.jsonl`.
The runs at higher rates go to `tolerance.jsonl` beside it, the table to `tolerance.md`, and the picture to
`tolerance.png`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.markdown import table
from benchmarks.study.__main__ import complete
from benchmarks.study.arms import find_arm
from benchmarks.study.intervals import interval
from benchmarks.study.learning_rates import choose_learning_rates
from benchmarks.study.measures import measure
from benchmarks.study.records import Record, read_records
from benchmarks.study.run import Arguments
from benchmarks.study.tasks import STEPS, TASKS
from opefo_trl.plotting.drawing import COLOURS


ARMS = ["grpo", "opefo", "opefo_low", "opefo_high"]
FACTORS = (2, 4, 8)
SEEDS = [1, 2, 3, 4, 5]
SAMPLINGS = {"hot": "Temperature 1", "cold": "Temperature 0.3"}


def plan(task: str, rates: dict[str, float], seeds: Sequence[int]) -> list[Arguments]:
    """Seed by seed, so that an unfinished table has all arms and rates."""
    return [
        Arguments(task, arm, seed, factor * rate, STEPS, "test")
        for seed in seeds
        for arm, rate in rates.items()
        for factor in FACTORS
    ]


Scores = dict[int, list[dict[str, float]]]  # by the multiple of the rate, one for each seed


def collect(records: Sequence[Record], arm: str, rate: float) -> Scores:
    """What is measured of an arm at its best rate and its multiples, with the seeds that have them all."""
    numbers = {
        (record["learning_rate"], record["seed"]): measure(record, 0.0)
        for record in records
        if record["arm"] == arm and record["split"] == "test"
    }
    factors = (1, *FACTORS)
    seeds = sorted({seed for _, seed in numbers if all((factor * rate, seed) in numbers for factor in factors)})
    return {factor: [numbers[factor * rate, seed] for seed in seeds] for factor in factors}


def make_tolerance_table(records: Sequence[Record], rates: dict[str, float], sampling: str) -> str:
    """
    One line per arm: pass@1 and pass@16 at its best rate, and how they change at the multiples of it, mean ± half of
    the 95 % interval over seeds, in pairs.
    """
    rows = []
    for arm, rate in rates.items():
        scores = collect(records, arm, rate)
        cells = []
        for k in (1, 16):
            key = f"{sampling}@{k}"
            cells.append("{:.3f} ± {:.3f}".format(*interval([numbers[key] for numbers in scores[1]])))
            for factor in FACTORS:
                pairs = zip(scores[factor], scores[1], strict=True)
                cells.append(
                    "{:+.3f} ± {:.3f}".format(*interval([after[key] - before[key] for after, before in pairs]))
                )
        label = find_arm(TASKS[records[0]["task"]], arm).label
        rows.append([label, f"{rate:g}", str(len(scores[1])), *cells])
    heads = [head for k in (1, 16) for head in (f"pass@{k}", *(f"× {factor}" for factor in FACTORS))]
    return table(["arm", "best rate", "seeds", *heads], rows)


def draw(records: Sequence[Record], rates: dict[str, float], path: Path) -> None:
    """pass@1, pass@16 and entropy over the multiple of the best rate, a line per arm; bars are 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = {"hot@1": "pass@1", "hot@16": "pass@16", "second_half": "entropy, second half, nats per token"}
    for (arm, rate), colour in zip(rates.items(), COLOURS, strict=False):
        scores = collect(records, arm, rate)
        label = f"{find_arm(TASKS[records[0]['task']], arm).label} (best rate {rate:g})"
        for axes, key in zip(panels, titles, strict=True):
            points = [interval([numbers[key] for numbers in of_factor]) for of_factor in scores.values()]
            centre, half = zip(*points, strict=True)
            axes.errorbar(list(scores), centre, half, color=colour, marker="o", capsize=3, label=label)
    for axes, title in zip(panels, titles.values(), strict=True):
        axes.set_xscale("log", base=2)
        axes.set_xticks((1, *FACTORS), [f"× {factor}" for factor in (1, *FACTORS)])
        axes.set_ylim(bottom=0)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("learning rate, of the arm's best")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study.tolerance",
        description="Runs arms at multiples of their best learning rate, and writes `tolerance.md`.",
    )
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--arms", nargs="+", default=ARMS, help="(default: strict GRPO, exact, and both targets)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="(default: 1 to 5)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/study"), help="folder (default: %(default)s)")
    options = parser.parse_args()
    folder = options.output / options.task
    TASKS[options.task].prepare(folder)
    records = read_records(folder / "records.jsonl")
    chosen = {arm: next(iter(scores)) for arm, scores in choose_learning_rates(records).items()}
    if untested := [arm for arm in options.arms if arm not in chosen]:
        sys.exit(f"No learning rate has been chosen for {', '.join(untested)}: run the study's grid first.")
    rates = {arm: chosen[arm] for arm in options.arms}
    complete(plan(options.task, rates, options.seeds), folder, options.jobs, "tolerance.jsonl")
    records += read_records(folder / "tolerance.jsonl")
    tables = [f"{head}:\n\n{make_tolerance_table(records, rates, key)}" for key, head in SAMPLINGS.items()]
    text = f"# {TASKS[options.task].title}: a learning rate that is too high\n\n" + "\n\n".join(tables) + "\n"
    (folder / "tolerance.md").write_text(text)
    draw(records, rates, folder / "tolerance.png")
    print(text)


if __name__ == "__main__":
    main()
