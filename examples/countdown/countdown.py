"""The Countdown puzzle: combine every number exactly once, with `+`, `-` and `*`, to reach the target.

A prompt is the text `1 3 4 7 7>21=`, and a solution is an expression such as `7+7+3+4*1`.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


NUMBERS_PER_PUZZLE = (5,)
LARGEST_NUMBER = 9
LARGEST_TARGET = 50

# Longer text is refused unread, which also bounds the depth of the parser and the size of every integer. A solution
# has at most 11 characters, and stays far below with parentheses to spare.
MAX_EXPRESSION_LENGTH = 64

DIGITS = "0123456789"  # `str.isdigit` would accept every digit of Unicode


class _Parser:
    """
    Recursive descent over `sum = product (("+" | "-") product)*`, `product = atom ("*" atom)*`,
    `atom = number | "(" sum ")"`. Every method returns the value of what it has read.
    """

    def __init__(self, text: str):
        self.text = text
        self.position = 0
        self.numbers: list[int] = []

    def next(self) -> str:
        """Returns the next character without reading it, `""` at the end."""
        return self.text[self.position : self.position + 1]

    def read(self) -> str:
        character = self.next()
        self.position += 1
        return character

    def sum(self) -> int:
        value = self.product()
        while self.next() in ("+", "-"):
            sign = 1 if self.read() == "+" else -1
            value += sign * self.product()
        return value

    def product(self) -> int:
        value = self.atom()
        while self.next() == "*":
            self.read()
            value *= self.atom()
        return value

    def atom(self) -> int:
        if self.next() == "(":
            self.read()
            value = self.sum()
            if self.read() != ")":
                raise ValueError(f"Character {self.position} should be a closing parenthesis.")
            return value
        return self.number()

    def number(self) -> int:
        start = self.position
        while self.next() and self.next() in DIGITS:
            self.read()
        if start == self.position:
            raise ValueError(f"Character {start + 1} should be a digit or an opening parenthesis.")
        digits = self.text[start : self.position]
        if digits != str(int(digits)):
            raise ValueError(f"The number at character {start + 1} starts with a zero.")
        self.numbers.append(int(digits))
        return self.numbers[-1]


def evaluate(expression: str) -> tuple[int, list[int]]:
    """
    Computes an expression of non-negative integers, `+`, `-`, `*` and parentheses, without spaces or unary minus.

    Args:
        expression (`str`):
            Text to compute. It may be hostile: it is never executed, and refused when too long.

    Returns:
        `tuple[int, list[int]]`: the value, and the numbers in the order of the text.

    Raises:
        `ValueError`: if the text is not such an expression, with the place of the first mistake.
    """
    if len(expression) > MAX_EXPRESSION_LENGTH:
        raise ValueError(f"The expression is longer than {MAX_EXPRESSION_LENGTH} characters.")
    parser = _Parser(expression)
    value = parser.sum()
    if parser.next():
        raise ValueError(f"Character {parser.position + 1} should be an operator.")
    return value, parser.numbers


def is_solution(expression: str, numbers: list[int], target: int) -> bool:
    """Whether the expression uses every one of `numbers` exactly once and equals `target`."""
    try:
        value, used = evaluate(expression)
    except ValueError:
        return False
    return value == target and sorted(used) == sorted(numbers)


def countdown_reward(completions: list[str], numbers: list[list[int]], target: list[int], **kwargs) -> list[float]:
    """
    Reward function for [`~trl.GRPOTrainer`]: 1.0 for a solution, 0.0 for anything else.

    Args:
        completions (`list[str]`):
            Generated expressions.
        numbers (`list[list[int]]`):
            Numbers of each puzzle, from the dataset's column of that name.
        target (`list[int]`):
            Target of each puzzle, from the dataset's column of that name.
        **kwargs:
            The other columns, which TRL passes too.

    Returns:
        `list[float]`: one reward per completion.
    """
    return [float(is_solution(*answer)) for answer in zip(completions, numbers, target, strict=True)]


@dataclass(frozen=True)
class Puzzle:
    """
    A puzzle with one of its solutions.

    Args:
        numbers (`tuple[int, ...]`):
            Numbers to use, in ascending order, so that equal puzzles compare equal by `prompt`.
        target (`int`):
            Value to reach.
        solution (`str`):
            One expression that reaches it.
    """

    numbers: tuple[int, ...]
    target: int
    solution: str

    @property
    def prompt(self) -> str:
        return f"{' '.join(map(str, self.numbers))}>{self.target}="


def generate_puzzles(seed: int, sizes: Sequence[int] = NUMBERS_PER_PUZZLE) -> Iterator[Puzzle]:
    """
    Generates puzzles without end. Each is solvable, being made from a random expression; one puzzle comes back with
    other solutions as often as it has them.

    Args:
        seed (`int`):
            Seed of the sequence: equal seeds generate equal puzzles.
        sizes (`Sequence[int]`, *optional*, defaults to `(5,)`):
            How many numbers a puzzle may have, each as often.

    Yields:
        [`Puzzle`]
    """
    rng = random.Random(seed)
    while True:
        numbers = [rng.randint(1, LARGEST_NUMBER) for _ in range(rng.choice(sizes))]
        solution, _ = _random_expression(numbers, rng)
        target, _ = evaluate(solution)
        if 1 <= target <= LARGEST_TARGET:
            yield Puzzle(tuple(sorted(numbers)), target, solution)


def _random_expression(numbers: list[int], rng: random.Random) -> tuple[str, str]:
    """Returns a random expression of `numbers` in this order, and the operator that it applies last."""
    if len(numbers) == 1:
        return str(numbers[0]), ""
    split = rng.randint(1, len(numbers) - 1)
    operator = rng.choice("+-*")
    left, left_operator = _random_expression(numbers[:split], rng)
    right, right_operator = _random_expression(numbers[split:], rng)
    # Only the parentheses that the value needs, so that one idea is written in one way.
    if operator == "*" and left_operator in ("+", "-"):
        left = f"({left})"
    if operator in ("*", "-") and right_operator in ("+", "-"):
        right = f"({right})"
    return left + operator + right, operator
