"""Numbers that are written out, compared exactly."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache


# A decimal with so many digits may stand for the number that it rounds: 0.333333 for 1/3, 4.12311 for the root of 17
SIGNIFICANT = 6
# A decimal with so many digits is a float, whose last digits are noise
FLOAT_DIGITS, FLOAT_NOISE = 12, Fraction(1, 10**9)
MAX_EXPONENT = 5000


@dataclass(frozen=True)
class Number:
    """A number written out, with the weight of its last digit where it is a decimal."""

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
    """Exact, but for a long decimal of another number, and for the relative distance that the user allows."""
    distance = abs(gold.value - answer.value)
    if distance <= Fraction(tolerance) * abs(gold.value):
        return True
    return any(
        one.step is not None
        and one.digits >= SIGNIFICANT
        and distance < (max(one.step, abs(other.value) * FLOAT_NOISE) if one.digits >= FLOAT_DIGITS else one.step)
        and (other.step is None or other.step < one.step)
        for one, other in ((gold, answer), (answer, gold))
    )


def rounds_to(exact: Number, rounded: Number) -> bool:
    """Whether a number rounds, or is cut off, to a decimal such as 0.33, or to a whole number."""
    return abs(exact.value - rounded.value) < (rounded.step or 1)
