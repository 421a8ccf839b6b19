"""opefo_trl/plotting/drawing.py: the numbers behind the lines."""

import numpy as np
import pytest

from opefo_trl.plotting import drawing
from opefo_trl.plotting.runs import Run


def test_smoothing_averages_neighbours_and_narrows_at_the_ends(monkeypatch):
    monkeypatch.setattr(drawing, "SMOOTHING", 4)  # one neighbour on either side of four
    smoothed = drawing.smooth(np.array([[0.0, 2.0, 4.0, 0.0], [3.0, 3.0, 3.0, 3.0]]))  # (2, 4)
    assert smoothed.tolist() == [[1.0, 2.0, 2.0, 2.0], [3.0, 3.0, 3.0, 3.0]]


def test_curve_is_mean_and_deviation_at_the_steps_in_common():
    runs = [
        Run("a", {"reward": {10: 1.0, 20: 2.0, 30: 9.0}}),
        Run("b", {"reward": {20: 4.0, 10: 5.0}}),
        Run("c", {"entropy": {10: 1.0}}),
    ]
    curve = drawing.make_curve(runs, "reward")
    assert curve.steps == [10, 20]
    assert curve.values.tolist() == [[1.0, 2.0], [5.0, 4.0]]
    assert curve.mean.tolist() == [3.0, 3.0]
    assert curve.deviation == pytest.approx([8**0.5, 2**0.5])
    assert drawing.make_curve(runs[:1], "reward").deviation.tolist() == [0.0, 0.0, 0.0]
    assert drawing.make_curve(runs, "entropy_flow/increase") is None
