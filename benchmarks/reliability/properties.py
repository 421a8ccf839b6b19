r"""What must hold for any text that a model or a dataset may hold, checked against readers written anew.

Each property takes one text and raises an `AssertionError` that says what is wrong, before its first colon in words
that are the same for every text. The references are slow, plain loops that share no line with the package.
"""

import random
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import cache
from typing import IO, Any
from unittest.mock import patch

from examples.countdown.countdown import countdown_reward, evaluate, is_solution
from opefo_trl.grading.answers import MAX_ANSWER_LENGTH, boxed, completion_answer, gold_answer
from opefo_trl.grading.equality import equal
from opefo_trl.grading.grader import Grader

from .changes import draw_change
from .readers import countdown_value, fits_a_box, has_box, last_answer_line, last_boxes, without_delimiters


# What texts are made of, beside single characters: everything that the readers look for, and its near misses
FRAGMENTS = [
    *("\\boxed{", "\\boxed", "\\fbox{", "\\boxed 7", "boxed{", "{", "}", "\\{", "\\}", "\\\\", "\\", "$", "\\$", "$$"),
    *(
        "Answer:",
        "Final Answer:",
        "###",
        "\nAnswer: 34",
        "\n**Answer:** ",
        "answer",
        ":",
        "*",
        "**",
        "\n",
        "\r\n",
        "\t",
        " ",
        "\u2028",
        "\x00",
    ),
    *(
        "####",
        "\n#### 1,234",
        "[",
        "]",
        "['",
        "']",
        "', '",
        '["',
        '"]',
        ", ",
        "(",
        ")",
        "'",
        "\\x41",
        "{1: [2]}",
        "1e9",
    ),
    *(
        "34",
        "27.0",
        "-0.5",
        "0",
        "9" * 40,
        "\\frac{1}{2}",
        "x^{2}",
        "^{9^{9^9}}",
        "!",
        "%",
        "=",
        "\\text{",
        "\\left(",
        "é",
    ),
    *(
        "\\infty",
        "\\cup",
        "\\begin{pmatrix}1&2\\end{pmatrix}",
        "\\sqrt",
        "_",
        "^",
        "&",
        "<",
        "\\in",
        "\\quad",
        " and ",
        ", or $x_1=",
        "\\(",
        "\\]",
        "\\boxed{}",
        "~",
        ";",
    ),
]
COUNTDOWN_FRAGMENTS = [
    *(*"0123456789" * 2, *"+-*()" * 2, *("(3+4)", "7*", "-2", "+10", "*(8-5)", "(", "((", ")-1", "6)") * 4),
    *("07", "00", "**", "--", "()", " ", "/", "٣", "_", ".", "=", "\n"),
]

# A gold answer that no text meets by chance
GOLD = "-987654321"
GROWTH_LENGTH = 20_000


def check_completion(text: str) -> None:
    """The answer in a completion is the one that the rule says, and garbage before an answer does not hide it."""
    raw = (last_boxes(text) or "") if has_box(text) else last_answer_line(text)
    expected: str | None = without_delimiters(raw).strip()
    if not expected or len(expected) > MAX_ANSWER_LENGTH or not fits_a_box(expected):
        expected = None
    answer = completion_answer(text)
    assert answer == expected, f"the answer is misread: {answer!r}, not {expected!r}"
    found = completion_answer(text + ". \\boxed{34}")
    assert found == "34", f"a box behind it is not found: {found!r}"
    if not has_box(text):
        found = completion_answer(text + "\nAnswer: 34")
        assert found == "34", f"an answer line behind it is not found: {found!r}"


def check_gold(text: str) -> None:
    """A gold answer is a text that fits a box, and reads the same out of its box, alone, in a list and as its text."""
    answer = gold_answer(text)
    assert answer is None or (answer == answer.strip() and fits_a_box(answer)), f"no box holds the answer: {answer!r}"
    again = gold_answer(boxed(text))
    assert again == answer, f"the answer is read back as another: {answer!r} as {again!r}"
    if answer is not None:
        assert gold_answer([answer]) == gold_answer(answer), "a list of one answer is another answer"
        assert completion_answer(f"\\boxed{{{answer}}}") == (answer if len(answer) <= MAX_ANSWER_LENGTH else None)
    digits = "".join(c for c in text if c in "0123456789")
    for number in (int(digits[:60]), int((400 * digits)[:400])) if digits else ():
        assert gold_answer(number) == gold_answer(f"[{number}]") == str(number), f"a number is misread: {number}"


def check_countdown(text: str) -> None:
    """The parser accepts what Python's accepts of the grammar, with the same value, and the reward follows from it."""
    expected = countdown_value(text)
    try:
        value: tuple[int, list[int]] | None = evaluate(text)
    except ValueError:
        value = None
    assert value == expected, f"the value is wrong: {value}, not {expected}"
    target, numbers = (int(expected[0]), expected[1]) if expected else (7, [7])
    rewards = countdown_reward(
        [text, text, "7", text, text],
        numbers=[numbers, numbers, [7], [*numbers, 1], numbers[::-1]],
        target=[target, target + 1, 7, target, target],
    )
    right = float(expected is not None)
    assert rewards == [right, 0.0, 1.0, 0.0, right], f"the rewards are wrong: {rewards}"
    assert all(type(reward) is float for reward in rewards)


