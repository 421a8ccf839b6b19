"""Per cent, degrees, bases, ratios and constants of integration."""

import pytest

from opefo_trl.grading.latex import latex, parse, spell
from opefo_trl.grading.notations import is_based, is_marked, same_in_notation
from opefo_trl.grading.policy import Policy
from opefo_trl.grading.words import with_words


def spelled(text):
    return latex(with_words(parse(spell(text))))


def same(gold, answer, **policy):
    return same_in_notation(spelled(gold), spelled(answer), Policy(**policy))


@pytest.mark.parametrize(
    ("gold", "answer", "is_same"),
    [
        (r"60\%", r"\frac35", True),
        (r"60\%", "60", True),
        ("60", "60%", True),
        (r"60\%", "6", False),
        (r"60^\circ", r"\frac{\pi}{3}", True),
        (r"60^\circ", "60", True),
        (r"60^\circ", r"60\%", False),
        (r"\cos 60^\circ", r"\frac12", True),
        ("302_4", "302_{4}", True),
        ("302_4", r"302_{\text{four}}", True),
        ("302_4", "302_5", False),
        ("302_4", "302", True),
        ("302", "302_4", False),
        ("50", "302_4", False),  # 3 * 16 + 2: the question again, not its answer
        ("302_{10}", "302", True),
        ("302", "302_{10}", True),
        ("302_4", "3024", False),
        ("302_{-4}", "302_{4}", False),
        ("6:4", "3:2", True),
        ("3:2", r"\frac{3}{2}", True),
        ("1:2:3", "2:4:6", True),
        ("1:2:3", "1:6", False),
        ("3:20", "6:40", False),  # times
        ("x+C", "x+c", True),
        ("x+C", "x+k", False),
        ("C", "c", False),
        ("C+2c", "c+2C", False),
    ],
)
def test_notations(gold, answer, is_same):
    assert same(gold, answer) is is_same


def test_required_units():
    assert same(r"60\%", r"60\%", units="required") and same(r"60\%", r"\frac35", units="required")
    assert not same(r"60\%", "60", units="required")


def test_what_has_a_notation():
    assert is_marked(r"60\degree ") and not is_marked("60")
    assert is_based("302_{4}") and not is_based("x_{4}")
