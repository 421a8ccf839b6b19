"""What a learning rate that is too high costs: each arm at its best rate and at 2, 4 and 8 times that.

    python -m benchmarks.study.tolerance --task countdown_hard

The best rates are those of the grid, and the runs at them those of the study; both are in the task's `records.jsonl`.
The runs at higher rates go to `tolerance.jsonl` beside it, and the table to `tolerance.md`.
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


def make_tolerance_table(
    best: Sequence[Record], higher: Sequence[Record], rates: dict[str, float], sampling: str
) -> str:
    """
    One line per arm: pass@1 and pass@16 at its best rate, and how they change at the multiples of it, mean ± half of
    the 95 % interval over seeds, in pairs.
    """
    rows = []
    for arm, rate in rates.items():
        scores = {
            (record["learning_rate"], record["seed"]): measure(record, 0.0)
            for record in (*best, *higher)
            if record["arm"] == arm and record["split"] == "test"
        }
        seeds = sorted({seed for of, seed in scores if of == FACTORS[0] * rate and (rate, seed) in scores})
        cells = []
        for k in (1, 16):
            key = f"{sampling}@{k}"
            cells.append("{:.3f} ± {:.3f}".format(*interval([scores[rate, seed][key] for seed in seeds])))
            for factor in FACTORS:
                pairs = [(scores[factor * rate, seed], scores[rate, seed]) for seed in seeds]
                cells.append(
                    "{:+.3f} ± {:.3f}".format(*interval([after[key] - before[key] for after, before in pairs]))
                )
        rows.append([find_arm(TASKS[best[0]["task"]], arm).label, f"{rate:g}", str(len(seeds)), *cells])
    heads = [head for k in (1, 16) for head in (f"pass@{k}", *(f"× {factor}" for factor in FACTORS))]
    return table(["arm", "best rate", "seeds", *heads], rows)


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
    higher = read_records(folder / "tolerance.jsonl")
    tables = [
        f"{head}:\n\n{make_tolerance_table(records, higher, rates, sampling)}" for sampling, head in SAMPLINGS.items()
    ]
    text = f"# {TASKS[options.task].title}: a learning rate that is too high\n\n" + "\n\n".join(tables) + "\n"
    (folder / "tolerance.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
