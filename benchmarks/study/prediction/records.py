"""What the study keeps of each measured batch, and how to choose from it."""

from typing import Any

from benchmarks.study.prediction.merits import Pairs
from opefo_trl.config import FLOW_ESTIMATORS


ARMS = ("grpo", "opefo")  # runs that the batches come from, and YAML files of the example
OWN_BALANCE = {"grpo": "none", "opefo": "exact"}  # of the update that each run takes itself
OPTIMIZERS = ("sgd", "adamw")
PREDICTIONS = (*FLOW_ESTIMATORS, "own", "parametric")
# Groups of parts that stand for one cause
SUMS = {
    "interference": ("same context", "same prompt", "other prompts"),
    "optimizer": ("preconditioning", "memory"),
}
LABELS = {
    "sgd": "SGD",
    "adamw": "AdamW",
    "grpo": "GRPO",
    "opefo": "OPEFO",
    "exact": "exact",
    "sampled": "sampled",
    "paper": "paper",
    "own": "own token, parametric",
    "parametric": "parametric",
}


def steps_of(records: list[dict], **wanted: Any) -> list[dict]:
    """The steps of all records whose values are the wanted ones."""
    return [s for record in records for s in record["steps"] if all(s[name] == wanted[name] for name in wanted)]


def sizes_of(records: list[dict]) -> list[float]:
    """The step sizes, in the order in which they were asked for."""
    return list(dict.fromkeys(step["size"] for step in records[0]["steps"]))


def of_arm(records: list[dict], arm: str) -> list[dict]:
    """Records of one arm."""
    return [record for record in records if record["arm"] == arm]


def own_updates(records: list[dict], arm: str, optimizer: str, size: float) -> list[dict]:
    """The updates that a run takes itself: plain in GRPO's, balanced by "exact" in OPEFO's."""
    return steps_of(of_arm(records, arm), balance=OWN_BALANCE[arm], optimizer=optimizer, size=size)


def part_of(step: dict, name: str) -> float:
    """What was measured in a step, its first order, one of its parts, or one of [`SUMS`]."""
    values = {"measured": step["measured"], "first order": step["predicted"]["parametric"], **step["parts"]}
    return sum(values[part] for part in SUMS.get(name, (name,)))


def plain_pairs(records: list[dict], optimizer: str, name: str, size: float, without: str | None = None) -> Pairs:
    """Change of the mean entropy by the plain update, as one predictor has it and as it was, less one of its parts."""
    steps = steps_of(records, balance="none", optimizer=optimizer, size=size)
    return [(step["predicted"][name], step["measured"] - step["parts"].get(without, 0.0)) for step in steps]


def balance_pairs(records: list[dict], optimizer: str, estimator: str, name: str, size: float) -> Pairs:
    """The same of the difference that the balance makes: balanced minus plain update of one batch."""
    plain = steps_of(records, balance="none", optimizer=optimizer, size=size)
    balanced = steps_of(records, balance=estimator, optimizer=optimizer, size=size)
    return [
        (b["predicted"][name] - p["predicted"][name], b["measured"] - p["measured"])
        for p, b in zip(plain, balanced, strict=bool(balanced))
    ]


def gain_of(record: dict) -> float:
    """κ of the batch's plain update; the optimizer does not enter."""
    return steps_of([record], balance="none")[0]["gain"]


def phases(records: list[dict]) -> list[list[int]]:
    """The measured steps, cut where some were left out."""
    runs: list[list[int]] = []
    for step in sorted({record["step"] for record in records}):
        if runs and step == runs[-1][-1] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return runs
