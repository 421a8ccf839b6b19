"""benchmarks/study/prediction/flows.py: gradients by hand and against single tokens."""

import math

import pytest
import torch
from prediction_policies import (
    FREE,
    LENGTH,
    ROWS,
    SHARED,
    VOCABULARY,
    entropy_of,
    free,
    logp_of,
    make_batch,
    random,
    shared,
    single_gradients,
)
from torch.nn.functional import one_hot

from benchmarks.study.prediction.flows import (
    entropies_of,
    entropy_gradient,
    entropy_response,
    logp_response,
    logps_of,
    own_effects,
    own_logit_response,
    policy_gradient,
    prompt_response,
    sensitivities,
)
from benchmarks.study.prediction.updates import dot


DIRECTION = {name: random(*value.shape, seed=8) for name, value in SHARED.items()}


def test_entropies_and_logps_by_hand():
    log_pi = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
    assert entropies_of(log_pi).item() == pytest.approx(1.5 * math.log(2))
    assert logps_of(log_pi, torch.tensor(1)).item() == pytest.approx(-2 * math.log(2))


def test_sensitivities_by_hand():
    """π = (1/2, 1/4, 1/4), token 0: ln p + H = ln 2 / 2, and Σ π² (ln π + H) = (1/4 − 1/8) ln 2 / 2."""
    logits = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
    values = {name: s.item() / math.log(2) for name, s in sensitivities(logits, torch.tensor(0)).items()}
    assert values == pytest.approx({"exact": 1 / 16 - 1 / 4, "sampled": -1 / 4, "paper": -1 / 8})


def test_mean_is_over_trained_tokens():
    batch = make_batch()
    values = torch.arange(ROWS * LENGTH, dtype=torch.float64).view(ROWS, LENGTH)
    assert batch.mean(values).item() == pytest.approx((66 - 5) / 11)


def test_policy_gradient_on_free_logits():
    batch = make_batch()
    gradient = policy_gradient(free, FREE, batch, batch.advantages)["table"]
    pi = FREE["table"].softmax(-1)
    expected = (batch.weights * batch.advantages).unsqueeze(-1) * (one_hot(batch.tokens, VOCABULARY) - pi)
    torch.testing.assert_close(gradient, expected)


def test_responses_equal_single_gradients():
    batch, rows = make_batch(), torch.tensor([2, 1])
    of_entropy, of_logp = single_gradients(entropy_of, batch), single_gradients(logp_of, batch)
    entropies = entropy_response(shared, SHARED, rows, DIRECTION)
    logps = logp_response(shared, SHARED, batch, rows, DIRECTION)
    for (row, position), gradient in of_entropy.items():
        if row in (1, 2):
            at = (2 - row, position)
            assert entropies[at].item() == pytest.approx(dot(gradient, DIRECTION).item(), rel=1e-9)
            assert logps[at].item() == pytest.approx(dot(of_logp[row, position], DIRECTION).item(), rel=1e-9)


def test_entropy_gradient_is_the_share_of_some_rows():
    batch, rows = make_batch(), torch.tensor([2, 1])
    share = dot(entropy_gradient(shared, SHARED, batch, rows), DIRECTION).item()
    of_entropy = single_gradients(entropy_of, batch)
    expected = sum(dot(gradient, DIRECTION).item() for (row, _), gradient in of_entropy.items() if row in (1, 2)) / 11
    assert share == pytest.approx(expected, rel=1e-9)


def test_own_effects_equal_products_of_single_gradients():
    """Of a token on itself, and on a twin in its context: (0, 1) and (3, 1) are made to share one."""
    contexts = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH)
    contexts[3, 1] = contexts[0, 1]
    batch = make_batch(contexts)

    def policy(params, rows):
        logits = shared(params, batch.rows)
        return torch.cat([logits[:3], torch.stack([logits[3, 0], logits[0, 1], logits[3, 2]])[None]])[rows]

    pi = policy(SHARED, batch.rows).softmax(-1)
    own, same_context = own_effects(batch, pi, own_logit_response(policy, SHARED, batch), batch.advantages)
    assert own[1, 2] == 0
    of_entropy, of_logp = single_gradients(entropy_of, batch), single_gradients(logp_of, batch)
    for at, gradient in of_entropy.items():
        if at != (3, 1):
            weight = batch.weights[at] * batch.advantages[at[0], 0]
            assert own[at].item() == pytest.approx((weight * dot(gradient, of_logp[at])).item(), rel=1e-9)
            assert (same_context[at].abs().item() > 1e-9) == (at == (0, 1))
    # One policy for both: the twin's effect here is what its own is there
    assert same_context[0, 1].item() == pytest.approx(own[3, 1].item(), rel=1e-9)
    assert same_context[3, 1].item() == pytest.approx(own[0, 1].item(), rel=1e-9)


def test_prompt_response_equals_single_gradients():
    batch = make_batch()
    of_entropy, of_logp = single_gradients(entropy_of, batch), single_gradients(logp_of, batch)
    response = prompt_response(shared, SHARED, batch)
    for u, gradient in of_logp.items():
        expected = sum(dot(gradient, of_entropy[t]).item() for t in of_entropy if t[0] // 2 == u[0] // 2) / 11
        assert response[u].item() == pytest.approx(expected, rel=1e-9)
