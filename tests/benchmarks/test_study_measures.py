"""benchmarks/study/measures.py: the numbers of a run, by hand."""

import math

import pytest
from study_records import make_record

from benchmarks.study import measures


def test_measure_by_hand():
    numbers = measures.measure(make_record(), level=0.25)
    # 32 of 64 right in one of two problems. pass@4 = (1 − 32·31·30·29 / (64·63·62·61)) / 2 = (1 − 0.056597) / 2
    assert numbers["hot@1"] == 0.25
    assert numbers["hot@4"] == pytest.approx(0.471702, abs=1e-6)
    assert numbers["hot@64"] == 0.5
    sharper = make_record()
    sharper["tests"]["cold"] = {**sharper["tests"]["cold"], "correct": [64, 0]}
    assert measures.measure(sharper, 0.25)["best@1"] == 0.5
    # the sharp 64 of 64 give 16 of 16; 32 of 64 almost: 1 − C(32, 16) / C(64, 16)
    assert measures.measure(sharper, 0.25)["best@16"] == 0.5 > numbers["hot@16"]
    # Without a target the reference is the start, 0.6. Second half: 0.5 ten times, then 0.3 ten times
    assert numbers["start"] == pytest.approx(0.6) and numbers["end"] == pytest.approx(0.3)
    assert numbers["distance"] == numbers["worst"] == pytest.approx(0.3)
    assert numbers["second_half"] == pytest.approx(0.4)
    # The mean of 20 rewards of which ten are 0.5 is 0.25; the first such window ends with the 25th
    assert numbers["steps_to_level"] == 25
    assert math.isnan(measures.measure(make_record(), level=0.6)["steps_to_level"])


def test_excursions_count_from_the_target_in_the_second_half():
    # Target 0.4; the half before step 20, where it is 0.2 off, does not count; windows of ten from 0.5 to 0.45
    entropy = [0.2] * 20 + [0.5] * 10 + [0.4, 0.5] * 5
    record = make_record("opefo_low", entropy_target=0.4)
    record["curves"]["entropy"] = entropy
    numbers = measures.measure(record, 0.25)
    assert numbers["distance"] == pytest.approx(0.05)
    assert numbers["worst"] == pytest.approx(0.1)


def test_entropy_and_pass_at_16_correlate_over_the_validation_runs():
    # Entropies 0.1, 0.2, 0.3 at the end; pass@16 of two problems with 16 answers is 0, 1/2, 1/2: r = √3 / 2. The
    # fourth run's entropy rises
    records = []
    for entropy, correct in ((0.1, (0, 0)), (0.2, (1, 0)), (0.3, (16, 0)), (0.6, (0, 0))):
        curves = {"entropy": [0.5] * 10 + [entropy] * 10, "reward": [0.0] * 20}
        record = make_record(split="validation", curves=curves)
        answers = 10 * entropy
        record["tests"] = {"nucleus": {"samples": 16, "correct": list(correct), "distinct": answers}}
        records.append(record)
    correlations = (pytest.approx(0.75**0.5), pytest.approx(1.0), 3)
    assert measures.correlate([*records, make_record(split="test")]) == correlations
