"""Counts gold answers that almost no answer can match, before anything is drawn."""

from collections.abc import Sequence

from .grader import shared_grader


NUM_SHOWN = 3
SHOWN_LENGTH = 60


def describe_text_golds(golds: Sequence[str]) -> str:
    """
    Say how many golds cannot be parsed, so that only an answer with the same text equals them.

    Args:
        golds (`Sequence[str]`):
            As [`~answers.gold_answer`] returns them.

    Returns:
        `str`: a sentence with three of them and what to do, or that all can be parsed.
    """
    different = list(dict.fromkeys(golds))
    are_text = dict(zip(different, shared_grader().text_alone(different), strict=True))
    count = sum(are_text[gold] for gold in golds)
    if count == 0:
        return f"`math_reward` can parse all {len(golds)} gold answers."
    shown = [gold if len(gold) <= SHOWN_LENGTH else f"{gold[:SHOWN_LENGTH]}…" for gold in different if are_text[gold]]
    return (
        f"`math_reward` cannot parse {count} of {len(golds)} gold answers, so only the same text earns 1 "
        f"({'; '.join(map(repr, shown[:NUM_SHOWN]))}): write them as LaTeX formulas, or leave these rows out."
    )
