"""benchmarks/study/prediction/tables.py: rows by hand, and against the records."""

import math

import numpy as np
import pytest
from prediction_policies import make_records

from benchmarks.study.prediction.records import steps_of
from benchmarks.study.prediction.tables import (
    all_tables,
    coefficient_table,
    is_bounded,
    mean_and_error,
    median_and_quartiles,
    merits_by_size,
    number,
    step_table,
    table,
)


@pytest.fixture(scope="module")
def records():
    return make_records()


def cells(text, label):
    """Of the row whose first cells are `label`, those after them."""
    (line,) = [line for line in text.splitlines() if line.startswith(label)]
    return line.removeprefix(label).removesuffix(" |").split(" | ")


def test_cells_by_hand():
    assert table(["a", "b"], [["1", ""]]) == "| a | b |\n| --- | --- |\n| 1 |  |"
    assert [number(0.126), number(math.nan)] == ["0.13", ""]
    # Mean 2, deviation √((1 + 1) / 1) = √2, error √2 / √2, root mean square √((1 + 9) / 2)
    assert mean_and_error([0.1, 0.3], 10) == f"2.0 ± 1.0 ({math.sqrt(5):.1f})"
    assert median_and_quartiles(np.array([4.0, 1.0, 2.0, 3.0, 5.0])) == "3.00 (2.00 to 4.00)"


def test_rows_of_the_tables_by_hand():
    pairs = {0.1: [(1.0, -1.0), (2.0, -2.0), (3.0, -3.0)], 1.0: [(1.0, 2.0), (2.0, -4.0), (-1.0, -3.0)]}
    # At size 1: Σxy = 2 − 8 + 3 = −3, Σx² = 6; means 2/3 and −5/3, Σ dx dy = 1/3, Σ dx² = 14/3, Σ dy² = 62/3
    assert merits_by_size(["a"], pairs) == ["a", "-1.00", f"{1 / math.sqrt(14 * 62):.2f}", "-0.5", "0.67"]


def test_predicted_against_measured(records):
    plain = steps_of(records, balance="none", optimizer="sgd", size=1.0)
    x = np.array([step["predicted"]["exact"] for step in plain])
    y = np.array([step["measured"] for step in plain])
    row = cells(step_table(records, [0.1, 1.0]), "| SGD | exact | ")
    assert row[1:] == [
        f"{np.corrcoef(x, y)[0, 1]:.2f}",
        f"{x @ y / (x @ x):.3g}",
        f"{np.mean(np.sign(x) == np.sign(y)):.2f}",
    ]


def test_the_batch_of_largest_gain_is_left_out(records):
    plain = steps_of(records, balance="none", optimizer="sgd", size=1.0)
    rest = sorted(plain, key=lambda step: step["gain"])[:-1]
    x, y = np.array([step["predicted"]["own"] for step in rest]), np.array([step["measured"] for step in rest])
    text = step_table(records, [1.0])
    _, slope, _ = cells(text, "| SGD, less the batch of largest κ | own token, parametric | ")
    assert slope == f"{x @ y / (x @ x):.3g}"
    assert slope != cells(text, "| SGD | own token, parametric | ")[1]


def test_bounded_coefficients_are_counted():
    assert is_bounded({"increase": 1.0, "decrease": 4.0, "coefficient": 0.5})  # (4 − 1) / 5 is more
    assert is_bounded({"increase": 4.0, "decrease": 1.0, "coefficient": -0.5})
    assert not is_bounded({"increase": 3.0, "decrease": 5.0, "coefficient": 0.25})
    sides = {"parametric_increase_side": 1.0, "parametric_decrease_side": -1.0, "parametric_coefficient": 0.1}
    balances = ((4.0, 0.5), (3.0, 0.5), (1.0, 0.0))  # N and λ, beside a P of 1
    flows = [{"increase": 1.0, "decrease": n, "coefficient": c, **sides} for n, c in balances]
    text = coefficient_table([{"flows": dict.fromkeys(("exact", "sampled", "paper"), flow)} for flow in flows])
    assert cells(text, "| paper | ")[1] == "1 of 3"


def test_parts_of_the_update_that_a_run_takes_itself(records):
    own = [step["parts"] for step in steps_of([records[1], records[3]], balance="exact", optimizer="adamw", size=1.0)]
    interference = 1e4 * np.array([p["same context"] + p["same prompt"] + p["other prompts"] for p in own])
    error, square = interference.std(ddof=1) / math.sqrt(2), math.sqrt((interference**2).mean())
    last = cells(all_tables(records), "| interference: same context, same prompt, other prompts | ")[-1]
    assert last == f"{interference.mean():.1f} ± {error:.1f} ({square:.1f})"


def test_drift_by_step_size(records):
    steps = steps_of([records[0], records[2]], balance="none", optimizer="sgd", size=3.0)
    text = all_tables(records)
    for label, values in {
        "plain, measured": [step["measured"] for step in steps],
        "own, first order": [step["predicted"]["parametric"] for step in steps],
        "own, second order": [step["measured"] - step["predicted"]["parametric"] for step in steps],
    }.items():
        assert cells(text, f"| SGD | GRPO | {label} | ")[-1] == f"{1e4 * np.mean(values):.3g}"


def test_closing_words(records):
    text = all_tables(records)
    gains = [step["gain"] for step in steps_of(records, balance="none", optimizer="sgd", size=1.0)]
    assert "4 batches, 11 trained tokens and 11 contexts in the mean." in text
    assert "differ by 2.0e-04 of its length" in text
    assert text.endswith(f"{min(gains):.0f} to {max(gains):.0f} in all.")
