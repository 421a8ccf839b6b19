"""Golds that hardly any answer can equal, counted and shown."""

from opefo_trl.grading.golds import describe_text_golds


def test_golds_that_can_be_read():
    assert describe_text_golds(["34", "x", "5 cm"]) == "All 3 gold answers can be read."


def test_golds_that_are_text_alone():
    prose = "It is the sum of all of them."
    long = "So it is " + 20 * "very " + "long."
    sentence = describe_text_golds(["34", prose, prose, "2 3", long, r"\frac{"])
    assert sentence == (
        "5 of 6 gold answers are read as text alone, so that only the same spelling earns 1 ('It is the sum of all of "
        f"them.'; '2 3'; '{long[:60]}…'): write them as LaTeX formulas, or leave these rows out."
    )
