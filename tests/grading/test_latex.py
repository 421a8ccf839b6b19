"""Many spellings of LaTeX become one, and a tree whose shorthand is written out."""

import pytest

from opefo_trl.grading.latex import Group, Unreadable, Words, latex, parse, spell


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2×3", r"2\times 3"),
        ("7−2", "7-2"),
        ("5√7", r"5\sqrt{7}"),
        ("√2.5", r"\sqrt{2.5}"),
        ("¾", r"\frac{3}{4}"),
        ("x²", "x^{2}"),
        ("a₁", "a_{1}"),
        ("60°", r"60^{\circ}"),
        ("60 degrees", r"60^\circ"),
        ("θ", r"\theta"),
        ("[1, ∞)", r"[1, \infty)"),
        ("ＡＢ", "AB"),
        (r"\left( 1 \right)", "( 1 )"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\tfrac12", r"\frac12"),
        (r"x\geqslant 1", r"x\ge 1"),
        ("x >= 1", r"x \ge  1"),
        ("x != 1", r"x \ne  1"),
        (r"1{,}234", "1234"),
        (r"1,\!234", "1234"),
        (r"1\,234", "1234"),
        ("1 234 567", "1234567"),
        ("3.", "3"),
        (".5", "0.5"),
        ("7./8", "7/8"),
        ("2 3/4", r"2\frac{3}{4}"),
        (r"\$20", r"20\text{ dollars}"),
        ("€20", r"20\text{ dollars}"),
        ("25 percent", r"25\%"),
        (r"11^{\text{th}}", "11"),
        ("2**3", "2^3"),
        ("∛5", r"\sqrt[3]{5}"),
        ("x⁻²", "x^{-2}"),
        ("a₁₂", "a_{12}"),
        ("1'000", "1000"),
        ("3 x 10^8", r"3 \times 10^8"),
        ("45^o", r"45^\circ"),
        ("20 ℃", r"20^\circ\text{C}"),
        ("20^\\circ C", r"20^\circ\text{C}"),
        ("x^{1 \\over 2}", r"x^{\frac{1}{2}}"),
        (r"x^\frac12", r"x^{\frac{1}{2}}"),
        (r"0.1\overline{6}", r"\frac{15}{90}"),
        (r"\pounds 5", r"5\text{ dollars}"),
        ("(-oo, 1)", r"(-\infty, 1)"),
        ('"5"', "5"),
        ("sqrt(2)", r"\sqrt(2)"),
        ("2*pi", r"2*\pi"),
        (r"a\\frac{1}{2}", r"a\frac{1}{2}"),
        ("\text{no}", r"\text{no}"),  # a tab and `ext{no}`: Python without r""
        ("\frac{1}{2}", r"\frac{1}{2}"),
        (r"f^{\prime\prime}", "f''"),
        (r"{\rm cm}", r"\text{cm}"),
    ],
)
def test_spellings_of_one_text(text, same):
    assert latex(parse(spell(text))) == latex(parse(spell(same)))


@pytest.mark.parametrize(
    ("text", "written_out"),
    [
        (r"\frac12", r"\frac {1}{2}"),
        (r"\frac123", r"\frac {1}{2}3"),
        (r"\frac1{23}", r"\frac {1}{23}"),
        (r"\frac{1}x", r"\frac {1}{x}"),
        (r"\frac\pi 6", r"\frac {\pi }{6}"),
        (r"\sqrt7", r"\sqrt {7}"),
        (r"\sqrt77", r"\sqrt {7}7"),  # as LaTeX prints it
        (r"\sqrt[3]x", r"\sqrt [3]{x}"),
        (r"\sqrt(x+1)", r"\sqrt {x+1}"),
        ("x^2", "x^{2}"),
        ("x^-2", "x^{-2}"),
        ("2^(n+1)", "2^{n+1}"),
        ("{x}", "x"),
        ("{x+1}y", "(x+1)y"),
        ("{1,2}", r"\{1,2\}"),
        (r"\binom nk", r"\binom {n}{k}"),
        (r"\begin{array}{cc}1&2\end{array}", r"\begin{array}1&2\end{array}"),
        (r"\mathbf{v}", "v"),
        (r"\mathrm{e}^2", "e^{2}"),
        (r"\operatorname{arcsin} x", r"\arcsin x"),
        (r"\text{17}", "17"),
    ],
)
def test_shorthand_is_written_out(text, written_out):
    assert latex(parse(spell(text))) == written_out


def test_tree():
    assert parse(spell(r"[0, \frac12)")) == (
        Group("[", ("0", ",", " ", r"\frac", Group("{", ("1",), "}"), Group("{", ("2",), "}")), ")"),
    )
    assert parse(spell(r"4 \text{cm}")) == ("4", " ", Words("cm"))
    assert parse(spell(r"4 \text{min}")) == ("4", " ", Words("min"))
    assert parse(spell(r"\text{min}(1, 2)"))[0] == r"\min"
    assert parse(spell(r"4 \mathrm{m}")) == ("4", " ", Words("m")), "an upright letter behind a number is a unit"
    assert parse(spell(r"4\mathrm{i}")) == ("4", "i"), "but for the numbers e and i"
    assert parse(spell(r"\text{A}")) == ("A",)
    assert parse(spell(r"\text{6 feet}")) == ("6", " ", Words("feet"))


@pytest.mark.parametrize(
    "text", ["(1", "1)", "(1}", r"\{1", r"\frac{1}", r"\sqrt", "x^", r"\begin{cases} 1", r"\end{cases}", r"\text{a"]
)
def test_unreadable(text):
    with pytest.raises(Unreadable):
        parse(spell(text))
