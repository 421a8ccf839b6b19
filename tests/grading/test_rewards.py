"""Reward functions found by name, and refused with a sentence before anything is loaded."""

import sys

import pytest
from trl.rewards import accuracy_reward

from opefo_trl.grading.policy import Policy
from opefo_trl.grading.rewards import check_reward, get_math_reward, load_reward, math_reward


MESSAGES = [{"role": "user", "content": "1?"}]


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def ones(completions, **kwargs): return [1.0] * len(completions)\nPI = 3\n"
    )
    (tmp_path / "my_broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_by_name_and_by_dotted_path(module):
    assert load_reward("math_reward", 100) is math_reward
    assert load_reward("accuracy_reward", 100) is accuracy_reward
    assert load_reward("my_rewards.ones", 100)(completions=["a", "b"]) == [1.0, 1.0]


def test_math_reward_of_texts():
    metrics = {}
    completions = [r"\boxed{3}, no, \boxed{\frac{1}{2}}", "Answer: 0.5", r"\boxed{9^{9^{9^9}}}", "Half.", r"\boxed{1}"]
    solution = [r"\boxed{0.5}", 0.5, "['\\\\frac{1}{2}']", "0.5", None]
    rewards = math_reward(completions=completions, solution=solution, log_metric=metrics.__setitem__, level=[5] * 5)
    assert rewards == [1.0, 1.0, 0.0, 0.0, None]
    assert metrics == {"math_reward/answered": 0.8}


def test_math_reward_with_a_policy():
    lenient = get_math_reward(tolerance=0.01, several_golds="any")
    assert lenient.__name__ == "math_reward"
    assert lenient(completions=["Answer: 5.04", "Answer: 6"], solution=["5", ["5", "6"]]) == [1.0, 1.0]
    assert math_reward(completions=["Answer: 5.04", "Answer: 6"], solution=["5", ["5", "6"]]) == [0.0, 0.0]
    strict = load_reward("math_reward", 100, Policy(units="required"))
    assert strict(completions=["Answer: 5", "Answer: 5 cm"], solution=["5 cm"] * 2) == [0.0, 1.0]
    with pytest.raises(ValueError, match="`units` is 'none': set it to 'optional' or 'required'"):
        get_math_reward(units="none")


def test_alternative_spellings_of_a_gold():
    completions = [r"\boxed{4.4 \times 10^7}", r"\boxed{4.4e7}", r"\boxed{4.4e8}"]
    assert math_reward(completions, [["4.4e7\n", "4.4 \\times 10^7\n"]] * 3) == [1.0, 1.0, 0.0]


def test_an_answer_cannot_close_its_box():
    completions = ["Answer: 34}, or 35", "Answer: 34", "Answer: a"]
    assert math_reward(completions, ["34", "34", "a}b"]) == [0.0, 1.0, None]


def test_math_reward_of_messages():
    completions = [
        [{"role": "assistant", "content": r"\boxed{2}"}],
        [{"role": "assistant", "content": r"\boxed{1}"}, {"role": "assistant", "content": r"\boxed{2}"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "Answer: "}, {"type": "text", "text": "2"}]}],
        [{"role": "assistant", "content": None, "tool_calls": []}],
        [],
    ]
    assert math_reward(completions=completions, solution=["2"] * 5) == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_overlong_punishment_knows_the_length_of_the_run():
    punish = load_reward("get_soft_overlong_punishment", 100)
    # no punishment up to 80 tokens, −1 at 100, linear between
    assert punish(completion_ids=[[0] * 80, [0] * 90, [0] * 100]) == [0.0, -0.5, -1.0]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("accuracy", "Reward function 'accuracy' is unknown: set `reward_funcs` to dotted paths .* accuracy_reward"),
        ("no_such_module.f", r"'no_such_module.f' cannot be imported \(ModuleNotFoundError: .*check `reward_funcs`"),
        ("my_rewards.twos", r"'my_rewards.twos' cannot be imported \(AttributeError"),
        ("my_broken.f", r"'my_broken.f' cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("my_rewards.PI", "'my_rewards.PI' is a int, not a function"),
    ],
)
def test_what_cannot_be_loaded(module, name, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_reward(name, 100)


def test_reward_that_misses_a_column():
    check_reward(accuracy_reward, {"prompt": MESSAGES, "solution": "1"})
    with pytest.raises(
        ValueError, match="'accuracy_reward' does not fit .*'solution'.* The columns are prompt, answer"
    ):
        check_reward(accuracy_reward, {"prompt": MESSAGES, "answer": "1"})


def test_reward_that_cannot_take_a_column():
    def narrow(prompts, completions, completion_ids, trainer_state, log_extra, log_metric):
        return [0.0] * len(completions)

    check_reward(narrow, {"prompt": "?"})
    with pytest.raises(ValueError, match=r"unexpected keyword argument 'answer'.*add \*\*kwargs"):
        check_reward(narrow, {"prompt": "?", "answer": "1"})


@pytest.mark.parametrize("name", ["accuracy_reward", "reasoning_accuracy_reward", "think_format_reward"])
def test_reward_that_needs_messages(name):
    reward = load_reward(name, 100)
    check_reward(reward, {"prompt": MESSAGES, "solution": "1"})
    with pytest.raises(ValueError, match=f"'{name}' needs chat messages, .*: set `conversational: true`, or use"):
        check_reward(reward, {"prompt": "?", "solution": "1"})
    with pytest.raises(TypeError):
        reward(completions=["1"], solution=["1"])
    check_reward(math_reward, {"prompt": "?", "solution": "1"})
