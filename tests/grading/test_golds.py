"""Golds that hardly any answer can equal, counted and shown."""

from opefo_trl.grading.golds import describe_text_golds


def test_golds_that_can_be_read():
    assert describe_text_golds(["34", "x", "5 cm"]) == "`math_reward` can parse all 3 gold answers."


def test_golds_that_are_text_alone():
    prose = "It is the sum of all of them."
    long = "So it is " + 20 * "very " + "long."
    sentence = describe_text_golds(["34", prose, prose, "2 3", long, r"\frac{"])
    assert sentence == (
        "`math_reward` cannot parse 5 of 6 gold answers, so only the same text earns 1 ('It is the sum of all of "
        f"them.'; '2 3'; '{long[:60]}…'): write them as LaTeX formulas, or leave these rows out."
    )
