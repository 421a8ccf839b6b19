"""benchmarks/study/forms.py: other forms of the coefficient, by hand, and the trainer that applies them."""

import pytest
import torch
from conftest import KeepGradient, relative_error, weights_after

from benchmarks.study import forms
from benchmarks.study.arms import FormTrainer, find_arm, make_forms
from benchmarks.study.tasks import TASKS
from opefo_trl import OPEFOConfig


# P = 3 + 1 = 4 and N = 2 + 3 = 5; by row 3 against 2, and 1 against 3
FLOW = torch.tensor([[3.0, -2.0, 0.0], [1.0, -3.0, 0.0]])


def batch(flow=FLOW, entropy=1.0, advantages=((1.0,), (-1.0,))):
    """The last token of each row is not trained."""
    mask = torch.ones_like(flow)
    mask[:, -1] = 0
    return forms.Batch(flow, torch.tensor(advantages)[: len(flow)], torch.full_like(flow, entropy), mask)


def values(factors):
    return [factor.flatten().tolist() for factor in factors]


def test_overbalanced():
    # λ = 1/9, times 1.5: 1/6
    assert values(forms.overbalanced(batch())) == [pytest.approx([7 / 6]), pytest.approx([5 / 6])]
    assert values(forms.overbalanced(batch(torch.tensor([[1.0, -9.0]])))) == [[1.5], [0.5]], (
        "0.8 · 1.5 meets the bound"
    )


def test_one_side():
    # (1 + λ) 4 = 5, and 4 = (1 − λ) 5
    assert values(forms.raise_only(batch())) == [pytest.approx([1.25]), [1.0]]
    assert values(forms.lower_only(batch())) == [[1.0], pytest.approx([0.8])]
    nothing = torch.zeros(2, 3)
    assert values(forms.raise_only(batch(nothing))) == values(forms.lower_only(batch(nothing))) == [[1.0], [1.0]]


def test_per_sequence():
    # λ = (2 − 3) / 5 and (3 − 1) / 4
    up, down = forms.per_sequence(batch())
    assert up.tolist() == [pytest.approx([0.8]), pytest.approx([1.5])]
    assert down.tolist() == [pytest.approx([1.2]), pytest.approx([0.5])]


def test_smoothed():
    rule = forms.Smoothed(decay=0.75)
    assert values(rule(batch())) == [pytest.approx([10 / 9]), pytest.approx([8 / 9])]
    # P = 0.75 · 4 + 0.25 · 8 = 5, N = 0.75 · 5 + 0.25 · 5 = 5
    assert values(rule(batch(torch.tensor([[8.0, -5.0]])))) == [[1.0], [1.0]]


def test_integral():
    rule = forms.Integral(target=0.5, gain=2.0, integral_gain=0.1)
    # e = (0.5 − 0.45) / 0.5 = 0.1: λ = 1/9 + 0.2 + 0.01, then the sum is 0.2
    assert values(rule(batch(entropy=0.45)))[0] == pytest.approx([1 + 1 / 9 + 0.21])
    assert values(rule(batch(entropy=0.45)))[0] == pytest.approx([1 + 1 / 9 + 0.22])
    # e = 1: at the bound, where the sum stays
    assert values(rule(batch(entropy=0.0))) == [[1.5], [0.5]]
    assert rule.total == pytest.approx(0.2)


def test_schedule():
    # λ = 1/9 + 4 (H* − 0.5) / H*, H* = 0.5, 0.48, 0.46 and then 0.46
    rule = forms.Schedule(start=0.5, end=0.46, steps=2)
    ups = [values(rule(batch(entropy=0.5)))[0][0] for _ in range(4)]
    wanted = [1 + 1 / 9 + 4 * (target - 0.5) / target for target in (0.5, 0.48, 0.46, 0.46)]
    assert ups == pytest.approx(wanted)


def test_by_failure():
    # Half of the group is right: 2 (1 − 0.5) = 1, so λ = 1/9; one of five: A = 2 or −0.5, 2 (1 − 0.2) = 1.6
    up, _ = forms.by_failure(batch(), target=1.0)
    assert up.tolist() == [pytest.approx([10 / 9])] * 2
    up, down = forms.by_failure(batch(advantages=((2.0,), (-0.5,))), target=1.0)
    assert up.tolist() == [pytest.approx([1 + 1.6 / 9])] * 2
    assert down.tolist() == [pytest.approx([1 - 1.6 / 9])] * 2


def test_wrong_only():
    up, down = forms.wrong_only(batch(), target=1.0)
    assert up.tolist() == [[1.0], pytest.approx([10 / 9])]
    assert down.tolist() == [[1.0], pytest.approx([8 / 9])]


def test_forks_only():
    # The token of highest entropy of the four that are trained carries all: λ = (5 − 4) / 3; the masked one is no fork
    entropies = torch.tensor([[1.2, 0.9, 9.0], [0.9, 1.0, 9.0]])
    up, down = forms.forks_only(batch()._replace(entropies=entropies), target=1.0)
    assert up.tolist() == [pytest.approx([4 / 3, 1, 1]), [1.0, 1.0, 1.0]]
    assert down.tolist() == [pytest.approx([2 / 3, 1, 1]), [1.0, 1.0, 1.0]]


def test_the_plain_form_is_opefo(make_trainer):
    """1 + λ and 1 − λ from P and N are the package's own update."""

    def plain(batch):
        return forms.both_sides(forms.bounded(forms.balance_coefficient(*forms.sides(batch.flow))))

    ends = []
    for settings in ({}, {"rule": plain}):
        keep = KeepGradient()
        build = {"trainer_class": lambda *args, **kw: FormTrainer(*args, rule=plain, **kw)} if settings else {}
        config = (lambda **kw: OPEFOConfig(flow_strength=0.0, **kw)) if settings else OPEFOConfig
        trainer = make_trainer(config_class=config, callbacks=[keep], max_steps=1, **build)
        weights_after(trainer)
        ends.append(keep.gradient)
        assert abs(trainer.state.log_history[0]["entropy_flow/net"]) > 1e-3, "there must be something to balance"
    assert relative_error(ends[1], ends[0]) < 1e-6


def test_forms_are_arms_with_a_rule_of_their_own():
    task = TASKS["countdown"]
    for name, arm in make_forms(task).items():
        assert find_arm(task, name) is not None and arm.trainer is FormTrainer
        assert arm.make_rule(1) is not None
    smoothed = make_forms(task)["smoothed"]
    assert smoothed.make_rule(1) is not smoothed.make_rule(1), "two runs share no state"
