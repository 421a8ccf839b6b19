"""benchmarks/study/prediction/decomposition.py: its predictions where they must be exact."""

import pytest
import torch
from prediction_policies import (
    FREE,
    LENGTH,
    ROWS,
    SHARED,
    STATE,
    VOCABULARY,
    entropy_of,
    free,
    logp_of,
    make_batch,
    shared,
    single_gradients,
    updates,
)
from torch.nn.functional import one_hot

from benchmarks.study.prediction.decomposition import PARTS, measure
from benchmarks.study.prediction.records import steps_of
from benchmarks.study.prediction.updates import dot
from opefo_trl.entropy_flow import entropy_sensitivity


def test_free_logits_are_predicted_to_first_order():
    """Where logits are free parameters the flow is the whole truth: slope 1 as the step shrinks, error O(η)."""
    record = measure(free, FREE, make_batch(), updates(FREE), [1e-3, 1e-1, 1.0], 0.5)
    errors = []
    for size in (1e-1, 1e-3):
        (step,) = steps_of([record], balance="none", optimizer="sgd", size=size)
        errors.append(abs(step["measured"] / step["predicted"]["exact"] - 1))
        assert step["gain"] == pytest.approx(1, abs=1e-12)
        assert step["predicted"]["parametric"] == pytest.approx(step["predicted"]["exact"], rel=1e-12)
        for part in ("unequal gain", "same context", "same prompt", "other prompts", "preconditioning", "memory"):
            assert step["parts"][part] == pytest.approx(0, abs=1e-16), part
        assert step["tokens"]["exact"]["slope"] == pytest.approx(1, abs=10 * errors[-1])
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)


def test_the_flows_are_the_prediction():
    """Σ c·d of the record is P − N; the mean changes by η (P' − N') / n, which the balance makes 0."""
    batch = make_batch()
    record = measure(free, FREE, batch, updates(FREE), [1.0], 0.99)
    flow = record["flows"]["exact"]
    d = batch.weights * batch.advantages * entropy_sensitivity(FREE["table"], batch.tokens)
    assert flow["increase"] == pytest.approx(d[d > 0].sum().item(), rel=1e-12)
    assert flow["decrease"] == pytest.approx(-d[d < 0].sum().item(), rel=1e-12)
    assert record["trained_tokens"] == ROWS * LENGTH - 1
    (plain,) = steps_of([record], balance="none", optimizer="sgd")
    net = flow["increase"] - flow["decrease"]
    assert plain["predicted"]["exact"] == pytest.approx(0.05 * net / 11, rel=1e-12)
    (balanced,) = steps_of([record], balance="exact", optimizer="sgd")
    assert abs(flow["coefficient"]) > 0.01
    assert balanced["predicted"]["exact"] == pytest.approx(0, abs=1e-16)
    # On free logits what a token does to the mean is what it does to itself, so both λ are one
    assert flow["parametric_coefficient"] == pytest.approx(flow["coefficient"], rel=1e-9)
    assert plain["influence"]["exact"] == pytest.approx({"pearson": 1, "slope": 1, "sign": 1})


def test_tokens_of_one_context_share_free_logits():
    """Two samples from one table row: what is not a token's own is its twin's, and nothing else."""
    contexts = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH)
    contexts[1, 0] = contexts[0, 0]

    def policy(params, rows):
        index = contexts[rows]
        return params["table"].flatten(0, 1)[index]

    batch = make_batch(contexts)
    record = measure(policy, FREE, batch, updates(FREE), [1.0], 0.5)
    (step,) = steps_of([record], balance="none", optimizer="sgd")
    pi = FREE["table"][0, 0].softmax(-1)
    gradient = -pi * (pi.log() - (pi * pi.log()).sum())
    pushes = [
        batch.weights[row, 0] * batch.advantages[row, 0] * (one_hot(batch.tokens[row, 0], VOCABULARY) - pi)
        for row in (0, 1)
    ]
    expected = 0.05 * sum((push @ gradient).item() for push in pushes) / 11
    assert abs(expected) > 1e-5
    assert step["parts"]["same context"] == pytest.approx(expected, rel=1e-9)
    for part in ("unequal gain", "same prompt", "other prompts"):
        assert step["parts"][part] == pytest.approx(0, abs=1e-16), part


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("balance", ["none", "exact"])
def test_parametric_flow_equals_finite_difference(optimizer, balance):
    """By token, by step and by side; and its parts are what they are called, whatever the optimizer's state."""
    batch = make_batch()
    h = 1e-4
    record = measure(shared, SHARED, batch, updates(SHARED, STATE), [-h, h], 0.5)
    low, high = steps_of([record], balance=balance, optimizer=optimizer)
    difference = (high["measured"] - low["measured"]) / 2
    assert high["predicted"]["parametric"] == pytest.approx(difference, rel=1e-6)
    assert high["tokens"]["parametric"]["slope"] == pytest.approx(1, abs=1e-2)
    memory = high["parts"]["memory"]
    assert sum(high["parametric_sides"]) + memory == pytest.approx(high["predicted"]["parametric"], rel=1e-9)
    assert min(abs(side) for side in high["parametric_sides"]) > 1e-9


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_parts_add_up_to_what_is_measured(optimizer):
    record = measure(shared, SHARED, make_batch(), updates(SHARED, STATE), [0.1, 1.0, 10.0], 0.5)
    steps = steps_of([record], optimizer=optimizer)
    assert len(steps) == 4 * 3
    for step in steps:
        assert tuple(step["parts"]) == PARTS
        assert sum(step["parts"].values()) == pytest.approx(step["measured"], rel=1e-9)
        assert step["parts"]["token-wise"] + step["parts"]["unequal gain"] == pytest.approx(step["predicted"]["own"])
        for part in ("same prompt", "other prompts", "second order"):
            assert abs(step["parts"][part]) > 1e-10, part
        assert (abs(step["parts"]["memory"]) > 1e-10) == (optimizer == "adamw")
        assert (abs(step["parts"]["preconditioning"]) > 1e-10) == (optimizer == "adamw")


def test_own_effects_and_prompts_against_single_gradients():
    """Own and same-prompt parts, from one gradient per token."""
    batch = make_batch()
    record = measure(shared, SHARED, batch, updates(SHARED), [1.0], 0.5)
    (step,) = steps_of([record], balance="none", optimizer="sgd")
    of_entropy, of_logp = single_gradients(entropy_of, batch), single_gradients(logp_of, batch)
    effect = {
        (t, u): 0.05 * batch.weights[u] * batch.advantages[u[0], 0] * dot(of_entropy[t], of_logp[u]) / 11
        for t in of_entropy
        for u in of_logp
    }
    own = sum(effect[t, t] for t in of_entropy).item()
    prompt = sum(e for (t, u), e in effect.items() if t != u and t[0] // 2 == u[0] // 2).item()
    other = sum(e for (t, u), e in effect.items() if t[0] // 2 != u[0] // 2).item()
    assert step["predicted"]["own"] == pytest.approx(own, rel=1e-9)
    assert step["parts"]["same prompt"] == pytest.approx(prompt, rel=1e-9)
    assert step["parts"]["other prompts"] == pytest.approx(other, rel=1e-9)
