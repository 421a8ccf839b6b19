r"""Readers of answers and of Countdown expressions, written anew: plain loops that share no line with the package."""

import ast
import re
from fractions import Fraction

from examples.countdown.countdown import MAX_EXPRESSION_LENGTH
from opefo_trl.grading.answers import MAX_ANSWER_LENGTH, MAX_BOXES


def box_at(text: str, start: int) -> tuple[str | None, int] | None:
    r"""Content and end of the `\boxed{}` or `\fbox{}` that starts at a place; `None` if none does."""
    name = next((name for name in ("\\boxed", "\\fbox") if text.startswith(name, start)), None)
    place = start + len(name or "")
    if name is None or (place < len(text) and (text[place].isalnum() or text[place] == "_")):
        return None
    while place < len(text) and text[place].isspace():
        place += 1
    if not text.startswith("{", place):
        end = place + text.startswith("-", place)
        word = end
        while end < len(text) and (text[end].isalnum() or text[end] == "_"):
            end += 1
        return (text[place:end], end) if end > word else (None, place)
    depth, position = 0, place
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return text[place + 1 : position].strip(), position + 1
        position += 1
    return None, len(text)


def last_boxes(text: str) -> str | None:
    r"""
    Content of the last box that holds anything, with commas between it and the boxes right before it.

    A text from which a connector and a name are taken is known by what is left, word by word.
    """
    found: list[str] = []
    following = len(text)
    seen = 0
    for start in range(len(text) - 1, -1, -1):
        box = box_at(text, start)
        if box is None:
            continue
        seen += 1
        content, end = box
        if (
            content is None
            or seen > MAX_BOXES
            or (found and not (end <= following and is_connector(text[end:following])))
        ):
            break
        if content not in found and not is_nothing(content):
            found.insert(0, content)
        if found:
            following = start
    return ", ".join(found) if found else None


def is_nothing(text: str) -> bool:
    """Whether a box with this content is as good as empty."""
    for empty in ("\\ldots", "\\cdots", "\\dots", "\\ ", ".", "…", "?"):
        text = text.replace(empty, " ")
    return "".join(text.split()) in ("", *("\\text{}" * count for count in range(1, 200)))


def is_connector(text: str) -> bool:
    """Whether a text between two boxes only lists them: a comma, "and" or "or", and one name with `=`."""
    rest, position = "", 0
    inks = ("\\qquad", "\\quad", "\\text", "\\(", "\\)", "\\[", "\\]", "\\ ", "\\,", "\\;", "$", "{", "}")
    while position < len(text):
        ink = next((ink for ink in inks if text.startswith(ink, position)), None)
        if ink is not None:
            position += len(ink)
        else:
            rest += "" if text[position].isspace() else text[position]
            position += 1
    for word in ("", ",", ";", "and", "or", ",and", ",or"):
        name = rest[len(word) : -1]
        if rest == word:
            return True
        if rest.startswith(word) and rest.endswith("=") and name[:1].isascii() and name[:1].isalpha():
            index = name[2:]
            if len(name) == 1 or (name[1] == "_" and 0 < len(index) < 10 and index.replace("_", "a").isalnum()):
                return True
    return False


def has_box(text: str) -> bool:
    for name in ("\\boxed", "\\fbox"):
        for rest in text.split(name)[1:]:
            if not (rest[:1].isalnum() or rest[:1] == "_"):
                return True
    return False


def last_answer_line(text: str) -> str:
    """What stands behind the last `Answer:` that starts near enough to the end, or on the only line below it."""
    found, start = "", 0
    for line in text.split("\n"):
        label, colon, rest = line.partition(":")
        words = label.lstrip(" \t*#>-").rstrip(" \t*").replace("\t", " ").casefold().split()
        is_label = words in (["answer"], ["final", "answer"], ["the", "answer"], ["the", "final", "answer"])
        # No star or blank but a space or a tab stands between the words of a label
        is_label = is_label and all(c in " \t" or not c.isspace() for c in label)
        if colon and start >= len(text) - MAX_ANSWER_LENGTH and is_label:
            rest = without_delimiters(rest.strip(" \t*").rstrip(" \t\r*")).strip()
            below = without_delimiters(text[start + len(line) :]).strip(" \t\r\n*")
            found = without_sentence(rest) if rest else ("" if "\n" in below else below) or found
        start += len(line) + 1
    return found


def without_sentence(text: str) -> str:
    """What stands between "The final answer is" and "I hope it is correct.", each of which may be missing."""
    lowered, words = text.lower(), ("the", "final", "answer", "is")
    position = 0
    seen: list[str] = []
    for word in words:
        if lowered.startswith(word, position):
            end = position + len(word)
            if word == "is" and lowered.startswith(":", end):
                end += 1
            blanks = end
            while blanks < len(text) and text[blanks].isspace():
                blanks += 1
            if blanks == end:
                break
            position, seen = blanks, [*seen, word]
    if seen in (["the", "answer", "is"], ["the", "final", "answer", "is"]):
        text = text[position:]
    shorter = text.removesuffix(".")
    if shorter.lower().endswith("i hope it is correct"):
        text = shorter[: -len("i hope it is correct")].rstrip()
        text = text.removesuffix(".")
    return text


def without_delimiters(text: str) -> str:
    """A text without the dollars and brackets around mathematics."""
    kept, position = "", 0
    while position < len(text):
        is_free = position == 0 or text[position - 1] != "\\"
        if text[position] == "$" and is_free:
            position += 1
        elif text[position] == "\\" and text[position + 1 : position + 2] in tuple("()[]") and is_free:
            position += 2
        else:
            kept += text[position]
            position += 1
    return kept


def fits_a_box(answer: str) -> bool:
    """Whether a box around the answer ends behind it, and not within it or never."""
    return last_boxes(f"\\boxed{{{answer}}}") == answer


def countdown_value(text: str) -> tuple[Fraction, list[int]] | None:
    """Value and numbers of a Countdown expression by Python's own parser, `None` where it is none."""
    digits = re.findall(r"\d+", text)
    if len(text) > MAX_EXPRESSION_LENGTH or not set(text) <= set("0123456789+-*()"):
        return None
    if any(number != "0" and number[0] == "0" for number in digits):
        return None
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        return None

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return Fraction(node.value)
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Add):
                return left + right
            if isinstance(node.op, ast.Sub):
                return left - right
            if isinstance(node.op, ast.Mult):
                return left * right
        raise ValueError

    try:
        return value(tree), [int(number) for number in digits]
    except ValueError:
        return None
