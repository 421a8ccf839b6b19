"""Reward functions by name or dotted path, checked before anything is loaded."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from trl import rewards as trl_rewards
from trl.trainer.utils import get_callable_name


TRL_REWARDS = ("accuracy_reward", "reasoning_accuracy_reward", "think_format_reward", "get_soft_overlong_punishment")
# Arguments that TRL passes to every reward function, beside the dataset's columns
TRL_ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")


def load_reward(name: str, max_completion_length: int) -> Callable[..., Any]:
    """
    Find a reward function.

    Args:
        name (`str`):
            One of `TRL_REWARDS`, or the dotted path of a function, looked up from the current folder too.
        max_completion_length (`int`):
            In tokens. `"get_soft_overlong_punishment"` punishes within its last fifth.

    Raises:
        `ValueError`: if there is no such function or its module cannot be imported.
    """
    if name == "get_soft_overlong_punishment":
        return trl_rewards.get_soft_overlong_punishment(max_completion_length, max_completion_length // 5)
    if "." not in name:
        if name not in TRL_REWARDS:
            raise ValueError(
                f"Reward function {name!r} is unknown: set `reward_funcs` to dotted paths such as "
                f"`my_package.my_reward`, or to some of {', '.join(TRL_REWARDS)}."
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


def check_reward(reward: Callable[..., Any], columns: Iterable[str]) -> None:
    """
    Raise a `ValueError` where TRL's call of the reward function would fail: with TRL's own arguments by keyword, and
    every column of the dataset but `prompt`, `completion` and `completion_ids`.
    """
    passed = {*TRL_ARGUMENTS, *columns} - {"prompt", "completion"}
    try:
        inspect.signature(reward).bind(**dict.fromkeys(passed))
    except TypeError as error:
        raise ValueError(
            f"Reward function {get_callable_name(reward)!r} does not fit the dataset ({error}): its columns are "
            f"{', '.join(columns)}; name a column as the function expects it (`dataset_solution_column` gives one the "
            "name `solution`), or let the function take **kwargs."
        ) from error
