"""Countdown with its search written out: steps, wrong turns, and returns to the start.

A prompt is `3 4 7 7>21=`. A completion is one attempt after another. Each step of an attempt takes two of the numbers
and shows what is left: `7*3=21>4 7 21,7-4=3>3 21,21+3=24>24!`. The `!` gives the attempt up, and the next one begins
with all numbers again. The last attempt counts: it is right if each of its steps is and it ends with the target.
"""

import random
import re
from collections.abc import Iterator
from typing import NamedTuple


NUMBERS = 4  # in a problem
LARGEST_NUMBER = 9
TARGETS = range(10, 61)
LARGEST_VALUE = 99  # of any step
WRONG_TURNS = (0, 1, 2)  # before the right attempt of an example, each as often
SYMBOLS = "0123456789 >=+-*,!"
STEP = re.compile(r"([0-9]{1,2})([-+*])([0-9]{1,2})=([0-9]{1,2})>([0-9 ]+)", re.ASCII)


class Problem(NamedTuple):
    """A problem, and a text that solves it."""

    prompt: str
    numbers: list[int]
    target: int
    solution: str


def compute(left: int, sign: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


def write(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


def draw_attempt(rng: random.Random, numbers: list[int]) -> tuple[str, int]:
    """Steps chosen at random until one number is left, as text, and that number."""
    left, steps = sorted(numbers), []
    while len(left) > 1:
        first, second = rng.sample(left, 2)
        sign = rng.choice("+-*")
        value = compute(first, sign, second)
        if not 0 <= value <= LARGEST_VALUE:
            continue
        left.remove(first)
        left.remove(second)
        left = sorted([*left, value])
        steps.append(f"{first}{sign}{second}={value}>{write(left)}")
    return ",".join(steps), left[0]


def generate_problems(seed: int) -> Iterator[Problem]:
    """
    Problems without end. The target is what a random attempt ends with. That attempt is the last one of the solution,
    behind as many wrong ones as [`WRONG_TURNS`] says.
    """
    rng = random.Random(seed)
    while True:
        numbers = sorted(rng.choices(range(1, LARGEST_NUMBER + 1), k=NUMBERS))
        right, target = draw_attempt(rng, numbers)
        if target not in TARGETS:
            continue
        wrong: list[str] = []
        count = rng.choice(WRONG_TURNS)
        while len(wrong) < count:
            attempt, value = draw_attempt(rng, numbers)
            if value != target:
                wrong.append(attempt + "!")
        yield Problem(f"{write(numbers)}>{target}=", numbers, target, "".join([*wrong, right]))


def last_value(attempt: str, numbers: list[int]) -> int | None:
    """What an attempt ends with, `None` if a step is wrong or numbers are left over."""
    left = sorted(numbers)
    for step in attempt.split(","):
        found = STEP.fullmatch(step)
        if found is None:
            return None
        first, second, value = (int(found[group]) for group in (1, 3, 4))
        rest = left.copy()
        for number in (first, second):
            if number not in rest:
                return None
            rest.remove(number)
        left = sorted([*rest, value])
        if compute(first, found[2], second) != value or found[5] != write(left):
            return None
    return left[0] if len(left) == 1 else None


def search_reward(completions: list[str], numbers: list[list[int]], target: list[int], **kwargs) -> list[float]:
    """Reward function for [`~trl.GRPOTrainer`]: 1.0 where the last attempt is right, else 0.0."""
    return [
        float(last_value(text.rsplit("!", 1)[-1], given) == wanted)
        for text, given, wanted in zip(completions, numbers, target, strict=True)
    ]
