"""The math reward, and reward functions by name or dotted path, checked before anything is loaded."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from trl import rewards as trl_rewards
from trl.trainer.utils import get_callable_name

from .answers import completion_answer, gold_answer
from .grader import shared_grader
from .policy import DEFAULT_POLICY, Policy


TRL_REWARDS = ("accuracy_reward", "reasoning_accuracy_reward", "think_format_reward", "get_soft_overlong_punishment")
# Those that read only messages
TRL_MESSAGE_REWARDS = ("accuracy_reward", "reasoning_accuracy_reward", "think_format_reward")
# Arguments that TRL passes to every reward function, in addition to the dataset's columns
TRL_ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")


def get_math_reward(
    tolerance: float = 0.0, units: str = "optional", several_golds: str = "all"
) -> Callable[..., list[float | None]]:
    r"""
    Reward function for [`~trl.GRPOTrainer`]: 1.0 for an answer that equals the gold one.

    The answer is the completion's last `\boxed{}`. Without any box, it is the last line of the form `Answer: 34`. It
    is compared in worker processes (see [`~grader.Grader`]), so that no answer can stall training, whatever the
    thread. docs/math_reward.md explains the rules.

    Args:
        tolerance (`float`, *optional*, defaults to `0.0`):
            Relative distance up to which two numbers are equal, for example 0.01 for rounded golds.
        units (`str`, *optional*, defaults to `"optional"`):
            With `"required"`, the answer must have the same unit as the gold, or no unit if the gold has none.
        several_golds (`str`, *optional*, defaults to `"all"`):
            With `"any"`, one of several gold answers is enough.

    Returns:
        `Callable`: a function named `math_reward`. It takes `completions` (texts, or lists of messages, of which the
        last one counts) and the column `solution` (gold answers, in any format that [`~answers.gold_answer`] reads).
        For each completion it returns 1.0, 0.0 (also if no answer can be read), or `None` if the row has no gold. TRL
        ignores rows with `None`. It logs `math_reward/answered`, the share of completions that give an answer. This is
        near 0 if the prompt template is wrong or `max_completion_length` too short.

    Raises:
        `ValueError`: if a value is not allowed.

    Example:

    ```python
    trainer = OPEFOTrainer(model, get_math_reward(tolerance=0.01), args, dataset)
    ```
    """
    policy = Policy(tolerance, units, several_golds)  # type: ignore[arg-type]

    def math_reward(
        completions: list[str] | list[list[dict[str, Any]]],
        solution: list[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs,
    ) -> list[float | None]:
        answers = [completion_answer(_text(completion)) for completion in completions]
        if log_metric is not None and answers:
            log_metric("math_reward/answered", sum(answer is not None for answer in answers) / len(answers))
        golds = [gold_answer(value) for value in solution]
        return shared_grader().grade(
            [(gold or "", answer) for gold, answer in zip(golds, answers, strict=True)], policy
        )

    return math_reward


math_reward = get_math_reward()


def _text(completion: str | list[dict[str, Any]]) -> str:
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") or "" if completion else ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)  # a list of typed parts


def load_reward(name: str, max_completion_length: int, policy: Policy = DEFAULT_POLICY) -> Callable[..., Any]:
    """
    Find a reward function.

    Args:
        name (`str`):
            `"math_reward"`, one of `TRL_REWARDS`, or the dotted path of a function, looked up from the current folder
            too.
        max_completion_length (`int`):
            Maximum completion length in tokens. `"get_soft_overlong_punishment"` punishes within its last fifth.
        policy (`Policy`, *optional*):
            Options of `"math_reward"`.

    Raises:
        `ValueError`: if there is no such function or its module cannot be imported.
    """
    if name == "get_soft_overlong_punishment":
        return trl_rewards.get_soft_overlong_punishment(max_completion_length, max_completion_length // 5)
    if name == "math_reward":
        return math_reward if policy == DEFAULT_POLICY else get_math_reward(**asdict(policy))
    if "." not in name:
        if name not in TRL_REWARDS:
            raise ValueError(
                f"Reward function {name!r} is unknown: set `reward_funcs` to dotted paths such as "
                f"`my_package.my_reward`, or to some of math_reward, {', '.join(TRL_REWARDS)}."
            )
        return getattr(trl_rewards, name)
    module_name, function_name = name.rsplit(".", 1)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        reward = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ValueError(
            f"Reward function {name!r} cannot be imported ({type(error).__name__}: {error}): check `reward_funcs` and "
            "the folder you run from."
        ) from error
    if not callable(reward):
        raise ValueError(
            f"Reward function {name!r} is a {type(reward).__name__}, not a function: check `reward_funcs`."
        )
    return reward


def check_reward(reward: Callable[..., Any], row: dict[str, Any]) -> None:
    """
    Raise a `ValueError` if TRL's call of the reward function would fail. TRL passes by keyword its own arguments and
    every column of the dataset except `prompt`, `completion` and `completion_ids`. The completions are texts or
    messages, like the prompt of `row`.
    """
    name = get_callable_name(reward)
    passed = {*TRL_ARGUMENTS, *row} - {"prompt", "completion"}
    try:
        inspect.signature(reward).bind(**dict.fromkeys(passed))
    except TypeError as error:
        raise ValueError(
            f"Reward function {name!r} does not fit the dataset: {error}. The columns are {', '.join(row)}. Rename a "
            "column (`dataset_solution_column` renames one to `solution`), or add **kwargs to the function."
        ) from error
    if isinstance(row["prompt"], str) and reward in [getattr(trl_rewards, known) for known in TRL_MESSAGE_REWARDS]:
        raise ValueError(
            f"Reward function {name!r} needs chat messages, but the prompts are texts: set `conversational: true`, or "
            "use `math_reward`, which reads both."
        )
