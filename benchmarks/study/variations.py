"""How OPEFO's outcome depends on each of its knobs: one changed at a time, everything else as in the study.

    python -m benchmarks.study.variations --task countdown --seeds 1 2 3

Goes on in the folder of the study, whose learning rates it takes; the default of a knob is the study's own arm and not
run again. Writes `variations.md` and `variations.png` beside the records.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.markdown import table
from benchmarks.study.__main__ import complete
from benchmarks.study.intervals import interval, show
from benchmarks.study.learning_rates import choose_learning_rates
from benchmarks.study.measures import measure
from benchmarks.study.records import BASELINE, Record, read_records
from benchmarks.study.run import Arguments
from benchmarks.study.tasks import BATCH_SIZE, STEPS, TASKS, Task
from opefo_trl.plotting.drawing import COLOURS


# Keys, heads and digits of the columns
COLUMNS = {
    "second_half": ("entropy, second half", 3),
    "coefficient": ("λ, second half", 3),
    "hot@1": ("pass@1", 3),
    "hot@16": ("pass@16", 3),
    "nucleus@1": ("top-p 0.7: pass@1", 3),
    "cold@1": ("temperature 0.3: pass@1", 3),
    "distinct": ("distinct", 1),
}
PANELS = ("second_half", "nucleus@1", "hot@16")


@dataclass(frozen=True)
class Knob:
    """
    One setting of an arm and its values.

    Args:
        arm (`str`):
            The arm that it is changed in.
        setting (`str`):
            Field of [`~opefo_trl.OPEFOConfig`].
        names (`dict[float, str]`):
            Of each value the name of the arm, as [`~benchmarks.study.arms.find_arm`] reads it.
    """

    arm: str
    setting: str
    names: dict[float, str]


def make_knobs(task: Task) -> list[Knob]:
    """The knobs; the default of each is the study's own arm, the other values are run at that arm's learning rate."""
    low, high = task.entropy_targets

    def knob(arm: str, setting: str, values: list[float], default: float) -> Knob:
        return Knob(arm, setting, {v: arm if v == default else f"{arm} {setting}={v:g}" for v in values})

    targets = [round(0.7 * low, 2), low, high, round(1.3 * high, 2)]
    return [
        knob("opefo", "flow_strength", [0.0, 0.25, 0.5, 1.0], 1.0),
        knob("opefo", "flow_max_coefficient", [0.05, 0.2, 0.5, 0.9], 0.5),
        knob("opefo", "per_device_train_batch_size", [BATCH_SIZE // 2, BATCH_SIZE, 2 * BATCH_SIZE], BATCH_SIZE),
        knob("opefo_low", "flow_entropy_target", targets, low),
        knob("opefo_low", "flow_entropy_gain", [0.5, 1, 2, 4, 8], 4),
        knob("opefo_low", "flow_max_coefficient", [0.1, 0.2, 0.5, 0.9], 0.5),
    ]


def measure_half(record: Record, level: float) -> dict[str, float]:
    """[`~benchmarks.study.measures.measure`], and λ averaged over the second half of the run."""
    coefficients = record["curves"]["coefficient"]
    return measure(record, level) | {"coefficient": mean(coefficients[len(coefficients) // 2 :])}


def collect(records: list[Record], task: Task, seeds: list[int]) -> dict[str, list[dict[str, float]]]:
    """What was measured of each arm, by its name, over the seeds that are there."""
    collected: dict[str, list[dict[str, float]]] = {}
    for record in records:
        if record["split"] == "test" and record["seed"] in seeds and "curves" in record:
            collected.setdefault(record["arm"], []).append(measure_half(record, task.level))
    return collected


def make_table(knobs: list[Knob], collected: dict[str, list[dict[str, float]]]) -> str:
    """One line per value of each knob: mean and 95 % interval over the seeds."""
    rows = []
    for knob in knobs:
        for value, name in knob.names.items():
            if name in collected:
                numbers = collected[name]
                cells = [show([n[key] for n in numbers], digits) for key, (_, digits) in COLUMNS.items()]
                rows.append([knob.arm, f"`{knob.setting}`", f"{value:g}", str(len(numbers)), *cells])
    return table(["arm", "knob", "value", "seeds", *(head for head, _ in COLUMNS.values())], rows)


def draw(knobs: list[Knob], collected: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw entropy, pass@1 and pass@16 over the values of each knob, with strict GRPO's in grey."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(knobs), 7.5), layout="constrained")
    grid = figure.subplots(len(PANELS), len(knobs), sharey="row", squeeze=False)
    for line, key in zip(grid, PANELS, strict=True):
        for axes, knob in zip(line, knobs, strict=True):
            values = [value for value, name in knob.names.items() if name in collected]
            pairs = [interval([n[key] for n in collected[knob.names[value]]]) for value in values]
            if pairs:
                centres, halves = np.array(pairs).T
                axes.errorbar(range(len(values)), centres, np.nan_to_num(halves), color=COLOURS[1], marker="o")
            if BASELINE in collected:
                axes.axhline(mean(n[key] for n in collected[BASELINE]), color="0.6", linewidth=1.0)
            axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(COLUMNS[key][0])
    for axes, knob in zip(grid[0], knobs, strict=True):
        axes.set_title(f"{knob.arm}:\n{knob.setting}", fontsize=9)
    figure.suptitle("One knob at a time; bars: 95 % intervals over seeds; grey: strict GRPO", fontsize=10)
    figure.savefig(path, dpi=130)


def write_report(folder: Path, task: Task, seeds: list[int]) -> str:
    """Write `variations.md` and `variations.png`, and return what the first holds."""
    knobs = make_knobs(task)
    collected = collect(read_records(folder / "records.jsonl"), task, seeds)
    text = f"""# {task.title}: one knob at a time

Mean ± half of the 95 % interval (Student's t) over the seeds {", ".join(map(str, seeds))}; {STEPS} rollout
batches. A strength of 0 is strict GRPO. Columns as in `table.md`.

{make_table(knobs, collected)}
"""
    (folder / "variations.md").write_text(text)
    draw(knobs, collected, folder / "variations.png")
    return text


def vary(task_name: str, seeds: list[int], folder: Path, jobs: int) -> str:
    """
    Run the variations that are missing, and report.

    Raises:
        `ValueError`: if the study's own arms have no learning rate yet.
        `RuntimeError`: if a run fails.
    """
    task = TASKS[task_name]
    chosen = choose_learning_rates(read_records(folder / "records.jsonl"))
    knobs = make_knobs(task)
    needed = {name.split()[0] for knob in knobs for name in knob.names.values()}
    if untuned := sorted(needed - chosen.keys()):
        raise ValueError(
            f"No learning rate has been chosen for {', '.join(untuned)}: run `python -m benchmarks.study --task "
            f"{task_name} --learning_rates …` first."
        )
    rates: dict[str, Any] = {name: next(iter(scores)) for name, scores in chosen.items()}
    names = list(dict.fromkeys(name for knob in knobs for name in knob.names.values()))
    wanted = [
        Arguments(task_name, name, seed, rates[name.split()[0]], STEPS, "test") for seed in seeds for name in names
    ]
    complete(wanted, folder, jobs)
    return write_report(folder, task, seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Changes one knob of OPEFO at a time, and reports what comes of it.")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(default: 1 2 3)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/study"), help="folder (default: %(default)s)")
    options = parser.parse_args()
    try:
        print(vary(options.task, options.seeds, options.output / options.task, options.jobs))
    except (RuntimeError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
