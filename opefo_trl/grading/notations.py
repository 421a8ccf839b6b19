r"""Formulas in a notation that the parser does not know: per cent, degrees, bases, ratios, constants of integration.

Every rule takes two formulas as [`~latex.spell`] returns them, and returns `None` if it does not apply.
"""

import re
from collections.abc import Callable

from .formulas import same_formulas
from .numbers import number
from .policy import Policy


_MARK = re.compile(r"\\(?:degree|percent) ")
_VALUES = {r"\degree ": r"\cdot \frac {\pi }{180}", r"\percent ": r"\cdot \frac {1}{100}"}
# The base of a number follows it: 4210_7
_BASED = re.compile(r"([+-]*(?:\d|[A-F]\d)[\dA-F.]*)_\{\(?([^{}()]*)\)?\}")
_BASE_NAMES = dict(two="2", three="3", four="4", five="5", six="6", seven="7", eight="8", nine="9", ten="10")
_TIME = re.compile(r"\d\d?:\d\d(:\d\d)?")
_LETTER_C = re.compile(r"(?<![A-Za-z\\])C(?![A-Za-z])")


def same_in_notation(gold: str, answer: str, policy: Policy) -> bool:
    """Whether two formulas are equal, in whatever notation they are written."""
    for rule in _RULES:
        verdict = rule(gold, answer, policy)
        if verdict is not None:
            return verdict
    return same_formulas(gold, answer, policy.tolerance) or _same_constants(gold, answer, policy)


def is_marked(formula: str) -> bool:
    """Whether a formula has degrees or per cent, which count as units although they are no words."""
    return _MARK.search(formula) is not None


def is_based(formula: str) -> bool:
    """Whether a formula is a number in a named base."""
    return _BASED.fullmatch(formula) is not None


def _same_marked(gold: str, answer: str, policy: Policy) -> bool | None:
    r"""50\% is 1/2, and 180 degrees are pi. Like a unit, the mark may be missing on one side: 50\% is 50, too."""
    # But 0.5 is not 0.5\%, and pi/2 is not pi/2 degrees
    marks = [set(_MARK.findall(formula)) for formula in (gold, answer)]
    if not marks[0] and not marks[1]:
        return None
    written = number(gold)
    is_small = not marks[0] and (written is None or written.value.denominator != 1)
    if marks[0] == marks[1] or policy.units == "optional" and not (marks[0] and marks[1]) and not is_small:
        one, other = (_MARK.sub("", formula) for formula in (gold, answer))
        if one == other or same_formulas(one, other, policy.tolerance):
            return True
    one, other = (_MARK.sub(lambda mark: _VALUES[mark[0]], formula) for formula in (gold, answer))
    return same_formulas(one, other, policy.tolerance)


def _same_base(gold: str, answer: str, policy: Policy) -> bool | None:
    """The same digits in the same base. The answer may leave out the base, but not add one: 52_8 is 42."""
    one, other = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if one is None and other is None:
        return None
    if other is None:
        return one is not None and one[1] == answer
    base = _BASE_NAMES.get(other[2], other[2])
    if one is None:
        return other[1] == gold and base == "10"
    return one[1] == other[1] and _BASE_NAMES.get(one[2], one[2]) == base


def _same_ratio(gold: str, answer: str, policy: Policy) -> bool | None:
    """6:4 is 3:2, which is 3/2. A time, such as 3:20, is only itself."""
    if ":" not in gold + answer:
        return None
    if _TIME.fullmatch(gold) or _TIME.fullmatch(answer):
        return False
    terms = [formula.split(":") for formula in (gold, answer)]
    quotients = [[rf"\frac {{{first}}}{{{other}}}" for other in others] or [first] for first, *others in terms]
    return len(quotients[0]) == len(quotients[1]) and all(
        same_formulas(one, other, policy.tolerance) for one, other in zip(*quotients, strict=True)
    )


def _same_constants(gold: str, answer: str, policy: Policy) -> bool:
    """C and c both name the constant of integration. Alone, they are two different choices."""
    renamed = [_LETTER_C.sub("c", formula) for formula in (gold, answer)]
    if renamed == [gold, answer] or {gold, answer} == {"c", "C"}:
        return False
    if any({"c", "C"} <= set(re.sub(r"\\[A-Za-z]+", " ", formula)) for formula in (gold, answer)):
        return False
    return renamed[0] == renamed[1] or same_formulas(renamed[0], renamed[1], policy.tolerance)


_RULES: tuple[Callable[[str, str, Policy], bool | None], ...] = (_same_marked, _same_base, _same_ratio)
