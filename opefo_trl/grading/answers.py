"""From every published spelling of a math answer to one: LaTeX without its box."""

import ast
import math
import re
import warnings
from decimal import Decimal
from typing import Any


# What may stand where a completion gives its answer. Longer text is no answer, and reading it would take long.
MAX_ANSWER_LENGTH = 1000

_BOX = re.compile(r"\\(?:boxed|fbox)\b\s*")
_BARE_BOX = re.compile(r"-?\w+")  # MATH writes `\boxed 2` now and then
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is text
# DAPO-Math asks for a last line of this form. Stars are bold type: `**Answer:**` alone is the head of a paragraph
_ANSWER_LINE = re.compile(r"^[ \t*]*answer[ \t*]*:[ \t*]*([^\s*].*?)[ \t\r*]*$", re.IGNORECASE | re.MULTILINE)
_DOLLARS = re.compile(r"(?<!\\)\$")


def last_boxed(text: str) -> str | None:
    r"""
    Content of the last `\boxed{}` or `\fbox{}`.

    Args:
        text (`str`):
            Any text, hostile too: the time is linear in its length.

    Returns:
        `str` or `None`: what stands between its braces; `None` without a box, and where the last one is never closed.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if text[start : start + 1] != "{":
        bare = _BARE_BOX.match(text, start)
        return bare.group() if bare else None
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[start + 1 : brace.start()].strip()
    return None


def completion_answer(text: str) -> str | None:
    r"""
    The answer that a completion gives: its last `\boxed{}`, or, if it has no box at all, its last line of the form
    `Answer: 34`, of those that start within its last `MAX_ANSWER_LENGTH` characters.

    Args:
        text (`str`):
            Completion, hostile too.

    Returns:
        `str` or `None`: LaTeX of at most `MAX_ANSWER_LENGTH` characters, its braces closed; `None` if the completion
        gives no answer.
    """
    if _BOX.search(text):
        answer = last_boxed(text) or ""
    else:
        # Not a slice of the text, whose first characters need not begin a line
        answer = (_ANSWER_LINE.findall(text, max(0, len(text) - MAX_ANSWER_LENGTH)) or [""])[-1]
    answer = _DOLLARS.sub("", answer).strip()
    return answer if len(answer) <= MAX_ANSWER_LENGTH and _fits_a_box(answer) else None


def gold_answer(value: Any) -> str | None:
    r"""
    The answer that a dataset gives, whatever its spelling.

    Args:
        value (`Any`):
            A text (`34`, `$34$`, `\boxed{34}`, a worked solution with boxes, of which the last counts, or with GSM8K's
            `#### 34`), a number (27.0 is 27), a list of these, or the text of a list (`"['9.6\n']"`). The text
            `[0, 1]` stays an interval.

    Returns:
        `str` or `None`: LaTeX, its braces closed, several answers with commas between; `None` if there is no answer.
    """
    if isinstance(value, str):
        items = _list_in(value)
        return _text_answer(value) if items is None else gold_answer(items)
    if isinstance(value, (list, tuple)):
        answers = [gold_answer(item) for item in value]
        return ", ".join(answers) if answers and None not in answers else None  # type: ignore[arg-type]
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{Decimal(value):f}"  # `normalize` would round it to 28 digits, and `str` refuses 5,000
    if isinstance(value, float) and math.isfinite(value):
        # In full: `1e-05` would be read as e minus 5. NumPy's floats have another `repr`
        return f"{Decimal(repr(float(value))).normalize():f}"
    return None


def boxed(value: Any) -> str | None:
    r"""`\boxed{}` around what [`gold_answer`] reads: the form that this package's rewards and TRL's understand."""
    answer = gold_answer(value)
    return None if answer is None else f"\\boxed{{{answer}}}"


def _text_answer(text: str) -> str | None:
    if _BOX.search(text):
        text = last_boxed(text) or ""
    answer = _DOLLARS.sub("", text).rsplit("####", 1)[-1].strip()
    return answer if _fits_a_box(answer) else None


def _fits_a_box(answer: str) -> bool:
    r"""Whether `\boxed{}` around it ends behind it: around `34}, or 35` it would be read as 34."""
    return answer != "" and last_boxed(rf"\boxed{{{answer}}}") == answer


def _list_in(text: str) -> list | None:
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # LaTeX is full of what Python calls invalid escapes, and leaves as it is
            items = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    is_list = isinstance(items, list) and (len(items) == 1 or all(isinstance(item, str) for item in items))
    return items if is_list else None
