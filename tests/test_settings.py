"""Drawn settings: each is refused in one sentence that names the fields, or it is strictly on-policy and the gradient
is that of the documented formula."""

import math
import re
import warnings
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from test_trainer_gradient import LOSS_TYPES

from opefo_trl.config import FLOW_ESTIMATORS
from opefo_trl.dry_run import planned_config


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
    "importance_sampling_level": choice("token", bad=(None, "sequence", "tokens", "sequence_token", 0)),
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
