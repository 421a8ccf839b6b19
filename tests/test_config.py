"""Settings that are refused, and the sentence that says what to change."""

import pytest

from opefo_trl import OPEFOConfig


def build(**settings):
    return OPEFOConfig(output_dir="unused", use_cpu=True, bf16=False, report_to="none", **settings)


def test_defaults():
    config = build()
    assert (config.flow_estimator, config.flow_strength, config.flow_max_coefficient) == ("exact", 1.0, 0.5)
    assert (config.flow_entropy_target, config.flow_entropy_target_ratio, config.flow_entropy_gain) == (
        None,
        None,
        4.0,
    )
    assert config.strict_on_policy and config.is_on_policy


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"flow_estimator": "best"}, r"`flow_estimator` must be one of .*'best'"),
        ({"flow_strength": 1.5}, r"`flow_strength` must be in \[0, 1\], got 1.5"),
        ({"flow_strength": float("nan")}, r"`flow_strength` must be in \[0, 1\], got nan"),
        ({"flow_max_coefficient": 1.0}, r"`flow_max_coefficient` must be in \(0, 1\), got 1.0"),
        ({"flow_max_coefficient": 0.0}, r"set `flow_strength=0`"),
        ({"flow_entropy_target": 0.0}, r"`flow_entropy_target` must be a positive number"),
        ({"flow_entropy_target": float("nan")}, r"`flow_entropy_target` must be a positive number"),
        ({"flow_entropy_target_ratio": -1.0}, r"`flow_entropy_target_ratio` must be a positive number"),
        ({"flow_entropy_target": 1.0, "flow_entropy_target_ratio": 1.0}, "both set the entropy target: remove one"),
        ({"flow_entropy_gain": -0.1}, "`flow_entropy_gain` must be a number of at least 0"),
        ({"importance_sampling_level": "sequence_token"}, r"must be one of \('token', 'sequence'\), got"),
        (
            {"importance_sampling_level": "sequence", "num_iterations": 2, "strict_on_policy": False},
            "`strict_on_policy=False` needs `importance_sampling_level='token'`",
        ),
        (
            {"importance_sampling_level": "sequence", "gradient_accumulation_steps": 2, "steps_per_generation": 8},
            # both at once, so that a script meets one refusal
            "set `num_iterations=1` and `steps_per_generation=2` .*`importance_sampling_level='sequence'`",
        ),
        (
            {"importance_sampling_level": "sequence", "use_bias_correction_kl": True, "beta": 0.1},
            "`use_bias_correction_kl` makes the KL penalty of `beta` depend on the level: set",
        ),
        (
            {"generation_batch_size": 64, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 4},
            r"\(8 × 1\).*set `num_iterations=1` and `generation_batch_size=32` \(or leave it unset\)",
        ),
        ({"num_iterations": 2}, r"\(1 × 2\).*set `num_iterations=1` and `steps_per_generation=1`"),
        (
            {"gradient_accumulation_steps": 2, "steps_per_generation": 4},
            r"`gradient_accumulation_steps` \(2\) is not a multiple .*\(4 × 1\).*`steps_per_generation=2`",
        ),
        (
            {"gradient_accumulation_steps": 4, "steps_per_generation": 2, "num_iterations": 2},
            r"`num_iterations` \(2\) repeats each rollout batch within one optimizer step",
        ),
        (
            {"flow_strength": 2.0, "delta": 0.5},
            r"^`flow_strength` must be .*; `delta` must be at least 1 .*clipped\.$",
        ),
    ],
)
def test_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**settings)


def test_several_rollout_batches_in_one_step_are_on_policy():
    assert build(gradient_accumulation_steps=4, steps_per_generation=2).is_on_policy


def test_sequence_level_is_on_policy_run_per_token():
    config = build(importance_sampling_level="sequence", gradient_accumulation_steps=4, steps_per_generation=2)
    assert config.runs_sequence_level_per_token and config.importance_sampling_level == "sequence"
    assert not build().runs_sequence_level_per_token


def test_balances():
    assert build().balances and build(flow_strength=0.0, flow_entropy_target=0.5).balances
    assert build(flow_strength=0.0, flow_entropy_target_ratio=0.5).balances
    assert not build(flow_strength=0.0).balances


def test_off_policy_is_a_warning_when_asked_for():
    with pytest.warns(UserWarning, match="Training off-policy, as `strict_on_policy=False` asks"):
        assert not build(num_iterations=2, strict_on_policy=False).is_on_policy
