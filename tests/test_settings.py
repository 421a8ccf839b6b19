"""Drawn settings: each is refused in one sentence that names the fields, or it is strictly on-policy and the gradient
is that of the documented formula."""

import json
import math
import os
import re
import subprocess
import warnings
from collections import Counter

import pytest
from conftest import KeepGradient, make_model
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from independent import ONE_STEP, gradient_error
from test_distributed import TESTS, TORCHRUN
from test_trainer_gradient import LOSS_TYPES
from transformers import AutoModelForCausalLM

from opefo_trl.commands.dry_run import planned_config
from opefo_trl.config import FLOW_ESTIMATORS


INF = math.inf
# What YAML or a script can give in the place of a number
NOT_NUMBERS = [math.nan, True, False, "1", "0.5", "1e-6", "auto", [1.0], {}]


def number(low, high=INF, open_low=False, open_high=False, optional=False):
    """Values in and out of an interval."""
    good = st.floats(low, high, exclude_min=open_low, exclude_max=open_high)
    bad = st.sampled_from(NOT_NUMBERS) | st.floats(max_value=low, exclude_max=not open_low)
    if high < INF:
        bad |= st.floats(min_value=high, exclude_min=not open_high)
    elif open_high:
        bad |= st.just(INF)
    return (good | st.none(), bad) if optional else (good, bad | st.none())


def count(good, low=1, optional=False):
    """Whole numbers from `low` on; 8.0 is what YAML makes of `8.0`, and no number of rows."""
    bad = st.sampled_from([*NOT_NUMBERS, 8.0, 2.5, INF]) | st.integers(max_value=low - 1)
    return good, bad if optional else bad | st.none()


def choice(*good, bad=(None, "", "x", math.nan, 3, [1])):
    return st.sampled_from(good), st.sampled_from(bad)


FLAG = choice(True, False, bad=(None, "true", "false", "no", 2, math.nan))
SIZE = st.sampled_from([1, 2, 3, 4, 6, 8, 16])
# (values in range, values out of range) of every field that the method depends on
FIELDS = {
    "flow_estimator": choice(*FLOW_ESTIMATORS),
    "flow_strength": number(0, 1),
    "flow_max_coefficient": number(0, 1, open_low=True, open_high=True),
    "flow_entropy_target": number(0, open_low=True, open_high=True, optional=True),
    "flow_entropy_target_ratio": number(0, open_low=True, open_high=True, optional=True),
    "flow_entropy_gain": number(0, open_high=True),
    "strict_on_policy": FLAG,
    "per_device_train_batch_size": count(SIZE),
    "gradient_accumulation_steps": count(SIZE),
    "steps_per_generation": count(st.none() | SIZE, optional=True),
    "generation_batch_size": count(st.none() | SIZE.map(lambda n: 24 * n) | st.integers(1, 300), optional=True),
    "num_generations": count(st.sampled_from([2, 3, 4, 8]), low=2),
    "num_iterations": count(st.sampled_from([1, 1, 1, 1, 2, 3])),
    "max_completion_length": count(st.none() | st.integers(1, 4096), optional=True),
    "loss_type": choice(*LOSS_TYPES, bad=(None, "DAPO", "drgrpo", "rloo", 1)),
    "importance_sampling_level": choice("token", "sequence", bad=(None, "tokens", "sequence_token", 0)),
    "scale_rewards": choice("group", "batch", "none", True, False, bad=(None, "std", "True", "false", 2)),
    "multi_objective_aggregation": choice("sum_then_normalize", "normalize_then_sum"),
    "mask_truncated_completions": FLAG,
    "temperature": number(0, open_low=True, open_high=True),
    "top_entropy_quantile": number(0, 1),
    "off_policy_mask_threshold": number(0, optional=True),
    "epsilon": number(0),
    "epsilon_high": number(0, optional=True),
    "delta": number(1, optional=True),
    "sapo_temperature_pos": number(0, open_low=True, open_high=True),
    "sapo_temperature_neg": number(0, open_low=True, open_high=True),
    "vespo_k_pos": number(0, open_high=True),
    "vespo_lambda_pos": number(0, open_high=True),
    "vespo_k_neg": number(0, open_high=True),
    "vespo_lambda_neg": number(0, open_high=True),
    "beta": number(0, open_high=True),
    "entropy_coef": (st.floats(-1e30, 1e30), st.sampled_from([*NOT_NUMBERS, None, INF, -INF])),
    "use_vllm": FLAG,
    "vllm_importance_sampling_correction": FLAG,
    "vllm_importance_sampling_mode": choice("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "vllm_importance_sampling_clip_min": number(0, optional=True),
    "vllm_importance_sampling_clip_max": number(0, open_low=True, optional=True),
}
# Right or wrong only beside other fields
COMPANIONS = {
    "generation_kwargs": st.sampled_from([{"temperature": 0.5}, {"temperature": 1.0}, '{"temperature": 2}', {}]),
    "accelerator_config": st.sampled_from([{"split_batches": True}, {"split_batches": False}]),
}


@st.composite
def drawn_settings(draw):
    """Settings, and the fields among them that are out of range."""
    wrong = draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=3) if draw(st.booleans()) else st.just(set()))
    chosen = wrong | draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=12))
    settings = {name: draw(FIELDS[name][name in wrong]) for name in sorted(chosen)}
    if draw(st.booleans()):  # most of the arithmetic that is drawn does not come out even, so half of it is made to
        even = {"per_device_train_batch_size": 24, "num_iterations": 1, "generation_batch_size": None}
        settings |= {name: value for name, value in even.items() if name not in wrong}
    if draw(st.integers(0, 3)) == 3:
        settings |= {n: v for n, v in {"num_iterations": 2, "strict_on_policy": False}.items() if n not in wrong}
    settings |= {name: draw(values) for name, values in COMPANIONS.items() if draw(st.integers(0, 7)) == 7}
    return settings, wrong


