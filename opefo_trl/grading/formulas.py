r"""Whether two formulas are equal. math-verify parses them. Their values at points decide, or else math-verify.

Two expressions are the same if they agree to many digits at random points, and differ if they differ at one point.
This costs a thousandth of a proof by simplification. math-verify's own verdict compares rounded decimals, drops what
is smaller than 1e-15, and calls two equations equal if it can solve neither.
"""

import random
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from .numbers import Number, number, same_numbers
from .numbers import rounds_to as _rounds_to


# Digits of a value at a point, and those that two values must share
DIGITS, SHARED = 40, 30
# Working digits at most, so that enough remain where two large numbers nearly cancel
MAX_DIGITS = 2000
_SEED = 20260


@lru_cache(maxsize=1024)
def read_formula(latex: str) -> Any:
    """The SymPy object that math-verify's parser makes of a formula, or `None`."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    # I and E are ordinary letters here, but numbers for the parser. i stays the imaginary unit, e Euler's number
    text = re.sub(r"(?<![A-Za-z\\{])([IE])(?![A-Za-z])|(?<=\{)([IE])(?![A-Za-z}])", r"\\text{\1\2}", latex)
    if re.search(r"(?<![A-Za-z}])\d+_", latex):
        return None  # a number in some base; the parser would drop the base
    if "!!" in latex:
        return None  # the parser reads it as the factorial of a factorial
    if re.search(r"\\(?:gcd|lcm) [^a-z]*[A-Za-z]", latex):
        return None  # the parser reads letters as polynomials without a common divisor
    text = re.sub(r"\\(gamma|Gamma) (?!\()", r"\\text{\1 letter}", text)  # not Euler's constant
    text = re.sub(r"(?<=[A-Za-z]) (?=[{\[])", "", text)
    try:
        return latex2sympy(
            text, is_real=True, normalization_config=None, conversion_config=ConversionConfig(lowercase_symbols=False)
        )
    except Exception:  # all kinds of exceptions
        return None


def same_formulas(gold: str, answer: str, tolerance: float = 0.0) -> bool:
    """
    Whether two formulas without relations are equal.

    Args:
        gold (`str`):
            LaTeX as [`~latex.spell`] returns it.
        answer (`str`):
            LaTeX of the same form.
        tolerance (`float`, *optional*, defaults to `0.0`):
            Relative distance up to which two numbers are equal.
    """
    numbers = number(gold), number(answer)
    if numbers[0] is not None and numbers[1] is not None:
        return same_numbers(numbers[0], numbers[1], tolerance)
    readings = read_formula(gold), read_formula(answer)
    if readings[0] is None or readings[1] is None:
        return False
    for written, other in ((numbers[0], readings[1]), (numbers[1], readings[0])):
        if written is not None and (value := _number_of(other)) is not None:
            if written.step is not None or tolerance:
                return same_numbers(*((written, value) if written is numbers[0] else (value, written)), tolerance)
    return _same(readings[0], readings[1])


def rounds_to(exact: str, rounded: str, to_whole: bool = True) -> bool:
    """Whether the value of a formula rounds to a number such as 0.33 or, if `to_whole`, to a whole number."""
    written, value = number(rounded), number(exact) or _number_of(read_formula(exact))
    if written is None or value is None or (written.step is None and not to_whole):
        return False
    return _rounds_to(value, written)


def same_equations(gold: tuple[str, str], answer: tuple[str, str]) -> bool:
    """
    Whether two equations, each a left and a right side, have the same solutions.

    This holds if the differences of their sides are proportional, with or without denominators. It also holds if one
    has the form `x = ...`, and the other is linear in x and true for that value.
    """
    import sympy

    readings = [read_formula(side) for side in (*gold, *answer)]
    if not all(isinstance(reading, sympy.Expr) for reading in readings):
        return False
    left, right = readings[0] - readings[1], readings[2] - readings[3]
    if left.free_symbols != right.free_symbols or not left.free_symbols:
        return False
    if _proportional(left, right):
        return True
    for solved, difference in ((readings[:2], right), (readings[2:], left)):
        for letter, value in (solved, solved[::-1]):
            if letter.is_Symbol and letter not in value.free_symbols and _solves(difference, letter, value):
                return True
    try:
        tops = [sympy.fraction(sympy.together(difference))[0] for difference in (left, right)]
    except Exception:  # all kinds of exceptions
        return False
    return _proportional(*tops)


def same_inequalities(gold: tuple[str, ...], answer: tuple[str, ...]) -> bool:
    """Whether two inequalities, each a smaller and a larger side, are the same up to a positive factor."""
    import sympy

    readings = [read_formula(side) for side in (*gold, *answer)]
    if not all(isinstance(reading, sympy.Expr) for reading in readings):
        return False
    left, right = readings[1] - readings[0], readings[3] - readings[2]
    pairs = _values([left, right])
    return _proportional(left, right) and all(one * other > 0 for one, other in pairs)


def same_by_math_verify(gold: str, answer: str) -> bool:
    """math-verify's own verdict on sets and inequalities with the same letters."""
    import sympy
    from math_verify import verify

    readings = read_formula(gold), read_formula(answer)
    if not all(isinstance(reading, sympy.Basic) for reading in readings):
        return False
    letters = [{str(symbol) for symbol in reading.free_symbols} for reading in readings]
    is_set = any(isinstance(reading, sympy.Set) for reading in readings)
    if not is_set and letters[0] != letters[1]:
        return False
    return verify(readings[0], readings[1], float_rounding=12, allow_set_relation_comp=True, timeout_seconds=None)


