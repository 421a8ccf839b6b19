"""opefo_trl/plotting/diagnosis.py: what is said about sick runs, and nothing about healthy ones."""

import pytest
from run_logs import HEALTHY, entries

from opefo_trl.plotting.diagnosis import find_troubles
from opefo_trl.plotting.runs import Run


def troubles(**changes):
    history = {}
    for entry in entries(**{**HEALTHY, **changes}):
        for name in entry.keys() - {"step"}:
            history.setdefault(name, {})[entry["step"]] = entry[name]
    return list(find_troubles(Run("run", history)).values())


def test_a_healthy_run_is_met_with_silence():
    assert troubles() == []
    assert find_troubles(Run("nothing but rewards", {"reward": {1: 1.0}})) == {}


def test_values_that_are_no_numbers():
    (sentence,) = find_troubles(Run("run", {"entropy": {1: 0.5, 2: 0.5}}, {"entropy": [3]})).values()
    assert sentence == (
        "`entropy` is NaN or infinite in 1 of 3 logged steps, first at step 3; it is not drawn there. Train in bf16 "
        "or fp32 instead of fp16, or lower `learning_rate`."
    )


def test_a_run_without_answers_or_rewards():
    history = {"frac_reward_zero_std": {1: 1.0}, "math_reward/answered": {1: 0.0}, "reward": {1: 0.0}}
    history["completions/clipped_ratio"] = {1: 0.25}
    found = find_troubles(Run("run", history))
    assert found == {
        "answers": "The model is not learning: no completion has given an answer. Check `prompt_template`, and set "
        "`log_completions: true` to see what the model writes."
    }
    history["completions/clipped_ratio"] = {1: 0.95}
    assert "Raise `max_completion_length`, which cut most of them" in find_troubles(Run("run", history))["answers"]
    found = find_troubles(Run("run", {"entropy": {1: 0.5, 2: 0.5}}, {"reward": [1, 2]}))
    assert list(found) == ["rewards"] and "no completion has received a reward" in found["rewards"]
    found = find_troubles(Run("run", {"reward": {1: 0.5}}, {"reward": [2, 3]}))
    assert list(found) == ["reward"]
    assert found["reward"].startswith("No completion received a reward in 2 of 3 logged steps, first at step 2: the")


@pytest.mark.parametrize(
    "changes, words",
    [
        # First and last twentieth of forty steps: two steps each
        (
            {"entropy": lambda share: 0.65 - 0.6 * share},
            ["Entropy collapsed, 0.64 → 0.058 nats", "`flow_entropy_target`", "`learning_rate`"],
        ),
        ({"entropy": 0.04}, ["Entropy collapsed, 0.04 → 0.04 nats"]),
        (
            {"entropy": lambda share: 0.5 + 2.0 * share},
            ["Entropy exploded, 0.53 → 2.5 nats", "lower `learning_rate`", "`flow_entropy_target_ratio`"],
        ),
        (
            {"entropy_flow__coefficient": lambda share: -0.3 if share > 0.7 else 0.1},
            ["λ is pinned at its bound of ±0.3 in 100% of the last quarter", "`flow_max_coefficient`"],
        ),
        # A logged mean of equal values is off by a rounding
        (
            {"entropy_flow__coefficient": lambda share: 0.3 * (1 + share * 1e-9)},
            ["λ is pinned at its bound of ±0.3 in 100%"],
        ),
        (
            {"frac_reward_zero_std": 0.8, "reward": 0.97},
            ["80% of the groups", "mean reward 0.97", "harder data", "easier data"],
        ),
    ],
)
def test_troubles_are_named_with_their_mend(changes, words):
    [trouble] = troubles(**changes)
    assert all(word in trouble for word in words), trouble


@pytest.mark.parametrize(
    "changes",
    [
        {"entropy": lambda share: 0.6 - 0.45 * share},  # a quarter is left
        {"entropy": 2.5},  # high from the start
        {"entropy_flow__coefficient": 0.0},  # GRPO
        {"entropy_flow__coefficient": 0.04},
        {"entropy_flow__coefficient": lambda share: 0.5 if share < 0.5 or share > 0.9 else 0.1},  # on its way
        {"entropy_flow__coefficient": lambda share: 0.5 * share},  # its maximum is reached once
        {"frac_reward_zero_std": lambda share: 0.9 - 0.3 * share},
    ],
)
def test_what_is_no_trouble(changes):
    assert troubles(**changes) == []
