"""benchmarks/study/intervals.py: means and their intervals, by hand."""

import math

import pytest

from benchmarks.study import intervals


def test_interval_by_hand():
    # Mean 2, deviation 1, three values: 4.303 · 1 / √3 = 2.484
    assert intervals.interval([1.0, 2.0, 3.0]) == (2.0, pytest.approx(2.4843, abs=1e-4))
    # Five values 1 … 5: deviation √2.5, 2.776 · √2.5 / √5 = 2.776 · 0.70711 = 1.963
    assert intervals.interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, pytest.approx(1.9629, abs=1e-4))
    assert intervals.interval([4.0])[0] == 4.0 and math.isnan(intervals.interval([4.0])[1])
    with pytest.raises(ValueError, match="extend it"):
        intervals.interval([1.0] * 20)


@pytest.mark.parametrize("freedom", [1, 2, 5, 14])
def test_t_quantiles_hold_95_percent(freedom):
    """The density of Student's t, integrated by Simpson's rule from 0 to the quantile, is 0.475."""
    quantile = intervals.T_QUANTILES[freedom - 1]
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    steps = 2000
    heights = [scale * (1 + (quantile * i / steps) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(steps + 1)]
    area = quantile / steps / 3 * (heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2]))
    assert area == pytest.approx(0.475, abs=2e-5)


def test_show():
    assert intervals.show([1.0, 2.0, 3.0], 1) == "2.0 ± 2.5"
    assert intervals.show([1.0, math.nan], 0) == "1 (1 of 2)"
    assert intervals.show([math.nan], 0) == "never"
    assert intervals.show([], 0) == ""
