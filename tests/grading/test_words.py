"""Which letters are words, and when two words say the same."""

import pytest

from opefo_trl.grading.latex import Words, parse, spell
from opefo_trl.grading.words import canonical, choice, is_surely_unit, is_unit, plain, with_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("7 apples", ["apples"]),
        ("7 (apples)", ["apples"]),
        ("7cm", ["cm"]),
        ("7 xyz", []),
        ("abc", []),
        ("3ab", []),
        ("yes", ["yes"]),
        ("on", ["on"]),
        (r"\sinh(at)", []),  # no "at"
        ("x is even", ["is", "even"]),
        ("ABCD", []),
        ("5 个", ["个"]),
        (r"x_{\text{max}}", []),
    ],
)
def test_words_among_letters(text, words):
    assert [node.text for node in with_words(parse(spell(text))) if isinstance(node, Words)] == words


def test_index_is_a_name():
    assert with_words(parse(spell(r"v_{\text{max}}"))) == with_words(parse(spell(r"v_{\max }")))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Even", "even", True),
        ("centimeters", "cm", True),
        ("hours", "hr", True),
        ("in R", "in r", False),  # a letter alone is a variable
        ("p.m.", "PM", True),
        ("p.m.", "a.m.", False),
        ("apples", "pears", False),
        ("north, east", "north east", True),
        ("square cm", "cm^2", True),
        ("km/h", "kilometers per hour", True),
        ("mW", "MW", False),
    ],
)
def test_same_words(one, other, same):
    assert (canonical(Words(one)) == canonical(Words(other))) is same


def test_units_name_what_is_counted():
    assert all(is_unit(Words(words)) for words in ("cm", "square feet", "m/s^2", "red balls", "apple"))
    assert all(is_surely_unit(Words(words)) for words in ("cm", "square feet", "m/s^2", "red balls", "people"))
    assert not any(is_surely_unit(Words(words)) for words in ("thousand", "perhaps", "apple", "zzz", "thirds"))
    assert not any(is_unit(Words(w)) for w in ("or more", "is even", "p.m.", "if x is odd", "not", "a b c d e"))


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C", ("C", "")),
        ("(C)", ("C", "")),
        ("C. 12", ("C", "12")),
        ("C: 12", ("C", ": 12")),
        ("C. A cat", ("C", "A cat")),
        ("(C) or (D)", None),
        ("C) 5, D) 6", None),
        ("C, D", None),
        (r"\textbf{(C)}\ 12", ("C", "12")),
        (r"\text{(C) }12", ("C", "12")),
        ("C.5", None),
        ("C + 1", None),
        ("A and C", None),
        ("X", None),
        ("c", None),
    ],
)
def test_choices(text, letter):
    assert choice(text) == letter


def test_plain_text_keeps_what_means_something():
    assert plain(r"\text{ Ann } ") == plain("Ann.")
    assert plain(r"\frac{1}{23}") != plain(r"\frac{12}{3}")
    assert plain("1 2") != plain("12")
