"""Every published spelling of an answer, and the answer in a completion, hostile ones included."""

import time
import warnings

import numpy as np
import pytest

from opefo_trl.grading.answers import MAX_ANSWER_LENGTH, boxed, boxed_answer, completion_answer, gold_answer


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("34", "34"),  # DAPO-Math
        (" $34$\n", "34"),
        (r"\boxed{34}", "34"),
        (r"Half of \boxed{1} is \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),  # MATH: a worked solution
        (r"It is $\fbox{\text{even}}$", r"\text{even}"),
        (r"So $\boxed 2$.", "2"),
        (r"\boxed{\left\{ 1, 2 \right\}}", r"\left\{ 1, 2 \right\}"),
        ("48 / 2 = 24\n#### 1,234", "1,234"),  # GSM8K
        (27.0, "27"),  # AMC
        (27, "27"),
        (-0.5, "-0.5"),
        (1e-05, "0.00001"),
        (1e22, "1" + 22 * "0"),
        (2**100, "1267650600228229401496703205376"),  # 31 digits
        (10**400, "1" + 400 * "0"),
        (f"[{10**400}]", "1" + 400 * "0"),
        (np.float64(27.0), "27"),
        (["27"], "27"),
        (["$a$", "$b$"], "a, b"),  # OlympiadBench
        ("['9.6\\n']", "9.6"),  # Minerva Math
        ("['a', 'b']", "a, b"),
        ("[27]", "27"),
        ("[0, 1]", "[0, 1]"),
        ("[0, 1)", "[0, 1)"),
        (r"5\$", r"5\$"),
        ("", None),
        ("  ", None),
        (r"\boxed{}", None),
        (r"\boxed{34", None),
        (None, None),
        (True, "True"),
        (False, "False"),
        (r"so $x=\boxed{3}$ or $x=\boxed{-3}$", "3, -3"),
        (r"\(34\)", "34"),
        (r"\[34\]", "34"),
        (float("nan"), None),
        ([], None),
        (["1", None], None),
        ({"answer": 1}, None),
        ("[{[1]}]", "[{[1]}]"),  # a list for Python, but of a set that cannot be
        ("#$###5", "5"),
        (r"\{1\}", r"\{1\}"),
        ("a}b", None),  # a box would end too early,
        ("{a", None),  # or never
        ("5\\", None),
        (["1", "2}"], None),
        ("[" * 10_000 + "]", "[" * 10_000 + "]"),
    ],
)
def test_gold_spellings(value, answer):
    assert gold_answer(value) == answer
    assert boxed(value) == (None if answer is None else rf"\boxed{{{answer}}}")
    assert answer is None or gold_answer(boxed(value)) == answer, "reading is idempotent"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1}, no: \boxed{2}.", "2"),
        (r"\boxed{x^{2}_{1}} }}}", "x^{2}_{1}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed {4}", "4"),
        (r"\boxed{$5$}", "5"),
        (r"\boxed{1} and then \boxed{2", None),  # cut: what it wanted to say last is unknown
        (r"It is \boxed{7}, as asked in \boxed{}.", "7"),
        (r"\boxed{7}\boxed{ }", "7"),
        (r"$\boxed{2}$ and $\boxed{3}$", "2, 3"),
        (r"$x_1=\boxed{2}$, or $x_{2} = \boxed{3}$", "2, 3"),
        (r"\[\boxed{2} \quad \text{and} \quad \boxed{3}\]", "2, 3"),
        (r"\boxed{2}; \boxed{3}; \boxed{5}", "2, 3, 5"),
        (r"\boxed{2} \boxed{2}", "2"),
        (r"\boxed{2} plus \boxed{3}", "3"),
        (r"\boxed{2}. So \boxed{3}", "3"),
        (r"Answer: 7, that is \boxed{8}", "8"),
        ("First 3.\nAnswer: 6\n**Answer:** $7$ \n", "7"),
        ("ANSWER : 7", "7"),
        ("Answer: **7**\r\n", "7"),
        ("The answer is 7.", None),
        ("Answer: 7\n**Answer:**", "7"),  # the head of a paragraph, which gives no answer
        ("**Answer:**\n\n7", "7"),
        ("Answer:\n\\[\n7\n\\]", "7"),
        ("Answer:\n7\n8", None),
        ("Final Answer: 7", "7"),
        ("The final answer: 7", "7"),
        ("### Answer: 7", "7"),
        ("- Answer: 7", "7"),
        ("**Final Answer:** **7**", "7"),
        (r"Answer: \(7\)", "7"),
        ("My answer: 7", None),
        ("Final Answer: The final answer is $7$. I hope it is correct.", "7"),
        (r"\boxed{7}. As asked, it is in \boxed{...}.", "7"),
        (r"\boxed{7}. As asked, it is in \boxed{\text{}}.", "7"),
        ("Answer: 7}, or 8", None),  # in a box it would be 7
        ("Answer: 7{", None),
        ("The answer: 7" + "!" * (MAX_ANSWER_LENGTH - len("answer: 7")), None),  # the last characters begin mid-line
        ("Answer: 7\n" + "!" * (MAX_ANSWER_LENGTH - len("Answer: 7\n")), "7"),
        ("Answer: 7\n" + "!" * (MAX_ANSWER_LENGTH - len("nswer: 7\n")), None),  # too far from the end
        ("Answer:", None),
        ("", None),
        (r"\boxed{" + "1" * MAX_ANSWER_LENGTH + "}", "1" * MAX_ANSWER_LENGTH),
        (r"\boxed{" + "1" * (MAX_ANSWER_LENGTH + 1) + "}", None),
    ],
)
def test_answer_of_a_completion(text, answer):
    assert completion_answer(text) == answer


def test_escapes_that_python_does_not_know_are_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gold_answer(r"['2\cdot x']") == r"2\cdot x"


def test_box_that_is_left_open():
    assert boxed_answer(r"\boxed{a{b}") is None
    assert boxed_answer(r"\boxed") is None


@pytest.mark.parametrize(
    "text",
    [
        "{" * 100_000,
        r"\boxed{" * 15_000,
        r"\boxed{" + "{" * 100_000 + "1" + "}" * 100_001,
        r"\boxed" * 20_000,
        r"\boxed{" * 15_000 + r"\boxed{}",
        r"\boxed{}" * 15_000,
        r"\boxed" + " " * 100_000,
        r"\boxed{" + "\\" * 100_000,
        "answer:" * 15_000,
        "answer:" + " " * 100_000,
        "\nanswer: " + "* " * 50_000,
    ],
)
def test_long_texts_are_read_in_linear_time(text):
    began = time.process_time()
    assert completion_answer(text) is None
    assert time.process_time() - began < 1.0
