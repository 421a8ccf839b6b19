"""Numbers that are written out, compared exactly."""

from fractions import Fraction

import pytest

from opefo_trl.grading.numbers import number, rounds_to, same_numbers


@pytest.mark.parametrize(
    ("latex", "value"),
    [
        ("12", 12),
        ("-12", -12),
        ("--12", 12),
        ("0.0000034", Fraction(34, 10**7)),
        (r"\frac {-3}{4}", Fraction(-3, 4)),
        ("3/4", Fraction(3, 4)),
        (r"2\frac {3}{4}", Fraction(11, 4)),
        (r"-2\frac {3}{4}", Fraction(-11, 4)),
        ("4.5e33", Fraction(45) * 10**32),
        ("4.5E-3", Fraction(45, 10**4)),
        (r"4.5\times 10^{33}", Fraction(45) * 10**32),
        (r"4.5\cdot 10^{-3}", Fraction(45, 10**4)),
        ("1e99999", None),
        ("3/0", None),
        (r"\frac {3}{0}", None),
        ("x", None),
        ("2+3", None),
    ],
)
def test_numbers(latex, value):
    read = number(latex)
    assert (None if read is None else read.value) == value


@pytest.mark.parametrize(
    ("gold", "answer", "tolerance", "same"),
    [
        ("0.0000034", "0.0000035", 0, False),
        ("0.333333", "1/3", 0, True),
        ("1/3", "0.33333", 0, False),  # five digits are a doubt
        ("2/3", "0.666666", 0, True),  # cut off
        ("2/3", "0.666665", 0, False),
        ("1.234567", "1.234568", 0, False),  # two decimals of one length
        ("1.234567", "1.2345671", 0, True),
        ("1234567", "1234567.4", 0, False),  # a whole number is exact
        ("3/56", "0.0535714285714164", 0, True),  # a float
        ("3/56", "0.0535714385714164", 0, False),
        ("5", "5.04", 0.01, True),
        ("5", "5.06", 0.01, False),
        ("-5", "5", 0.01, False),
        ("0", "0.001", 0.01, False),
    ],
)
def test_same_numbers(gold, answer, tolerance, same):
    assert same_numbers(number(gold), number(answer), tolerance) is same


def test_rounding():
    assert rounds_to(number("2/3"), number("0.67")) and rounds_to(number("2/3"), number("0.66"))
    assert not rounds_to(number("2/3"), number("0.68"))
    assert rounds_to(number("7/2"), number("4")) and not rounds_to(number("7/2"), number("5"))
