"""Scores against brute force and by hand."""

from itertools import combinations
from math import nan, sqrt

import numpy as np
import pytest

from opefo_trl.evaluation.scores import average, paired_difference, pass_at_k, powers_of_two, summarize


@pytest.mark.parametrize("num_samples", [1, 4, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(num_samples):
    for num_correct in range(num_samples + 1):
        samples = [True] * num_correct + [False] * (num_samples - num_correct)
        for k in range(1, num_samples + 1):
            subsets = list(combinations(samples, k))
            share = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(num_samples, num_correct, k) == pytest.approx(share, abs=1e-12)


def test_powers_of_two():
    assert [powers_of_two(k) for k in (1, 2, 6, 32)] == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 8, 16, 32]]


def problem(correct, answers, lengths=(10, 10, 10, 10), truncated=(False,) * 4):
    return {"correct": correct, "answers": answers, "lengths": list(lengths), "truncated": list(truncated)}


def test_summary_by_hand():
    problems = [
        problem([True, True, False, False], ["1", "1", "2", None], truncated=(False, False, False, True)),
        problem([False] * 4, ["3", "4", "5", "6"], lengths=(0, 10, 20, 30)),
        problem([True] * 4, ["7"] * 4),
    ]
    scores = summarize(problems)
    assert scores.pop("avg@k_se") == pytest.approx(0.5 / sqrt(3))  # of 0.5, 0 and 1
    assert scores == pytest.approx(
        {
            "problems": 3,
            "k": 4,
            "avg@k": 0.5,
            "pass@1": 0.5,
            "pass@2": (1 - 1 / 6 + 0 + 1) / 3,
            "pass@4": 2 / 3,
            "truncated": 1 / 12,
            "mean_length": (10 + 15 + 10) / 3,
            "distinct": (2 / 4 + 4 / 4 + 1 / 4) / 3,
        }
    )


def test_one_problem_has_no_standard_error():
    assert summarize([problem([True] * 4, ["7"] * 4)])["avg@k_se"] is not None
    assert np.isnan(summarize([problem([True] * 4, ["7"] * 4)])["avg@k_se"])


def test_average_of_benchmarks():
    first = {"problems": 30, "k": 4, "avg@k": 0.2, "avg@k_se": 0.03, "pass@1": 0.2, "pass@2": 0.3}
    second = {"problems": 500, "k": 1, "avg@k": 0.6, "avg@k_se": 0.04, "pass@1": 0.6}
    assert average([first, second]) == pytest.approx({"avg@k": 0.4, "avg@k_se": 0.025, "pass@1": 0.4})
    assert np.isnan(average([{**first, "avg@k_se": nan}, second])["avg@k_se"])


def test_paired_difference():
    before = [[0.0, 0.5, 1.0, 0.25], [0.5, 0.5]]
    assert paired_difference(before, before) == (0.0, 0.0, 0.0)
    better = [[share + 0.125 for share in benchmark] for benchmark in before]
    assert paired_difference(before, better) == pytest.approx((0.125, 0.125, 0.125))
    mixed = [before[0], better[1]]
    assert paired_difference(before, mixed) == pytest.approx((0.0625, 0.0625, 0.0625))


def test_bootstrap_interval_is_that_of_the_normal_approximation():
    generator = np.random.default_rng(1)
    before, after = generator.random((2, 400))
    difference, low, high = paired_difference([before.tolist()], [after.tolist()])
    error = (after - before).std() / 20
    assert difference == pytest.approx((after - before).mean())
    assert (low, high) == pytest.approx((difference - 1.96 * error, difference + 1.96 * error), abs=0.1 * error)
    assert paired_difference([before.tolist()], [after.tolist()]) == (difference, low, high), "seeded"
