"""A reward function that runs long is named, with the line it stands on."""

import asyncio
import functools
import inspect
import time

import pytest
from conftest import letter_reward

from opefo_trl.hanging import code_of


SECONDS = 0.05


def wait():
    time.sleep(4 * SECONDS)


def slow_reward(completions, **kwargs):
    wait()
    return letter_reward(completions)


async def slow_async_reward(completions, **kwargs):
    await asyncio.sleep(4 * SECONDS)
    return letter_reward(completions)


class Judge:
    __name__ = "Judge"

    def __call__(self, completions, **kwargs):
        wait()
        return letter_reward(completions)


def line_of(function, words):
    lines, first = inspect.getsourcelines(function)
    return next(first + number for number, line in enumerate(lines) if words in line)


def said_by(make_trainer, caplog, reward, seconds=SECONDS, **settings):
    with caplog.at_level("WARNING"):
        make_trainer(reward=reward, reward_warn_seconds=seconds, **settings).train()
    return [record.getMessage() for record in caplog.records if "has been running" in record.getMessage()]


@pytest.mark.parametrize(
    ("reward", "name", "place"),
    [
        (slow_reward, "slow_reward", ("wait", wait, "sleep")),
        (slow_async_reward, "slow_async_reward", ("slow_async_reward", slow_async_reward, "sleep")),
        (functools.wraps(slow_reward)(lambda *a, **k: slow_reward(*a, **k)), "slow_reward", ("wait", wait, "sleep")),
        (functools.partial(slow_reward, strict=True), "slow_reward", ("wait", wait, "sleep")),
        (Judge(), "Judge", ("wait", wait, "sleep")),
    ],
)
def test_a_slow_reward_is_named_once(make_trainer, caplog, reward, name, place):
    (sentence,) = said_by(make_trainer, caplog, reward, max_steps=2)
    where = f"{place[0]} ({__file__}, line {line_of(*place[1:])})"
    assert f"Reward function `{name}` has been running for 0.05 seconds and stands in {where}. " in sentence


@pytest.mark.parametrize(("reward", "seconds"), [(letter_reward, 60.0), (slow_reward, float("inf"))])
def test_silence(make_trainer, caplog, reward, seconds):
    assert said_by(make_trainer, caplog, reward, seconds, max_steps=1) == []


def test_code_of_builtins():
    assert code_of(len) is None and code_of(max.__call__) is None and code_of(wait) is wait.__code__
