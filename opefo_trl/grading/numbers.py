"""Numbers that are written out, compared exactly."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache


# A decimal with this many digits may stand for the number that it rounds: 0.333333 for 1/3, 4.12311 for the root of 17
SIGNIFICANT = 6
# A decimal with this many digits is a float, whose last digits are noise
FLOAT_DIGITS, FLOAT_NOISE = 12, Fraction(1, 10**12)
MAX_EXPONENT = 5000


@dataclass(frozen=True)
class Number:
    """A number that is written out and, for a decimal, the value of one unit of its last digit (`step`)."""

    value: Fraction
    step: Fraction | None
    digits: int


_DECIMAL = re.compile(r"([+-]*)(\d+)(?:\.(\d+))?(?:[eE]\+?(-?\d+)|(?:\\times |\\cdot |\*)\(?10\)?\^\{\+?(-?\d+)\})?")
_QUOTIENT = re.compile(r"([+-]*)(\d*)(?:\\frac \{([+-]?)(\d+)\}\{([+-]?)(\d+)\}|(?<=\d)/(\d+))")


@lru_cache(maxsize=1024)
def number(latex: str) -> Number | None:
    """The number that a formula writes out; `None` if it is more than a number."""
    if match := _DECIMAL.fullmatch(latex):
        signs, whole, decimals, *exponents = match.groups()
        exponent = int(exponents[0] or exponents[1] or 0)
        if abs(exponent) > MAX_EXPONENT:
            return None
        step = Fraction(10) ** (exponent - len(decimals or ""))
        value = int(whole + (decimals or "")) * step * (-1) ** signs.count("-")
        return Number(value, step if decimals else None, len((whole + (decimals or "")).lstrip("0")))
    if match := _QUOTIENT.fullmatch(latex):
        signs, whole, top_sign, top, bottom_sign, bottom, divisor = match.groups()
        sign = (-1) ** (signs + (top_sign or "") + (bottom_sign or "")).count("-")
        if divisor is not None:
            return Number(sign * Fraction(int(whole), int(divisor)), None, 0) if int(divisor) else None
        if int(bottom):
            return Number(sign * (int(whole or 0) + Fraction(int(top), int(bottom))), None, 0)
    return None


def same_numbers(gold: Number, answer: Number, tolerance: float) -> bool:
    """Whether two numbers are the same, within `tolerance` of each other, or one is the other as a long decimal."""
    distance = abs(gold.value - answer.value)
    if distance <= Fraction(tolerance) * abs(gold.value):
        return True
    for decimal, other in ((gold, answer), (answer, gold)):
        if decimal.step is None or (other.step is not None and other.step >= decimal.step):
            continue
        if decimal.digits >= FLOAT_DIGITS and distance <= abs(other.value) * FLOAT_NOISE:
            return True
        # A whole number of many digits is exact, and no rounded decimal stands for it
        if decimal.digits >= SIGNIFICANT and other.value.denominator != 1 and rounds_to(other, decimal):
            return True
    return False


def rounds_to(exact: Number, rounded: Number) -> bool:
    """Whether a number rounds or truncates to a decimal, or rounds to a whole number."""
    excess = abs(exact.value) - abs(rounded.value)
    if exact.value * rounded.value < 0:
        return False
    if rounded.step is None:
        return abs(excess) <= Fraction(1, 2)
    return 0 <= excess < rounded.step or abs(excess) <= rounded.step / 2
