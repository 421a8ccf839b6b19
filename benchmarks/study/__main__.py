"""The whole study of one task: prepares it, runs arms × seeds, and reports. See README.md."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock

from tqdm.auto import tqdm

from benchmarks.study.arms import Arm, make_arms, make_forms
from benchmarks.study.learning_rates import choose_learning_rates, rank_learning_rates
from benchmarks.study.records import Record, read_records
from benchmarks.study.report import write_rates, write_report
from benchmarks.study.run import Arguments
from benchmarks.study.tasks import STEPS, TASKS


ERROR_LINES = 15  # of a run that failed
GRID_SEEDS = [101, 102]  # none of the main runs'; with one the choice is often noise
FINALISTS = 2  # learning rates of each arm that get more seeds than the first


def run_process(arguments: Arguments, folder: Path) -> Record:
    """
    Run `benchmarks.study.run` in a process of its own with one thread.

    Raises:
        `RuntimeError`: if it fails, with the end of what it printed.
    """
    options = {**arguments._asdict(), "folder": folder}
    command = [sys.executable, "-m", "benchmarks.study.run"]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        end = "\n".join(done.stderr.splitlines()[-ERROR_LINES:])
        raise RuntimeError(f"{arguments} failed:\n{end}")
    return json.loads(done.stdout)


def complete(wanted: Sequence[Arguments], folder: Path, jobs: int, name: str = "records.jsonl") -> None:
    """
    Run what the file `name` of the folder does not hold yet, and append each record as soon as its run ends.

    Raises:
        `RuntimeError`: if a run fails; those under way are finished and kept, the others not begun.
    """
    path = folder / name
    done = {Arguments(*(record[name] for name in Arguments._fields)) for record in read_records(path)}
    missing = [arguments for arguments in wanted if arguments not in done]
    bar = tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="run", desc=folder.name)
    one_writer = Lock()

    def run_and_keep(arguments: Arguments) -> None:
        record = run_process(arguments, folder)
        with one_writer:
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            bar.update()
            bar.set_postfix_str(f"{arguments.arm} seed {arguments.seed}")

    executor = ThreadPoolExecutor(jobs)
    try:
        for future in as_completed([executor.submit(run_and_keep, arguments) for arguments in missing]):
            future.result()
    finally:
        executor.shutdown(cancel_futures=True)
        bar.close()


def plan_grid(task: str, steps: int, rates: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> list[Arguments]:
    """The rates of each arm with each seed, on the validation problems."""
    return [
        Arguments(task, name, seed, rate, steps, "validation")
        for seed in seeds
        for name, of_arm in rates.items()
        for rate in of_arm
    ]


def tune(arms: Sequence[str], options: argparse.Namespace, folder: Path) -> None:
    """All learning rates with the first seed, then the best [`FINALISTS`] of each arm with the other seeds."""
    first, *others = options.seeds or GRID_SEEDS
    everything = dict.fromkeys(arms, options.learning_rates)
    complete(plan_grid(options.task, options.steps, everything, [first]), folder, options.jobs)
    records = [record for record in read_records(folder / "records.jsonl") if record["seed"] == first]
    ranks = rank_learning_rates(records)
    finalists = {name: list(ranks[name])[:FINALISTS] for name in arms}
    complete(plan_grid(options.task, options.steps, finalists, others), folder, options.jobs)


def plan_tests(
    arms: dict[str, Arm], task: str, steps: int, rates: dict[str, float], seeds: Sequence[int] | None
) -> list[Arguments]:
    """
    Seed by seed, so that an unfinished table has all arms; without `seeds` each arm's own number of them.

    Raises:
        `ValueError`: if an arm that is trained has no learning rate.
    """
    untuned = [name for name, arm in arms.items() if arm.updates and name not in rates]
    if untuned:
        raise ValueError(
            f"No learning rate has been chosen for {', '.join(untuned)}: run with `--learning_rates` first, or give "
            "one for all with `--learning_rate`."
        )
    own = {
        name: list(range(1, arm.seeds + 1)) if seeds is None or not arm.updates else seeds
        for name, arm in arms.items()
    }
    return [
        Arguments(task, name, seed, rates.get(name, 0.0), steps if arms[name].updates else 0, "test")
        for seed in sorted({seed for of_arm in own.values() for seed in of_arm})
        for name in arms
        if seed in own[name]
    ]


def study(options: argparse.Namespace) -> None:
    """
    Prepare, run and report.

    Raises:
        `ValueError`: if an arm does not exist or has no learning rate.
        `RuntimeError`: if a run fails.
    """
    task = TASKS[options.task]
    arms = make_arms(task) | make_forms(task)
    if unknown := [name for name in options.arms or [] if name not in arms]:
        raise ValueError(f"There is no arm {', '.join(unknown)}: take some of {', '.join(arms)}.")
    arms = {name: arms[name] for name in options.arms or make_arms(task)}
    folder = options.output / options.task
    task.prepare(folder)
    if options.learning_rates:
        tune([name for name, arm in arms.items() if arm.updates], options, folder)
        print(write_rates(folder))
        return
    if options.learning_rate is None:
        chosen = choose_learning_rates(read_records(folder / "records.jsonl"))
        rates = {name: next(iter(scores)) for name, scores in chosen.items()}
    else:
        rates = dict.fromkeys(arms, options.learning_rate)
    complete(plan_tests(arms, options.task, options.steps, rates, options.seeds), folder, options.jobs)
    print(write_report(folder))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description="Trains and tests arms × seeds on a task, and writes `table.md` and `study.png`. What the "
        "folder's `records.jsonl` holds already is not run again.",
    )
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument(
        "--arms", nargs="+", help="names of `benchmarks/study/arms.py` (default: all but the other forms of λ)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="(default: 1 to 5 or 3, by arm; for the grid 101, 102)")
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--learning_rates", type=float, nargs="+", help="compare these on the validation problems")
    rate.add_argument("--learning_rate", type=float, help="one for all arms (default: the best of the comparison)")
    parser.add_argument("--steps", type=int, default=STEPS, help="rollout batches of a run (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/study"), help="folder (default: %(default)s)")
    try:
        study(parser.parse_args())
    except (RuntimeError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