def _same(gold: Any, answer: Any) -> bool:
    import sympy

    if isinstance(gold, sympy.MatrixExpr) or isinstance(answer, sympy.MatrixExpr):
        gold, answer = (sympy.Matrix(one.doit()) if one.is_Matrix else one for one in (gold, answer))
    if isinstance(gold, sympy.MatrixBase) and isinstance(answer, sympy.MatrixBase):
        return gold.shape == answer.shape and all(map(_same, gold.flat(), answer.flat()))
    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return isinstance(gold, sympy.Basic) and isinstance(answer, sympy.Basic) and _same_otherwise(gold, answer)
    verdict = _agree(gold, answer)
    return _same_otherwise(gold, answer) if verdict is None else verdict


def _same_otherwise(gold: Any, answer: Any) -> bool:
    """math-verify's verdict on what has no numeric value: sets, derivatives, functions without a definition."""
    import sympy
    from math_verify import verify

    if isinstance(gold, sympy.Set) != isinstance(answer, sympy.Set):
        return False  # math-verify treats an element as the set of it
    letters = [{str(symbol) for symbol in reading.free_symbols} for reading in (gold, answer)]
    return letters[0] == letters[1] and verify(gold, answer, float_rounding=12, timeout_seconds=None)


def _number_of(reading: Any) -> Number | None:
    """The value of a constant, with as many digits as a decimal can need."""
    import sympy

    if not isinstance(reading, sympy.Expr) or reading.free_symbols:
        return None
    value = _value(_exact(reading), {})
    return Number(Fraction(str(value)), None, 0) if value is not None and value.is_real else None


def _agree(gold: Any, answer: Any) -> bool | None:
    """Whether two expressions have the same values. `None` if too few can be computed."""
    import sympy

    gold, answer = _exact(gold), _exact(answer)
    if any(expression.has(sympy.nan, sympy.zoo) for expression in (gold, answer)):
        return False
    if gold == answer:
        return True
    letters = sorted(gold.free_symbols | answer.free_symbols, key=str)
    if not letters and gold.is_rational and answer.is_rational:
        return bool(gold.doit() == answer.doit())  # exact: (2^100-1)/2^100 is not (3^100-1)/3^100
    digits = DIGITS
    if not letters:
        gold, answer = gold.doit(), answer.doit()
        digits = _digits_for([gold, answer])
    pairs = _pairs([gold, answer], letters, digits)
    if not all(_close(one, other, digits - DIGITS + SHARED) for one, other in pairs):
        return False
    agreed = len(pairs)
    return True if agreed >= (2 if any(letter.name != "i" for letter in letters) else 1) else None


def _proportional(gold: Any, answer: Any) -> bool:
    pairs = _values([gold, answer])
    return (
        len(pairs) >= (2 if gold.free_symbols or answer.free_symbols else 1)
        and all(one != 0 and other != 0 for one, other in pairs)
        and all(_close(one * pairs[0][1], other * pairs[0][0]) for one, other in pairs)
    )


