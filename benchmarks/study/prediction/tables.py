"""The study's tables, in Markdown."""

import statistics
from itertools import product

import numpy as np

from benchmarks.markdown import table
from benchmarks.study.prediction.decomposition import PARTS
from benchmarks.study.prediction.merits import Pairs, merits_of, pearson
from benchmarks.study.prediction.records import (
    ARMS,
    LABELS,
    OPTIMIZERS,
    OWN_BALANCE,
    PREDICTIONS,
    SUMS,
    balance_pairs,
    gain_of,
    of_arm,
    own_updates,
    part_of,
    phases,
    plain_pairs,
    sizes_of,
    steps_of,
)
from opefo_trl.config import FLOW_ESTIMATORS


def number(value: float) -> str:
    """Two decimals, or nothing for NaN."""
    return "" if np.isnan(value) else f"{value:.2f}"


def mean_and_error(values: list[float], scale: float = 1.0) -> str:
    """Mean ± its standard error, and the root of the mean square."""
    scaled_values = scale * np.asarray(values)
    error = scaled_values.std(ddof=1) / len(values) ** 0.5
    return f"{scaled_values.mean():.1f} ± {error:.1f} ({(scaled_values**2).mean() ** 0.5:.1f})"


def median_and_quartiles(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def header_by_size(sizes: list[float]) -> list[str]:
    """The cells above those of [`merits_by_size`]."""
    return [*(f"r, × {size:g}" for size in sizes), "slope, × 1", "signs, × 1"]


def merits_by_size(label: list[str], pairs: dict[float, Pairs]) -> list[str]:
    """A row: correlation at every size, then slope and sign agreement at size 1."""
    at_one = merits_of(pairs[1.0])
    correlations = [number(merits_of(of_size)["pearson"]) for of_size in pairs.values()]
    return [*label, *correlations, f"{at_one['slope']:.3g}", number(at_one["sign"])]


def step_table(records: list[dict], sizes: list[float]) -> str:
    """Predicted against measured change of the mean entropy, one point per batch, of the plain update."""
    outlier = max(records, key=gain_of)
    others = [record for record in records if record is not outlier]
    kinds: list[tuple[str, list[dict], str, str, str | None]] = [
        *((LABELS[optimizer], records, optimizer, name, None) for optimizer in OPTIMIZERS for name in PREDICTIONS),
        *(("AdamW, less memory", records, "adamw", name, "memory") for name in FLOW_ESTIMATORS),
        ("SGD, less the batch of largest κ", others, "sgd", "own", None),
    ]
    rows = []
    for label, chosen, optimizer, name, without in kinds:
        pairs = {size: plain_pairs(chosen, optimizer, name, size, without) for size in sizes}
        rows.append(merits_by_size([label, LABELS[name]], pairs))
    return table(["optimizer", "prediction", *header_by_size(sizes)], rows)


def balance_table(records: list[dict], sizes: list[float]) -> str:
    """What the balance does: the difference between the balanced and the plain update of the same batch."""
    rows = []
    for optimizer, estimator in product(OPTIMIZERS, FLOW_ESTIMATORS):
        for name in (estimator, "parametric"):
            pairs = {size: balance_pairs(records, optimizer, estimator, name, size) for size in sizes}
            if pairs[1.0]:  # not every balance was taken with every optimizer
                rows.append(merits_by_size([LABELS[optimizer], LABELS[estimator], LABELS[name]], pairs))
    return table(["optimizer", "balance", "prediction", *header_by_size(sizes)], rows)


def mean_merits(of_batches: list[dict[str, float]]) -> list[str]:
    """Two cells: mean correlation and mean sign agreement, empty where there are none."""
    return [number(statistics.mean(m[name] for m in of_batches)) if of_batches else "" for name in ("pearson", "sign")]


def token_table(records: list[dict], sizes: list[float]) -> str:
    """By token, means over the batches of each batch's correlation and sign agreement, of the plain update."""
    sizes = [min(sizes), 1.0, max(sizes)]
    rows = []
    for optimizer, name in product(OPTIMIZERS, PREDICTIONS):
        cells = [LABELS[optimizer], LABELS[name]]
        for size in sizes:
            steps = steps_of(records, balance="none", optimizer=optimizer, size=size)
            cells += mean_merits([step["tokens"][name] for step in steps])
        steps = steps_of(records, balance="none", optimizer=optimizer, size=1.0)
        rows.append(cells + mean_merits([step["influence"][name] for step in steps if name in step["influence"]]))
    header = [cell for size in sizes for cell in (f"own entropy, × {size:g}: r", "signs")]
    return table(["optimizer", "prediction", *header, "effect on the batch: r", "signs"], rows)


def is_bounded(flow: dict) -> bool:
    """Whether the flows cancel only at a λ beyond the bound."""
    return abs(flow["decrease"] - flow["increase"]) / (flow["decrease"] + flow["increase"]) > abs(flow["coefficient"])


def coefficient_table(records: list[dict]) -> str:
    """λ as the estimators have it, before anything is shared, and λ at which the parametric flow vanishes."""
    rows = []
    for estimator in FLOW_ESTIMATORS:
        flows = [record["flows"][estimator] for record in records]
        right = [flow["parametric_increase_side"] > 0 > flow["parametric_decrease_side"] for flow in flows]
        token_wise = np.array([flow["coefficient"] for flow in flows])
        parametric = np.array([flow["parametric_coefficient"] for flow in flows])
        rows.append(
            [
                LABELS[estimator],
                median_and_quartiles(token_wise),
                f"{sum(map(is_bounded, flows))} of {len(flows)}",
                median_and_quartiles(parametric),
                number(pearson(token_wise[right], parametric[right])),
                f"{sum(right)} of {len(right)}",
            ]
        )
    return table(["estimator", "λ", "at the bound", "parametric λ", "r, sides as named", "sides as named"], rows)


def phase_table(records: list[dict]) -> str:
    """Correlations of the estimator "exact" at size 1, by point of the training."""
    rows = []
    for steps in phases(records):
        chosen = [record for record in records if record["step"] in steps]
        pairs = [
            *(plain_pairs(chosen, optimizer, "exact", 1.0) for optimizer in OPTIMIZERS),
            *(balance_pairs(chosen, optimizer, "exact", "exact", 1.0) for optimizer in OPTIMIZERS),
        ]
        rows.append(
            [
                f"{steps[0]} to {steps[-1]}",
                str(len(chosen)),
                number(statistics.mean(record["entropy"] for record in chosen)),
                *(number(merits_of(of_column)["pearson"]) for of_column in pairs),
                *(f"{merits_of(of_column)['slope']:.3g}" for of_column in pairs[2:]),
            ]
        )
    header = ["steps", "batches", "entropy", "plain, SGD: r", "plain, AdamW: r"]
    return table([*header, "balance, SGD: r", "balance, AdamW: r", "balance, SGD: slope", "AdamW: slope"], rows)


def part_table(records: list[dict]) -> str:
    """Of what the measured change consists: mean ± standard error (root mean square) over the batches."""
    runs = list(product(OPTIMIZERS, ARMS))
    rows = []
    for name in ("measured", *PARTS, *SUMS):
        cells = [f"{name}: {', '.join(SUMS[name])}" if name in SUMS else name]
        for optimizer, arm in runs:
            values = [part_of(step, name) for step in own_updates(records, arm, optimizer, 1.0)]
            cells.append(mean_and_error(values, 1e4) if np.abs(values).max() > 1e-8 else "0")
        rows.append(cells)
    return table(["1e-4 nats per token", *(f"{LABELS[optimizer]}, {LABELS[arm]}" for optimizer, arm in runs)], rows)


def drift_table(records: list[dict], sizes: list[float]) -> str:
    """Mean change by the plain and the balanced update, and the orders of the one that the run takes, by step size."""
    rows = []
    for optimizer, arm in product(OPTIMIZERS, ARMS):
        own = OWN_BALANCE[arm]
        kinds = {
            "plain, measured": ("none", "measured"),
            "balanced, measured": ("exact", "measured"),
            "own, first order": (own, "first order"),
            "own, second order": (own, "second order"),
        }
        for label, (balance, part) in kinds.items():
            cells = [LABELS[optimizer], LABELS[arm], label]
            for size in sizes:
                steps = steps_of(of_arm(records, arm), balance=balance, optimizer=optimizer, size=size)
                cells.append(f"{np.mean([part_of(step, part) for step in steps]) * 1e4:.3g}")
            rows.append(cells)
    return table(["optimizer", "run", "1e-4 nats per token", *(f"× {size:g}" for size in sizes)], rows)


def closing_words(records: list[dict]) -> str:
    """What the tables are made from, and two figures that no table has."""
    tokens, contexts = (statistics.mean(record[name] for record in records) for name in ("trained_tokens", "contexts"))
    error = max(record["trainer"]["step_error"] for record in records)
    gains = [gain_of(record) for record in records]
    low, middle, high = np.quantile(gains, [0.25, 0.5, 0.75])
    return (
        f"{len(records)} batches, {tokens:.0f} trained tokens and {contexts:.0f} contexts in the mean. "
        f"The trainer's own step and the one computed here differ by {error:.1e} of its length at most. "
        f"Gain κ, plain update: median (quartiles) {middle:.0f} ({low:.0f} to {high:.0f}), "
        f"{min(gains):.0f} to {max(gains):.0f} in all."
    )


def all_tables(records: list[dict]) -> str:
    """
    Every table under its title, and what they are made from.

    Args:
        records (`list[dict]`):
            From [`~benchmarks.study.prediction.countdown.study`].
    """
    sizes = sizes_of(records)
    titled = {
        "By step:": step_table(records, sizes),
        "What the balance does:": balance_table(records, sizes),
        "By token:": token_table(records, sizes),
        "λ:": coefficient_table(records),
        "By point of the training, exact, × 1:": phase_table(records),
        "Parts:": part_table(records),
        "Drift by step size:": drift_table(records, sizes),
    }
    return "\n\n".join([*(f"{title}\n\n{text}" for title, text in titled.items()), closing_words(records)])
