"""Formulas compared by their values at points, exactly where they are constants."""

import pytest

from opefo_trl.grading.formulas import (
    read_formula,
    rounds_to,
    same_by_math_verify,
    same_equations,
    same_formulas,
    same_inequalities,
)
from opefo_trl.grading.latex import latex, parse, spell
from opefo_trl.grading.words import with_words


def spelled(text):
    return latex(with_words(parse(spell(text))))


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("x^2+2x+1", "(x+1)^2", True),
        ("x^2+2x+1", "(x+1)^3", False),
        ("2ab", "2ba", True),
        ("R-r", "r-R", False),
        (r"\frac{R}{r}", "1", False),
        (r"|x|", "x", False),
        (r"\sqrt{x^2}", "|x|", True),
        (r"\ln x^2", r"2\ln x", True),
        (r"(-1)^{n}", r"\cos(\pi n)", True),
        (r"(-1)^{n}", r"(-1)^{n+1}", False),
        ("n!", "n(n-1)!", True),
        (r"\lfloor \frac{n}{2} \rfloor", r"\lfloor \sqrt{n} \rfloor", False),
        (r"\sqrt{19}", "4.35890", True),
        (r"\sqrt{19}", "4.3589", False),
        (r"\frac{2^{90}-1}{2^{90}}", r"\frac{3^{90}-1}{3^{90}}", False),
        (r"\sqrt{\frac{2^{900}-1}{2^{900}+1}}", r"\sqrt{\frac{2^{900}-1}{2^{900}-3}}", False),
        (r"\left(\frac14\right)^{80}", r"\left(\frac15\right)^{80}", False),
        (r"2^{70}(\sqrt{1+2^{-140}}-1)", r"\sqrt{2^{140}+1}-2^{70}", True),
        (r"\frac{1}{1500!}", r"\frac{1}{1501!}", False),
        (r"e^{i\pi}", "-1", True),
        (r"(1+i)^2", "2i", True),
        (r"(1+i)^2", "-2i", False),
        (r"\gamma", r"\Gamma", False),
        ("E", "e", False),
        ("I", "i", False),
        ("A'", "A", False),
        (r"\infty", r"-\infty", False),
        ("12:0", "1:0", False),
        (r"\gcd(n+1, k)", r"\gcd(n+5, k)", False),
        (r"2\begin{pmatrix}1\\3\end{pmatrix}", r"\begin{pmatrix}2\\6\end{pmatrix}", True),
        (r"2\begin{pmatrix}1\\3\end{pmatrix}", r"\begin{pmatrix}2\\5\end{pmatrix}", False),
        (r"\mathbb{R}\setminus\{4\}", r"(-\infty,4)\cup(4,\infty)", True),
        (r"\mathbb{R}\setminus\{4\}", r"(-\infty,4)\cup(5,\infty)", False),
        (r"\sum_{k=1}^{4} k", "10", True),
        (r"\int_{0}^{1} 2x dx", "1", True),
        ("f(3)", "f(4)", False),
        ("12_5", "12_7", False),
        (r"\frac{", r"\frac{", False),
    ],
)
def test_same_formulas(gold, answer, same):
    try:
        texts = spelled(gold), spelled(answer)
    except ValueError:
        texts = gold, answer
    assert same_formulas(*texts) is same


def test_tolerance():
    assert same_formulas(r"\pi ", "3.14", tolerance=0.001)
    assert not same_formulas(r"\pi ", "3.14")


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        (("y", "2x+1"), ("2x-y+1", "0"), True),
        (("y", "2x+1"), ("2x-y-1", "0"), False),
        (("x^2+y^2", "4"), ("x^2", "4-y^2"), True),
        (("x^2", "4"), ("x", "2"), False),
        (("xy", "x+y"), (r"\frac{1}{x}+\frac{1}{y}", "1"), True),
        ((r"r\sin^2 t", r"3\cos t"), ("r", r"\frac{3\cos t}{\sin^2 t}"), True),
        ((r"r\sin^2 t", r"3\cos t"), ("r", r"\frac{3\sin t}{\cos^2 t}"), False),
        (("x", "2"), ("y", "2"), False),
        (("2+2", "4"), ("2+2", "5"), False),
        ((r"\frac{dT}{dt}", "k(T-a)"), (r"\frac{dT}{dt}", "kT-ka"), True),
        ((r"\frac{dT}{dt}", "k(T-a)"), (r"-\frac{dT}{dt}", "k(T-a)"), False),
    ],
)
def test_same_equations(gold, answer, same):
    assert same_equations(tuple(map(spelled, gold)), tuple(map(spelled, answer))) is same


def test_inequalities_and_sets_by_math_verify():
    assert same_by_math_verify("1<x<4", "(1,4)") and same_by_math_verify("(1,4)", "1<x<4")
    assert not same_by_math_verify("1<x<4", "(1,5)")
    assert not same_by_math_verify("p>m", "p>n")


def test_inequalities_up_to_a_positive_factor():
    assert same_inequalities(("2", "x"), ("4", "2x")) and same_inequalities(("x", "y"), ("-y", "-x"))
    assert not same_inequalities(("2", "x"), ("x", "2")) and not same_inequalities(("2", "x"), ("4", "x"))


def test_rounded_value():
    assert rounds_to(r"\sqrt {19}", "4.36") and not rounds_to(r"\sqrt {19}", "4.38")
    assert not rounds_to("x", "4.36") and not rounds_to(r"\sqrt {19}", "x")


def test_case_of_letters_is_kept():
    assert {str(letter) for letter in read_formula("M_{n}+m_{n}").free_symbols} == {"M_n", "m_n"}
