"""benchmarks/study/prediction/updates.py: AdamW's step by hand."""

import math

import pytest
import torch
from prediction_policies import ADAMW

from benchmarks.study.prediction.updates import adamw_update, dot, sgd_update


def test_sgd_goes_up_the_gradient():
    gradient = {"x": torch.tensor([3.0, -1.0]), "y": torch.tensor([2.0])}
    update = sgd_update(gradient, 0.5)
    assert update.step["x"].tolist() == [1.5, -0.5] and update.step["y"].tolist() == [1.0]
    assert update.preconditioned == update.step
    assert update.rate == update.rates == 0.5
    assert dot(gradient, update.step).item() == 0.5 * (9 + 1 + 4)


def test_adamw_update_by_hand():
    """From m = 0.1, v = 0.04 after one step, with gradient 0.3 that clipping halves."""
    params = {"x": torch.tensor([2.0], dtype=torch.float64)}
    gradient = {"x": torch.tensor([0.3], dtype=torch.float64)}
    state = {"x": {"step": torch.tensor(1.0), "exp_avg": torch.tensor([-0.1]), "exp_avg_sq": torch.tensor([0.04])}}
    update = adamw_update(params, gradient, state, ADAMW, max_norm=0.15)
    first = (0.9 * 0.1 + 0.1 * 0.15) / (1 - 0.9**2)
    second = (0.999 * 0.04 + 0.001 * 0.15**2) / (1 - 0.999**2)
    assert update.step["x"].item() == pytest.approx(0.01 * first / (math.sqrt(second) + 1e-8), rel=1e-6)
    assert update.preconditioned["x"].item() == pytest.approx(0.01 * 0.15 / (math.sqrt(second) + 1e-8), rel=1e-6)
    assert update.rate == pytest.approx(0.01 * 0.5 / (math.sqrt(second) + 1e-8), rel=1e-6)
