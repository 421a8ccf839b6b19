"""benchmarks/study/learning_rates.py: which learning rate of an arm is chosen, and when none is."""

import pytest
from study_records import ARMS, make_record, make_scores

from benchmarks.study import learning_rates


def test_the_best_learning_rate_wins_and_all_arms_get_the_same_grid():
    records = make_scores("grpo", 1e-4, s101=10, s102=20) + make_scores("grpo", 2e-4, s101=19, s102=13)
    records += make_scores("opefo", 1e-4, s101=5, s102=5)
    with pytest.raises(ValueError, match="'grpo' and 'opefo' were not tuned alike"):
        learning_rates.choose_learning_rates(records)
    records += make_scores("opefo", 2e-4, s101=4, s102=4)
    # Means of 15 of 128 against 16 of 128, and 5 against 4
    chosen = learning_rates.choose_learning_rates(records)
    assert list(chosen["grpo"].items()) == [(2e-4, [19 / 128, 13 / 128]), (1e-4, [10 / 128, 20 / 128])]
    assert next(iter(chosen["opefo"])) == 1e-4


def test_a_rate_with_one_seed_does_not_win_against_those_with_two():
    records = make_scores("grpo", 1e-4, s101=30) + make_scores("grpo", 2e-4, s101=20, s102=20)
    assert list(learning_rates.choose_learning_rates(records)["grpo"]) == [2e-4, 1e-4]
    # Both arms have three runs, but not on as many rates
    records += make_scores("opefo", 1e-4, s101=1, s102=1, s103=1)
    with pytest.raises(ValueError, match="not tuned alike"):
        learning_rates.choose_learning_rates(records)


def test_a_rate_that_misses_the_target_comes_last():
    low = ARMS["opefo_low"].entropy_target
    near, far = ({"entropy": [0.6] * 20 + [low * share] * 20, "reward": [0.0] * 40} for share in (0.951, 1.051))
    records = [
        make_record("opefo_low", 101, (40, 0), "validation", rate=1e-5, curves=far),
        make_record("opefo_low", 102, (40, 0), "validation", rate=1e-5, curves=near),
        make_record("opefo_low", 101, (20, 0), "validation", rate=2e-5, curves=near),
        make_record("opefo_low", 101, (30, 0), "validation", rate=4e-5, curves=near),
    ]
    assert list(learning_rates.rank_learning_rates(records)["opefo_low"]) == [4e-5, 2e-5, 1e-5]
    # REPO-R steers to the same level, but promises nothing
    others = [{**record, "arm": "repo_r"} for record in records]
    assert list(learning_rates.rank_learning_rates(others)["repo_r"]) == [1e-5, 4e-5, 2e-5]