def seconds(function: Callable[[str], object], text: str) -> float:
    began = time.process_time()
    function(text)
    return time.process_time() - began


def check_growth(unit: str) -> None:
    """Texts of one unit again and again take time and memory in proportion to their length."""
    if not unit:
        return
    readers: dict[str, tuple[Callable[[str], object], str, str]] = {
        "completion": (completion_answer, "", ""),
        "box": (completion_answer, "\\boxed{", "}"),
        "answer line": (completion_answer, "Answer:", ""),
        "gold": (gold_answer, "", ""),
        "list of golds": (gold_answer, "[", "]"),
        "text in a list": (gold_answer, "['", "']"),
        "Countdown": (lambda text: is_solution(text, [7], 7), "", ""),
    }
    for name, (read, before, after) in readers.items():
        short, long = (before + unit * (length // len(unit)) + after for length in (GROWTH_LENGTH, 2 * GROWTH_LENGTH))
        if seconds(read, long) > 0.05:  # less is as good as nothing, and cannot be measured
            ratio = min(seconds(read, long) for _ in range(3)) / min(seconds(read, short) for _ in range(3))
            assert ratio < 3, f"{name}: twice the length takes {ratio:.1f} times as long"


def check_memory(unit: str) -> None:
    """As `check_growth`, for the memory: at most a kilobyte per character, which Python's parser takes of a list."""
    for read in (completion_answer, gold_answer):
        for before, after in (("", ""), ("\\boxed{", "}"), ("[", "]")):
            text = before + unit * (GROWTH_LENGTH // max(1, len(unit))) + after
            tracemalloc.start()
            read(text)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 1000 * len(text) + 100_000, f"too much memory: {peak} bytes for {len(text)} characters"


def check_changed(text: str) -> None:
    """A gold equals its other spelling and, with one digit, sign, letter, unit or base changed, nothing of itself."""
    change = draw_change(random.Random(text))
    assert equal(change.gold, change.same), f"a right answer is refused: {change.same!r} for {change.gold!r}"
    for one, other in ((change.gold, change.changed), (change.changed, change.gold)):
        assert not equal(one, other), f"a changed {change.kind} is not seen: {other!r} for {one!r}"


# What a worker runs here: the grader, which says on stderr whatever SymPy evaluates that is no number
WATCHED_WORKER = r"""
import re, sys
import sympy.physics.units, sympy.parsing.sympy_parser as parser
from opefo_trl.grading import grader
evaluate = parser.eval_expr
def eval_expr(code, *names):
    if not re.fullmatch(r"(Integer|Float) \('?[0-9.e+-]+'? \)", code):
        print("evaluated:", code, file=sys.stderr, flush=True)
    return evaluate(code, *names)
parser.eval_expr = eval_expr
grader.serve()
"""


@cache
def watched_grader() -> tuple[Grader, IO[str]]:
    """A pool of one worker that watches what SymPy evaluates, and the file that it writes to."""
    said = tempfile.TemporaryFile("w+")

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WATCHED_WORKER]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True)

    with patch("opefo_trl.grading.grader._start_worker", start):
        return Grader(num_workers=1), said


def math_reward(completions: list[str], solution: list[Any]) -> list[float | None]:
    """The package's, through the pool that watches."""
    from opefo_trl.grading import rewards  # loads torch, which no other property needs

    with patch("opefo_trl.grading.rewards.shared_grader", lambda: watched_grader()[0]):
        return rewards.math_reward(completions, solution)


def check_reward(text: str) -> None:
    """Rewards through a worker process: exact, repeatable, whatever the neighbours, and never by accident."""
    completions = [text, text + ". \\boxed{34}", text, "\\boxed{34}", text]
    solution = [GOLD, "34", None, 34, text]
    rewards = math_reward(completions, solution)
    assert all(reward is None or type(reward) is float and reward in (0.0, 1.0) for reward in rewards), (
        f"no rewards: {rewards}"
    )
    assert rewards[1:4] == [1.0, None, 1.0], f"its neighbours are misjudged: {rewards}"
    assert rewards[0] == (1.0 if completion_answer(text) == GOLD else 0.0), "a wrong answer is rewarded"
    if gold_answer(text) is None:
        assert rewards[4] is None, "a text without a gold answer is one"
    elif completion_answer(text) is None:
        assert rewards[4] in (None, 0.0), "no answer is rewarded"
    alone = [math_reward([c], [s])[0] for c, s in reversed(list(zip(completions, solution, strict=True)))]
    said = watched_grader()[1]
    said.seek(0)
    evaluated = said.read()
    said.truncate(0)
    assert evaluated == "", f"a text is evaluated: {evaluated!r}"
    assert alone[::-1] == rewards, f"the batch matters: alone {alone[::-1]}, together {rewards}"
