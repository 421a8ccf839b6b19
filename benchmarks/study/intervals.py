"""Means over seeds with their 95 % intervals by Student's t."""

from collections.abc import Sequence
from math import sqrt
from statistics import mean, stdev

import numpy as np


# 0.975 quantiles of Student's t distribution for 1, 2, … degrees of freedom
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """
    Mean and half the width of its 95 % interval by Student's t; the half-width of a single value is NaN.

    Raises:
        `ValueError`: if there are more values than the table of quantiles reaches.
    """
    if len(values) < 2:
        return mean(values), float("nan")
    if len(values) > len(T_QUANTILES) + 1:
        raise ValueError(
            f"{len(values)} seeds, but the table of t quantiles ends at {len(T_QUANTILES) + 1}: extend it."
        )
    return mean(values), T_QUANTILES[len(values) - 2] * stdev(values) / sqrt(len(values))


def show(values: Sequence[float], digits: int) -> str:
    """`mean ± half-width`; where some runs have no value, of the rest, with their number."""
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return "never" if values else ""
    centre, half = interval(finite)
    text = f"{centre:.{digits}f}" + (f" ± {half:.{digits}f}" if np.isfinite(half) else "")
    return text if len(finite) == len(values) else f"{text} ({len(finite)} of {len(values)})"