def _solves(difference: Any, letter: Any, value: Any) -> bool:
    """Whether the difference of an equation's sides is linear in a letter and 0 where the letter has this value."""
    import sympy

    slope = difference.subs(letter, value + 1) - difference.subs(letter, value)
    # Where the slope is 0, every value of the letter would be a solution. Allowed only where `value` is undefined
    if not _proportional(slope, sympy.fraction(sympy.together(value))[1]):
        return False
    triples = _values([difference.subs(letter, value + shift) for shift in range(3)])
    return len(triples) >= 2 and all(
        one != 0 and abs(zero) < abs(one) * 10**-SHARED and _close(2 * one, two) for zero, one, two in triples
    )


def _close(one: Any, other: Any, shared: int = SHARED) -> bool:
    import sympy

    larger, smaller = max(abs(one), abs(other)), min(abs(one), abs(other))
    return bool(abs(one - other) <= larger * sympy.Float(10) ** -shared) or bool(
        smaller == 0 and larger < sympy.Float(10) ** (-2 * shared)
    )


def _values(expressions: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The values of expressions at points where all of them have one."""
    expressions = [_exact(expression) for expression in expressions]
    return _pairs(expressions, sorted(set().union(*(one.free_symbols for one in expressions)), key=str))


def _pairs(expressions: Sequence[Any], letters: Sequence[Any], digits: int = DIGITS) -> list[tuple[Any, ...]]:
    """Values of expressions at points where all of them have one, real unless they contain `i`."""
    import sympy

    imaginary = {letter: sympy.I for letter in letters if letter.name == "i"}
    variables = [letter for letter in letters if letter not in imaginary]
    is_complex = bool(imaginary) or any(expression.has(sympy.I) for expression in expressions)
    found: list[tuple[Any, ...]] = []
    for points in (_points(len(variables)), _whole_points(len(variables))):
        for point in points if variables else [()]:
            place = {**dict(zip(variables, point, strict=True)), **imaginary}
            values = []
            for expression in expressions:
                value = _value(expression, place, digits)
                if value is None or not (is_complex or not letters or value.is_real):
                    break
                values.append(value)
            else:
                found.append(tuple(values))
                if len(found) > 1 and not _close(found[-1][0], found[-1][1]) and len(expressions) == 2:
                    return found  # the two differ, and two points show whether they are proportional
        if len(found) >= 2 or not variables:
            break
    return found


def _value(expression: Any, place: dict[Any, Any], digits: int = DIGITS) -> Any:
    import sympy

    try:
        value = expression.evalf(digits, subs=place or None, maxn=MAX_DIGITS + digits)
    except Exception:  # all kinds of exceptions
        return None
    if not value.is_number or value.has(sympy.nan, sympy.zoo, sympy.oo) or value.atoms(sympy.Function, sympy.Symbol):
        return None
    return value


def _points(size: int) -> list[list[Any]]:
    """Points, some positive for roots and logarithms, some small and some large so that floor and ceiling differ."""
    import sympy

    draw = random.Random(_SEED)
    ranges = [(0.2, 0.9), (1.1, 3), (4, 60), (-0.9, 0.9), (-3, 3), (-60, 60)]
    return [[sympy.Float(repr(draw.uniform(*bounds)), DIGITS) for _ in range(size)] for bounds in ranges]


def _whole_points(size: int) -> list[list[Any]]:
    """Points for expressions with values only at whole numbers, such as a power of -1."""
    import sympy

    draw = random.Random(_SEED)
    return [[sympy.Integer(draw.randrange(1, bound)) for _ in range(size)] for bound in (4, 8, 12, 30, 30)]


def _exact(expression: Any) -> Any:
    """Make decimals fractions and `dy/dx` a letter, and evaluate sums, products, integrals and the like."""
    import sympy

    floats = {number: sympy.Rational(sympy.sstr(number, full_prec=True)) for number in expression.atoms(sympy.Float)}
    rates = {
        rate: sympy.Symbol(str(rate), real=True)
        for rate in expression.atoms(sympy.Derivative)
        if not rate.expr.free_symbols & set(rate.variables)  # SymPy would evaluate it to 0
    }
    expression = expression.xreplace({**floats, **rates}) if floats or rates else expression
    if expression.has(sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit, sympy.Derivative):
        expression = expression.doit()
    return expression


def _digits_for(expressions: Sequence[Any]) -> int:
    """Number of digits that tells constants apart: (2^100-1)/2^100 and 1 differ in the 31st."""
    import sympy

    bits = [0]
    for expression in expressions:
        for fraction in expression.atoms(sympy.Rational):
            bits += [int(fraction.p).bit_length(), int(fraction.q).bit_length()]
    return DIGITS + min(MAX_DIGITS, max(bits) * 2 // 3)
