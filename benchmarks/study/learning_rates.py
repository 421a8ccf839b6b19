"""The learning rate of each arm, chosen by its scores on the validation problems."""

from collections.abc import Sequence
from statistics import mean

from benchmarks.study.arms import find_arm
from benchmarks.study.measures import measure
from benchmarks.study.records import Record
from benchmarks.study.tasks import TASKS


NEAR = 0.05  # of a target: as near as its arm has to come


def misses_target(record: Record, second_half: float) -> bool:
    """Whether an arm of OPEFO with a target is farther than [`NEAR`] from it over the second half of its run."""
    target = find_arm(TASKS[record["task"]], record["arm"]).settings.get("flow_entropy_target")
    return target is not None and abs(second_half - target) > NEAR * target


def rank_learning_rates(records: Sequence[Record]) -> dict[str, dict[float, list[float]]]:
    """
    Scores on the validation problems: of each arm, by learning rate, pass@1 with each seed. Rates with which a target
    is missed come last; of the others those with the most seeds come first, then those with the best mean.
    """
    scores: dict[str, dict[float, dict[int, float]]] = {}
    missed = set()
    for record in records:
        if record["split"] == "validation":
            arm, rate = record["arm"], record["learning_rate"]
            numbers = measure(record, 0.0)
            scores.setdefault(arm, {}).setdefault(rate, {})[record["seed"]] = numbers["nucleus@1"]
            if misses_target(record, numbers["second_half"]):
                missed.add((arm, rate))
    by_seed = {
        arm: {rate: [of_seed[seed] for seed in sorted(of_seed)] for rate, of_seed in rates.items()}
        for arm, rates in scores.items()
    }
    return {
        arm: dict(sorted(rates.items(), key=lambda item: ((arm, item[0]) in missed, -len(item[1]), -mean(item[1]))))
        for arm, rates in by_seed.items()
    }


def choose_learning_rates(records: Sequence[Record]) -> dict[str, dict[float, list[float]]]:
    """
    What [`rank_learning_rates`] returns: the first rate of an arm is the chosen one.

    Raises:
        `ValueError`: if the arms were not tuned alike: the same rates, as many of them with as many seeds.
    """
    ranks = rank_learning_rates(records)
    grids = {arm: (sorted(rates), sorted(map(len, rates.values()))) for arm, rates in ranks.items()}
    for arm, grid in grids.items():
        first, reference = next(iter(grids.items()))
        if grid != reference:
            raise ValueError(
                f"Arms {first!r} and {arm!r} were not tuned alike, learning rates and seeds of each {reference} and "
                f"{grid}: run the grid for all arms with the same `--learning_rates` and `--seeds`."
            )
    return ranks
