"""Gold answers that almost no answer can match, counted before anything is drawn."""

from collections.abc import Sequence

from .grader import shared_grader


NUM_SHOWN = 3
SHOWN_LENGTH = 60


def describe_text_golds(golds: Sequence[str]) -> str:
    """
    Say how many golds are read as text alone, so that only an answer in the same spelling equals them.

    Args:
        golds (`Sequence[str]`):
            As [`~answers.gold_answer`] returns them.

    Returns:
        `str`: one sentence with three of them and what to do, or that there are none.
    """
    different = list(dict.fromkeys(golds))
    are_text = dict(zip(different, shared_grader().text_alone(different), strict=True))
    count = sum(are_text[gold] for gold in golds)
    if count == 0:
        return f"All {len(golds)} gold answers can be read."
    shown = [gold if len(gold) <= SHOWN_LENGTH else f"{gold[:SHOWN_LENGTH]}…" for gold in different if are_text[gold]]
    return (
        f"{count} of {len(golds)} gold answers are read as text alone, so that only the same spelling earns 1 "
        f"({'; '.join(map(repr, shown[:NUM_SHOWN]))}): write them as LaTeX formulas, or leave these rows out."
    )
