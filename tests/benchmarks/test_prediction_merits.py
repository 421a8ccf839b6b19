"""benchmarks/study/prediction/merits.py: figures of merit by hand."""

import math

import numpy as np
import pytest

from benchmarks.study.prediction.merits import merits_of, pearson, sign_agreement, slope


def test_figures_of_merit_by_hand():
    x, y = np.array([1.0, 2.0, 0.0, -1.0]), np.array([2.0, 1.0, 5.0, -3.0])
    # Means 0.5 and 1.25; Σ dx dy = 4.5, Σ dx² = 5, Σ dy² = 32.75
    assert pearson(x, y) == pytest.approx(4.5 / math.sqrt(5 * 32.75))
    assert slope(x, y) == pytest.approx((2 + 2 + 3) / 6)
    assert sign_agreement(x, y) == 1.0
    assert sign_agreement(x, -y) == 0.0
    assert sign_agreement(np.array([1.0, 1.0, -1.0, -1.0]), y) == 0.75
    for merit in (slope, sign_agreement):
        assert math.isnan(merit(np.zeros(4), y))
    assert math.isnan(pearson(np.ones(4), y))


def test_merits_of_pairs():
    # Means 1 and −1; Σ dx dy = −10, Σ dx² = 8, Σ dy² = 14; Σxy = −13, Σx² = 11
    pairs = [(1.0, -2.0), (3.0, -3.0), (-1.0, 2.0)]
    assert merits_of(pairs) == pytest.approx({"pearson": -10 / math.sqrt(8 * 14), "slope": -13 / 11, "sign": 0.0})
