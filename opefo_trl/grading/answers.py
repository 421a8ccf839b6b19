"""Extracts answers from gold values and completions, as LaTeX without a box."""

import ast
import math
import re
import warnings
from decimal import Decimal
from typing import Any


# Longest text that counts as the answer of a completion. Reading longer text would take long.
MAX_ANSWER_LENGTH = 1000

_BOX = re.compile(r"\\(?:boxed|fbox)\b\s*")
_BARE_BOX = re.compile(r"-?\w+")  # MATH sometimes writes `\boxed 2`
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is text
# Two boxes belong to one answer, as in `$x=\boxed{3}$ or $x=\boxed{-3}$`, if only `_LISTING` is between them once
# commands for the layout are removed
_LAYOUT = re.compile(r"\\q?quad|\\[()\[\] ,;]|\\text|[\s${}]")
_LISTING = re.compile(r"(?:[,;]|,?(?:and|or))?(?:[A-Za-z](?:_\w{1,9})?=)?")
MAX_BOXES = 20
# Content with which a box counts as empty: "as asked, the answer is in \boxed{...}"
_NOTHING = re.compile(r"(?:[\s.…?]|\\[lc]?dots|\\text\s?\{\s*\}|\\ )*")
# DAPO-Math asks for a last line of this form. Stars are bold type, and `#` and `-` begin a heading and a list
_ANSWER_LINE = re.compile(
    r"^[ \t*#>-]*(?:the[ \t]+)?(?:final[ \t]+)?answer[ \t*]*:[ \t*]*([^\n]*?)[ \t\r*]*$", re.IGNORECASE | re.MULTILINE
)
# Text around the answer in Minerva's prompt: "Final Answer: The final answer is $34$. I hope it is correct."
_SENTENCE = re.compile(r"^the\s+(?:final\s+)?answer\s+is:?\s+|\.?\s*I hope it is correct\.?$", re.IGNORECASE)
_DELIMITERS = re.compile(r"(?<!\\)(?:\$|\\[()\[\]])")


def boxed_answer(text: str) -> str | None:
    r"""
    The answer in the last `\boxed{}` or `\fbox{}` that is not empty, and in the boxes before it that belong to it.

    Boxes belong together if only a comma, "and", "or" or a name such as `x =` is between them.

    Args:
        text (`str`):
            Any text. The time is linear in its length, even for an adversarial text.

    Returns:
        `str` or `None`: the content of the boxes, with commas between different boxes. `None` if there is no box, or
        the last one is never closed.
    """
    found: list[str] = []
    next_start = len(text)
    for box in list(_BOX.finditer(text))[: -MAX_BOXES - 1 : -1]:
        content, end = _box_content(text, box.end())
        if content is None:
            break
        if end <= next_start and (not found or _LISTING.fullmatch(_LAYOUT.sub("", text[end:next_start]))):
            if content not in found and not _NOTHING.fullmatch(content):
                found.append(content)
            next_start = box.start() if found else next_start
        else:
            break
    return ", ".join(reversed(found)) if found else None


def _box_content(text: str, start: int) -> tuple[str | None, int]:
    """The content of the box whose braces begin at `start`, and its end. `None` if it is never closed."""
    if text[start : start + 1] != "{":
        bare = _BARE_BOX.match(text, start)
        return (bare.group(), bare.end()) if bare else (None, start)
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[start + 1 : brace.start()].strip(), brace.end()
    return None, len(text)


def completion_answer(text: str) -> str | None:
    r"""
    The answer that a completion gives.

    This is its last `\boxed{}`. Without any box, it is the last line of the form `Answer: 34` (or
    `### Final Answer: 34`, or `Answer:` before the last line) that starts within the last `MAX_ANSWER_LENGTH`
    characters.

    Args:
        text (`str`):
            Completion. An adversarial one is read as fast as any other.

    Returns:
        `str` or `None`: LaTeX of at most `MAX_ANSWER_LENGTH` characters with balanced braces. `None` if the completion
        gives no answer.
    """
    answer = (boxed_answer(text) or "") if _BOX.search(text) else _answer_line(text)
    answer = _DELIMITERS.sub("", answer).strip()
    return answer if len(answer) <= MAX_ANSWER_LENGTH and _fits_a_box(answer) else None


def _answer_line(text: str) -> str:
    # Not in a slice of the text, which need not begin at the start of a line
    for line in reversed(list(_ANSWER_LINE.finditer(text, max(0, len(text) - MAX_ANSWER_LENGTH)))):
        if answer := _DELIMITERS.sub("", line[1]).strip():
            return _SENTENCE.sub("", answer)
        rest = _DELIMITERS.sub("", text[line.end() :]).strip(" \t\r\n*")
        if rest and "\n" not in rest:
            return rest
    return ""


def gold_answer(value: Any) -> str | None:
    r"""
    The gold answer of a row, in any supported format.

    Args:
        value (`Any`):
            A text (`34`, `$34$`, `\boxed{34}`, a worked solution with boxes, of which the last counts, or with GSM8K's
            `#### 34`), a number (27.0 is 27), `True` or `False`, a list of these, or the text of a list
            (`"['9.6\n']"`). The text `[0, 1]` stays an interval.

    Returns:
        `str` or `None`: LaTeX with balanced braces; several answers are separated by commas. `None` if there is none.
    """
    if isinstance(value, str):
        items = _list_in(value)
        return _text_answer(value) if items is None else gold_answer(items)
    if isinstance(value, (list, tuple)):
        answers = [gold_answer(item) for item in value]
        return ", ".join(answers) if answers and None not in answers else None  # type: ignore[arg-type]
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"{Decimal(value):f}"  # `normalize` would round it to 28 digits, and `str` refuses 5,000
    if isinstance(value, float) and math.isfinite(value):
        # In full: `1e-05` would be read as e minus 5. NumPy's floats have another `repr`
        return f"{Decimal(repr(float(value))).normalize():f}"
    return None


def boxed(value: Any) -> str | None:
    r"""`\boxed{}` around what [`gold_answer`] returns: the form that this package's rewards and TRL's understand."""
    answer = gold_answer(value)
    return None if answer is None else f"\\boxed{{{answer}}}"


def _text_answer(text: str) -> str | None:
    if _BOX.search(text):
        text = boxed_answer(text) or ""
    answer = _DELIMITERS.sub("", text).rsplit("####", 1)[-1].strip()
    return answer if _fits_a_box(answer) else None


def _fits_a_box(answer: str) -> bool:
    r"""Whether an answer in a `\boxed{}` is read back unchanged: `34}, or 35` would be read as 34."""
    return answer != "" and boxed_answer(rf"\boxed{{{answer}}}") == answer


def _list_in(text: str) -> list | None:
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # LaTeX is full of escapes that Python calls invalid, and keeps unchanged
            items = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    is_list = isinstance(items, list) and (len(items) == 1 or all(isinstance(item, str) for item in items))
    return items if is_list else None