def steps_and_uses(settings, num_processes):
    """Of how many optimizer steps a rollout batch is part, and how often each token is trained: by counting."""
    accumulation = settings.get("gradient_accumulation_steps", 1)
    split = settings.get("steps_per_generation")
    if split is None and settings.get("generation_batch_size") is not None:
        split = settings["generation_batch_size"] // (settings.get("per_device_train_batch_size", 8) * num_processes)
    split = accumulation if split is None else split
    uses = split * settings.get("num_iterations", 1)
    steps = [{number // accumulation for number in range(first, first + uses)} for first in range(0, 300 * uses, uses)]
    return max(map(len, steps)), uses // split


def clash(settings, num_processes):
    """Fields that contradict each other although each is in range; the empty set if none do."""
    value = {"per_device_train_batch_size": 8, "num_generations": 8, "temperature": 1.0, "loss_type": "dapo"}
    value |= {"max_completion_length": 512, "vllm_importance_sampling_clip_max": 3.0, **settings}
    is_set = {name for name in value if value[name] is not None}
    names = set()
    if {"flow_entropy_target", "flow_entropy_target_ratio"} <= is_set:
        names |= {"flow_entropy_target", "flow_entropy_target_ratio"}
    if value["loss_type"] == "dr_grpo" and value["max_completion_length"] is None:
        names |= {"loss_type", "max_completion_length"}
    if value.get("importance_sampling_level") == "sequence" and value.get("beta", 0.0) != 0.0:
        names |= {"importance_sampling_level", "beta", "use_bias_correction_kl"}
    if names:
        return names
    # TRL's own refusals
    if {"generation_batch_size", "steps_per_generation"} <= is_set:
        return {"generation_batch_size", "steps_per_generation"}
    rows = value["per_device_train_batch_size"] * num_processes
    if "generation_batch_size" in is_set and value["generation_batch_size"] % rows:
        return {"generation_batch_size"}
    split = value.get("steps_per_generation") or value.get("gradient_accumulation_steps", 1)
    if (value.get("generation_batch_size") or rows * split) % value["num_generations"]:
        return {"generation_batch_size", "num_generations"}
    low, high = (f"vllm_importance_sampling_clip_{end}" for end in ("min", "max"))
    if {low, high} <= is_set and value[low] >= value[high]:
        return {low, high}
    truncates = value.get("vllm_importance_sampling_mode") in ("token_truncate", "sequence_truncate")
    if truncates and value.get("vllm_importance_sampling_correction", True) and not {low, high} & is_set:
        return {low, high}
    # Ours again, once TRL has filled in what was left unset
    sampled = {"temperature": 2} if isinstance(value.get("generation_kwargs"), str) else value.get("generation_kwargs")
    if (sampled or {}).get("temperature", value["temperature"]) != value["temperature"]:
        return {"generation_kwargs", "temperature"}
    if value.get("accelerator_config", {}).get("split_batches"):
        return {"accelerator_config"}
    if value.get("importance_sampling_level") == "sequence" and steps_and_uses(settings, num_processes)[0] != 1:
        return {"num_iterations", "gradient_accumulation_steps", "importance_sampling_level"}
    if value.get("strict_on_policy", True) and steps_and_uses(settings, num_processes) != (1, 1):
        return {"num_iterations", "gradient_accumulation_steps", "strict_on_policy"}
    return set()


def check_refused_or_on_policy(settings, wrong, num_processes):
    """Returns what became of the settings."""
    build = planned_config(num_processes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            config = build(output_dir="unused", use_cpu=True, bf16=False, report_to="none", **settings)
        except ValueError as error:
            sentence = str(error)
            expected = wrong or clash(settings, num_processes)
            assert expected, f"refused without a reason: {sentence}"
            for name in expected:
                assert re.search(rf"\b{name}\b", sentence), f"{name} is not named: {sentence}"
            assert "\n" not in sentence and ". " not in sentence, f"not one sentence: {sentence}"
            return "out of range" if wrong else "contradiction"
    assert not wrong, f"accepted with {wrong} out of range"
    assert not (names := clash(settings, num_processes)), f"accepted with a contradiction of {names}"
    steps, uses = steps_and_uses(settings, num_processes)
    assert config.is_on_policy == (steps == 1)
    rows = config.per_device_train_batch_size * config.steps_per_generation * num_processes
    assert rows == config.generation_batch_size and rows % config.num_generations == 0
    if (steps, uses) == (1, 1):
        return "on-policy"
    assert not config.strict_on_policy
    assert any("`num_iterations`" in str(warning.message) for warning in caught), "not a word"
    return "warned"


def check_many(max_examples, derandomize):
    outcomes = Counter()

    @examples(max_examples=max_examples, derandomize=derandomize, deadline=None, database=None)
    @given(drawn_settings(), st.integers(1, 16))
    def check(drawn, num_processes):
        outcomes[check_refused_or_on_policy(*drawn, num_processes)] += 1

    check()
    return outcomes


def test_refused_in_one_sentence_or_strictly_on_policy():
    outcomes = check_many(600, derandomize=True)
    assert min(outcomes[kind] for kind in ("out of range", "contradiction", "on-policy")) > 60, outcomes
    assert outcomes["warned"] > 20, outcomes


@pytest.mark.slow
def test_refused_in_one_sentence_or_strictly_on_policy_at_length():
    print(check_many(20_000, derandomize=False))


@pytest.mark.parametrize("name", FIELDS)
def test_out_of_range(name):
    """Each field by itself, so that none hides behind another."""

    @examples(max_examples=25, derandomize=True, deadline=None, database=None)
    @given(FIELDS[name][1], st.integers(1, 16))
    def check(value, num_processes):
        assert check_refused_or_on_policy({name: value}, {name}, num_processes) == "out of range"

    check()


# What a training on the tiny model can be given, beside the arithmetic of its batch
TRAINED = {
    "flow_estimator": st.sampled_from(FLOW_ESTIMATORS),
    "flow_strength": st.floats(0, 1),
    "flow_max_coefficient": st.floats(0.01, 0.99),
    "flow_entropy_gain": st.floats(0, 8),
    "importance_sampling_level": st.sampled_from(["token", "sequence"]),
    "scale_rewards": st.sampled_from(["group", "batch", "none"]),
    "multi_objective_aggregation": st.sampled_from(["sum_then_normalize", "normalize_then_sum"]),
    "mask_truncated_completions": st.booleans(),
    "max_completion_length": st.integers(1, 12),
    "pad_to_multiple_of": st.sampled_from([None, 8]),
    "temperature": st.floats(0.5, 1.5),
    "top_k": st.sampled_from([0, 5]),
    "repetition_penalty": st.sampled_from([1.0, 1.3]),
    "top_entropy_quantile": st.sampled_from([1.0, 0.0]) | st.floats(0.1, 0.9),
    "off_policy_mask_threshold": st.sampled_from([None, 0.0, 0.5]),
    "epsilon": st.sampled_from([0.0, 0.2, INF]),
    "epsilon_high": st.sampled_from([None, 0.28, 5.0, INF]),
    "delta": st.sampled_from([None, 1.0, 1.5]),
    "sapo_temperature_pos": st.floats(0.1, 3),
    "sapo_temperature_neg": st.floats(0.1, 3),
    "vespo_k_pos": st.floats(0, 4),
    "vespo_lambda_neg": st.floats(0, 4),
    "beta": st.sampled_from([0.0, 0.04]),
    "cast_lm_head_to_fp32": st.booleans(),
    "gradient_checkpointing": st.booleans(),
}


@st.composite
def trained_settings(draw, num_processes):
    settings = {name: draw(values) for name, values in TRAINED.items() if draw(st.booleans())}
    settings["loss_type"] = draw(st.sampled_from(LOSS_TYPES))
    if settings.get("importance_sampling_level") == "sequence":
        settings["use_bias_correction_kl"] = False
    settings |= draw(
        st.sampled_from(
            [{}, {}, {"flow_entropy_target": 1.5}, {"flow_entropy_target_ratio": 0.7}, {"flow_strength": 1.0}]
        )
    )
    rows, split, repeats = draw(st.sampled_from([2, 4, 6, 8])), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    settings |= {"per_device_train_batch_size": rows, "gradient_accumulation_steps": split * repeats}
    settings["num_generations"] = draw(st.sampled_from([2, 3, 4]))
    batch = rows * split * num_processes
    assume(batch % settings["num_generations"] == 0 and batch * repeats // settings["num_generations"] <= 32)
    settings |= draw(st.sampled_from([{"steps_per_generation": split}, {"generation_batch_size": batch}]))
    return settings


def draw_many(strategy, max_examples):
    """Always the same ones."""
    drawn = []

    @examples(
        max_examples=max_examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.filter_too_much],
    )
    @given(strategy)
    def collect(settings):
        drawn.append(settings)

    collect()
    return drawn


# Of a float32 gradient; and how near a threshold an entropy may come before float32 decides otherwise than float64
ROUNDING, NEAR = 2e-6, 1e-5


def trained_errors(outcomes):
    """The errors of the steps whose tokens rounding does not choose, checked."""
    errors = {}
    for settings, (error, margin) in outcomes:
        if margin > NEAR:
            assert error < ROUNDING, f"{error}: {settings}"
            errors[json.dumps(settings)] = error
    print(f"{len(errors)} of {len(outcomes)} gradients, largest error {max(errors.values()):.1e}")
    return [error for error in errors.values() if error > 0]


@pytest.mark.parametrize(
    ("max_examples", "least"), [(12, 8), pytest.param(100, 60, marks=pytest.mark.slow)], ids=["dozen", "hundred"]
)
def test_gradient_of_drawn_settings(make_trainer, tmp_path, max_examples, least):
    make_model().save_pretrained(tmp_path / "model")  # TRL loads the reference model of beta > 0 from there

    def train(settings):
        keep = KeepGradient()
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        return gradient_error(make_trainer(model=model, callbacks=[keep], **{**ONE_STEP, **settings}), keep)

    drawn = draw_many(trained_settings(1), max_examples)
    errors = trained_errors([(settings, train(settings)) for settings in drawn])
    assert len(errors) >= least, "most must have something to train"


@pytest.mark.slow
def test_gradient_of_drawn_settings_in_two_processes(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    drawn = draw_many(trained_settings(2), 24)
    (tmp_path / "settings.json").write_text(json.dumps(drawn))
    done = subprocess.run(
        [*TORCHRUN, "2", str(TESTS / "settings_worker.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-10000:]
    errors = trained_errors(list(zip(drawn, json.loads((tmp_path / "errors.json").read_text()), strict=True)))
    assert len(errors) >= 16, "most must have something to train"
