"""An answer as items, sides and pieces."""

import pytest

from opefo_trl.grading.latex import Words
from opefo_trl.grading.reading import bracket, cells, elements, read


def shown(text):
    """Items as texts: pieces between spaces, words in quotes, relations where they stand."""
    items = read(text)
    if items is None:
        return None
    sides = [
        [" ".join(f"'{p.text.strip()}'" if isinstance(p, Words) else p.latex for p in side) for side in item.sides]
        for item in items
    ]
    relations = [(*item.relations, "") for item in items]
    return ["".join(map("".join, zip(*pair, strict=True))) for pair in zip(sides, relations, strict=True)]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("1, 2; 3", ["1", "2", "3"]),
        (r"1 \text{ and } 2", ["1", "2"]),
        ("1 or 2", ["1", "2"]),
        (r"8 \text{ cats and } 3 \text{ dogs}", ["8 'cats'", "3 'dogs'"]),
        ("4,", ["4"]),
        ("1,234,567", ["1234567"]),
        ("1, 234", ["1", "234"]),
        ("(1,234)", ["(1,234)"]),
        ("x = 5", ["x=5"]),
        ("= 5", ["5"]),
        (r"1 < x \le 2", [r"1<x\le2"]),
        (r"2 \text{ h } 10 \text{ min}", ["2 'h' 10 'min'"]),
        (r"9.8 \mathrm{~m} / \mathrm{s}^2", ["9.8 'm / s^2'"]),
        (r"3 \mathrm{ft} \times 4 \mathrm{ft}", [r"3 'ft' \times 4 'ft'"]),
        (r"\pm 2", ["+2", "-2"]),
        (r"(1 \pm i, \mp 3)", ["(1+i,-3)", "(1-i,+3)"]),
        ("2(5)", [r"2\cdot (5)"]),
        ("(2)(5)", [r"(2)\cdot (5)"]),
        (r"2\frac{1}{3}", [r"2\frac {1}{3}"]),
        (r"4\binom{5}{2}", [r"4\cdot \binom {5}{2}"]),
        (r"\frac{4}{2}\frac{1}{3}", [r"\frac {4}{2}\cdot \frac {1}{3}"]),
        ("((x))", ["x"]),
        (r"\{t \mid t > 1\}", ["t>1"]),
        (r"\{2k \mid k > 1\}", [r"\{2k|k>1\}"]),
        ("All odd integers for d", ["'All odd integers for d'"]),
        ("R=0, true only when x=2", ["R=0", "'true only when x'=2"]),
        ("2 3", None),
        (r"30^\circ 15'", None),
        ("(1", None),
    ],
)
def test_items(text, items):
    assert shown(text) == items


def test_brackets_and_tables():
    (item,) = read(r"\begin{pmatrix} 1 & x \\ 2 & \frac12 \end{pmatrix}")
    group = bracket(item.sides[0][0])
    assert group.open == "pmatrix"
    assert [[cell[0].sides[0][0].latex for cell in row] for row in cells(group)] == [
        ["1", "x"],
        ["2", r"\frac {1}{2}"],
    ]
    assert [element.sides[0][0].latex for element in elements(group)] == ["1", "x", "2", r"\frac {1}{2}"]
    (item,) = read("1 + (2, 3)")
    assert bracket(item.sides[0][0]) is None


def test_deep_nesting_is_no_answer():
    assert shown("(" * 100 + "1" + ")" * 100) == ["1"]
    assert read("(" * 499 + "1" + ")" * 499) is None
