"""Answers against golds: what is equal, what is not, and what a doubt is."""

import pytest

from opefo_trl.grading.equality import equal, is_text_alone
from opefo_trl.grading.policy import Policy


EQUAL = [
    ("27", "27.0"),
    ("3, 5", r"\{5, 3\}"),
    ("(3, 5)", "3, 5"),
    ("x = 5", "5"),
    ("5", "x = 5"),
    ("5", "2 + 3 = 5"),
    ("7", "f(3) = 7"),
    (r"v_{\text{max}} = \sqrt{3}", r"\sqrt{3}"),
    ("-3, -3", "a = -3, b = -3"),
    ("x = 1, y = 2", "y = 2, x = 1"),
    ("x = 1, y = 2", "1, 2"),
    ("y = 2x + 1", "2x - y + 1 = 0"),
    ("x^2 + y^2 = 4", "x^2 = 4 - y^2"),
    ("a > b > c", "c < b < a"),
    ("2x > 4", "2 < x"),
    ("2x > 4", r"(2, \infty)"),
    ("1 < x < 4", "(1, 4)"),
    ("(1, 4)", "1 < x < 4"),
    (r"x \in [1, 4]", r"1 \le x \le 4"),
    (r"\{t \mid t > 2\}", r"(2, \infty)"),
    (r"\{t \mid t > 2\}", r"\{s | s > 2\}"),
    ("f(n) = n + 2", "f(k) = k + 2"),
    (r"\frac{1}{3}", r"x = \frac{1}{3} \approx 0.33"),
    ("0.33", r"\frac{1}{3} \approx 0.33"),
    (r"7 \text{ cm}", "7"),
    ("7", r"7 \text{ cm}"),
    (r"7 \text{ cm}", "7 centimeters"),
    (r"7 \text{ hours } 10 \text{ minutes}", "7 hours and 10 minutes"),
    ("9", r"\text{about } 9"),
    ("B", r"\textbf{(B)}\ 12"),
    ("(B) 12", "B"),
    ("even", r"\text{Even}"),
    (r"4.4 \times 10^7, 4.4e7", r"4.4 \cdot 10^{7}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}"),
    (r"\begin{cases} x = 1 \\ y = 2 \end{cases}", "x = 1, y = 2"),
    (r"(3, \frac{\pi}{2})", r"(3, 90^\circ)"),
    (r"[0,1] \cup [2,3]", r"[2,3] \cup [0,1]"),
    (r"3\mathbf{i} - \mathbf{j}", "3i - j"),
    ("True", r"\text{True}"),
    ("1, 2", r"x \in \{2, 1\}"),
    (r"x \in \{2, 1\}", "1, 2"),
    (r"20^\circ\text{C}", "20"),
    (r"\frac{1}{6}", r"0.1\overline{6}"),
    ("B", r"\text{Option B}"),
    (r"\{n \mid n \ge 3\}", r"n \ge 3"),
    (r"(x, y) = (5, 6)", "x = 5, y = 6"),
    ("x = 1, x = 2", r"x \in \{2, 1\}"),
    ("x_1 = 1, x_2 = 2", "2, 1"),
    ("5", "5 = x"),
    ("5", "m + n = 5"),
    (r"\lim_{x \to 0} \frac{\sin x}{x}", "1"),
    (r"\$18", "18"),
    ("1 (dollar)", "1"),
    (r"2 \text{ or } -2", r"\pm 2"),
]
DIFFERENT = [
    ("f(3) = 7", "f(3) = 8"),
    (r"e = \frac{\sqrt{2}}{2}", r"e = \frac{1}{2}"),
    ("5", "2 + 2 = 5"),
    ("5", "3 = 5"),
    ("12 + 8 = 20", "12 + 8 = 21"),
    (r"\log_2 8 = 3", r"\log_4 8 = 3"),
    ("z = 1 + 1 = 2", "z = 3 + 3 = 2"),
    ("x^2 + y^2 = 1", "1"),
    ("x = 2", "y = 2"),
    ("x = 1, y = 2", "x = 2, y = 1"),
    ("x = 1, y = 2", "2, 1"),
    (r"7 \text{ cm}", r"7 \text{ m}"),
    (r"7 \text{ hours } 10 \text{ minutes}", r"7 \text{ hours } 20 \text{ minutes}"),
    ("7", r"7 \text{ cats and } 3 \text{ dogs}"),
    ("7", r"7 \text{ or more}"),
    (r"x \text{ is even}", r"x \text{ is odd}"),
    (r"f(x) = x \text{ for all } x \in \mathbb{R}", r"f(x) = x \text{ for some } x \in \mathbb{R}"),
    (r"\begin{cases} 1 & \text{if } n = 1 \\ 2n & \text{if } n > 1 \end{cases}",
     r"\begin{cases} 1 & \text{if } n = 1 \\ 3n & \text{if } n > 1 \end{cases}"),
    ("16, 1, 1", "16, 1"),
    ("1, 1, 2", "1, 2, 2"),
    ("1", "1, 2"),
    ("(3, 5)", "(5, 3)"),
    ("(3, 5)", "[3, 5]"),
    ("3, 5", r"3, 5, \ldots"),
    (r"\{2k \mid k > 1\}", r"\{3k \mid k > 1\}"),
    (r"\{t \mid t > 2\}", r"\{t \mid t > 3\}"),
    ("f(n) = n + 2", "g(n) = n + 2"),
    ("no", "on"),
    ("A", "a"),
    ("B", "A and B"),
    ("(B) 12", "(B) 13"),
    ("4t", "4"),
    ("x^2 + 2ax", "x^2 + 2"),
    ("p > m", "p >"),
    ("2x > 4", "x < 2"),
    ("2x > 4", r"x \ge 2"),
    (r"x \in [1, 4]", r"w \in [1, 4]"),
    ("5", r"7 \approx 5"),
    (r"\arcsin 2 \approx 0.67", r"\arcsin 3 \approx 0.67"),
    (r"4:30 \text{ p.m.}", r"4:30 \text{ a.m.}"),
    ("12.5", "12,5"),
    (r"\frac{1}{23}", r"\frac{12}{3}"),
    ("23", "2 3"),
    (r"0.\overline{3}", r"0.\overline{4}"),
    (r"x \in \{2, 1\}", "1, 3"),
    (r"5\%", "5 cm"),
    ("5", "2x = 5"),
    ("7 = 11a + c", "11a + c"),
    ("5", "x + 1 = 5"),
    ("3", r"x \in 3"),
    ("A", "(A) or (B)"),
    ("(A), (C)", "A"),
    ("D: 4", "D"),
    ("4068289", "4.06828e6"),
    ("1/3", "0.333334"),
    ("5", "9/2 = 5"),
    ("5", r"5 \text{ thousand}"),
    ("2", r"2 \text{ thirds}"),
    ("5", r"5 \text{ maybe}"),
    (r"\$5", r"5 \text{ cents}"),
    ("HTH", "HHT"),
    ("A^{-1}B", "BA^{-1}"),
    (r"\vec a \times \vec b", r"\vec b \times \vec a"),
    ("A^T", "A"),
    (r"\angle ABC = 30^\circ", r"\angle BAC = 30^\circ"),
    ("(1, 2)", r"\{1, 2\}"),
    (r"\{\emptyset\}", r"\emptyset"),
    (r"\{3,100\}", "3100"),
    ("(5, 6)", "y = 5, x = 6"),
    (r"x < 1 \text{ or } x > 3", r"x < 1 \text{ and } x > 3"),
    (r"p \land q", r"p \lor q"),
    ("x(y - x) = 0", "y = x"),
    ("(n!)!", "n!!"),
    ("5r2", "10r"),
    ("0.5", r"0.5\%"),
    (r"3^2 \text{ or } 9", r"3^2 \text{ zzz}"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal(gold, answer):
    assert equal(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold, answer):
    assert not equal(gold, answer)


@pytest.mark.parametrize("text", [*{text for pair in (*EQUAL, *DIFFERENT) for text in pair}])
def test_every_text_equals_itself(text):
    assert equal(text, text)


def test_policy():
    assert equal("5", "5.04", Policy(tolerance=0.01)) and not equal("5", "5.04")
    assert equal(r"(1, \pi)", "(1, 3.14)", Policy(tolerance=0.01))
    required = Policy(units="required")
    assert not equal(r"7 \text{ cm}", "7", required) and not equal("7", r"7 \text{ cm}", required)
    assert equal(r"7 \text{ cm}", "7 cm", required)
    any_gold = Policy(several_golds="any")
    assert equal("3, 5", "5", any_gold) and equal("3, 5", "5, 3", any_gold) and not equal("3, 5", "4", any_gold)
    assert not equal("3, 5", "5")


@pytest.mark.parametrize(
    ("gold", "is_text"),
    [
        ("34", False),
        (r"5 \text{ cm}", False),
        ("Evelyn", False),
        (r"(1, \frac{x}{2})", False),
        ("4210_7", False),
        (r"\begin{cases} 1 & x > 0 \\ 2 & x < 0 \end{cases}", False),
        ("the sum of all of them is odd", True),
        (r"\frac{1}{", True),
        ("2 3", True),
        (r"x \leftrightarrow y", True),
    ],
)
def test_text_alone(gold, is_text):
    assert is_text_alone(gold) is is_text
