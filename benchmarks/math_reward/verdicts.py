"""The verdict of `math_reward` on pairs of a gold and an answer, and that of math-verify by itself."""

import logging
from collections.abc import Sequence

from tqdm.auto import tqdm

from opefo_trl.grading.grader import shared_grader
from opefo_trl.grading.policy import Policy


BATCH = 500


def by_math_reward(pairs: Sequence[tuple[str, str | None]], policy: Policy) -> list[float | None]:
    """Rewards as in a training, from worker processes."""
    rewards: list[float | None] = []
    for start in tqdm(range(0, len(pairs), BATCH), unit=f"×{BATCH} pairs", leave=False):
        rewards += shared_grader().grade(pairs[start : start + BATCH], policy)
    return rewards


def by_math_verify(pairs: Sequence[tuple[str, str | None]]) -> list[float | None]:
    """What math-verify says of the two boxes, with its own limit of five seconds. `math_reward` was this before."""
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable()
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    rewards: list[float | None] = []
    for gold, answer in tqdm(pairs, unit=" pairs", leave=False):
        gold_read = parse(f"\\boxed{{{gold}}}", extraction_config=config)
        if not gold_read or answer is None:
            rewards.append(0.0 if gold_read else None)
        else:
            rewards.append(float(verify(gold_read, parse(f"\\boxed{{{answer}}}", extraction_config=config))))
    return rewards
