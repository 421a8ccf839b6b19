"""Scores of a model from sampled answers: avg@k, pass@k, diversity, and the difference of two models."""

from collections.abc import Sequence
from math import comb, sqrt
from statistics import mean, stdev

import numpy as np


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """
    Unbiased estimate of the chance that at least one of `k` samples is right: one minus the chance that `k` of the
    samples, drawn without replacement, are all wrong (Chen et al., 2021, arXiv 2107.03374, section 2.1).

    Args:
        num_samples (`int`):
            Samples drawn, at least `k`.
        num_correct (`int`):
            Those that are right.
        k (`int`):
            Samples allowed.
    """
    return 1.0 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4, … up to `largest`."""
    return [2**exponent for exponent in range(largest.bit_length())]


def summarize(problems: Sequence[dict]) -> dict[str, float]:
    """
    Scores of one benchmark.

    Args:
        problems (`Sequence[dict]`):
            One per problem. The keys `correct` (`bool`), `answers` (`str` or `None`), `lengths` (tokens) and
            `truncated` (`bool`) each hold a list over its samples. All problems have the same number of samples.

    Returns:
        `dict[str, float]`: `avg@k` (share of right samples) and its standard error over problems `avg@k_se`, `pass@…`
        for powers of two up to k, `truncated` (share of samples), `mean_length` (tokens), `distinct` (different
        answers per sample: 1 if every sample has an answer, and all answers to a problem differ).
    """
    k = len(problems[0]["correct"])
    shares = [sum(problem["correct"]) / k for problem in problems]
    scores = {"problems": len(problems), "k": k, "avg@k": mean(shares)}
    scores["avg@k_se"] = stdev(shares) / sqrt(len(shares)) if len(shares) > 1 else float("nan")
    for allowed in powers_of_two(k):
        scores[f"pass@{allowed}"] = mean(pass_at_k(k, sum(problem["correct"]), allowed) for problem in problems)
    scores["truncated"] = mean(sum(problem["truncated"]) / k for problem in problems)
    scores["mean_length"] = mean(sum(problem["lengths"]) / k for problem in problems)
    scores["distinct"] = mean(len(set(problem["answers"]) - {None}) / k for problem in problems)
    return scores


def average(benchmarks: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over benchmarks of the scores that all of them have; the standard error is that of the mean."""
    shared = [name for name in benchmarks[0] if all(name in scores for scores in benchmarks)]
    averaged = {name: mean(scores[name] for scores in benchmarks) for name in shared if name not in ("problems", "k")}
    errors = [scores["avg@k_se"] for scores in benchmarks]
    averaged["avg@k_se"] = sqrt(sum(error**2 for error in errors)) / len(errors)
    return averaged


def paired_difference(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], draws: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """
    Difference of two models' averages on the same problems, with a bootstrap interval.

    Args:
        first (`Sequence[Sequence[float]]`):
            For each benchmark, the share of right samples of each problem.
        second (`Sequence[Sequence[float]]`):
            The same problems, answered by the other model.
        draws (`int`, *optional*, defaults to `10_000`):
            Bootstrap samples; problems are drawn within their benchmark, in pairs.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draws.

    Returns:
        `tuple[float, float, float]`: mean over benchmarks of `second − first`, and the bounds of its 95 % interval.
    """
    generator = np.random.default_rng(seed)
    differences = [np.asarray(b) - np.asarray(a) for a, b in zip(first, second, strict=True)]
    resampled = np.zeros(draws)
    for difference in differences:
        drawn = generator.integers(len(difference), size=(draws, len(difference)))
        resampled += difference[drawn].mean(axis=1) / len(differences)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(mean(float(d.mean()) for d in differences)), float(low), float(high)
