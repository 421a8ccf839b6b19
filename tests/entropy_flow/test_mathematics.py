"""The mathematics against hand-computed numbers, finite differences and brute force."""

import math

import pytest
import torch
from references import half_temperature_sensitivity

from opefo_trl.entropy_flow import (
    balance_advantages,
    balance_coefficient,
    entropy_sensitivity,
    flow_coefficient,
    paper_sensitivity,
    sampled_sensitivity,
)


def logps_and_entropies(logits, tokens):
    log_pi = torch.log_softmax(logits, -1)
    return log_pi.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), -(log_pi.exp() * log_pi).sum(-1)


@pytest.fixture
def two_actions():
    """π = (0.8, 0.2), A = (0.2, −0.8), one position per action."""
    logits = torch.tensor([0.8, 0.2], dtype=torch.float64).log().expand(2, 2)
    return logits, torch.tensor([0, 1]), torch.tensor([0.8, 0.2]), torch.tensor([0.2, -0.8])


def test_exact_golden_number(two_actions):
    logits, tokens, pi, advantages = two_actions
    # By hand for a = 0: H = 0.500402, p (ln p + H) = 0.221807, Σ π² (ln π + H) = 0.133087, so s = −0.088722
    s = entropy_sensitivity(logits, tokens)
    assert s[0].item() == pytest.approx(-0.088722, abs=1e-6)
    assert (pi * advantages * s).sum().item() == pytest.approx(-0.070978, abs=1e-6)


def test_paper_golden_number(two_actions):
    logits, tokens, pi, advantages = two_actions
    s = paper_sensitivity(*logps_and_entropies(logits, tokens))
    assert (pi * advantages * s).sum().item() == pytest.approx(-0.115340, abs=1e-6)


def test_sampled_is_exact_up_to_a_constant_of_the_position(two_actions):
    logits, tokens, _, _ = two_actions
    difference = entropy_sensitivity(logits, tokens) - sampled_sensitivity(*logps_and_entropies(logits, tokens))
    # Σ π² (ln π + H) by hand: 0.64 · (−0.223144 + 0.500402) + 0.04 · (−1.609438 + 0.500402)
    assert difference.tolist() == pytest.approx([0.133084, 0.133084], abs=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_exact_equals_finite_difference_of_the_entropy(scale):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(50, 11, generator=generator, dtype=torch.float64)
    tokens = torch.randint(11, (50,), generator=generator)
    step = 1e-6
    direction = torch.nn.functional.one_hot(tokens, 11) - logits.softmax(-1)  # gradient of ln π(a)
    _, above = logps_and_entropies(logits + step * direction, tokens)
    _, below = logps_and_entropies(logits - step * direction, tokens)
    torch.testing.assert_close(entropy_sensitivity(logits, tokens), (above - below) / (2 * step), rtol=1e-6, atol=1e-9)


def truncated(rows, vocab):
    """Logits, the candidates of a truncated sampler (one row has 1, one has 2, ..., the last knows none), and π̃."""
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)
    candidates = torch.rand(rows, vocab, generator=generator).argsort(-1)  # (rows, vocab), every id once
    candidates[torch.arange(vocab) > torch.arange(rows).unsqueeze(-1)] = -1
    candidates[-1] = -1
    sampler = torch.zeros_like(logits)
    for row, ids in enumerate(candidates):
        known = ids[ids >= 0] if (ids >= 0).any() else torch.arange(vocab)
        sampler[row, known] = logits[row, known].softmax(-1)
    return logits, candidates, sampler


def test_exact_of_a_truncated_sampler_equals_finite_difference_of_the_whole_entropy():
    logits, candidates, sampler = truncated(12, 11)
    tokens = sampler.multinomial(1, generator=torch.Generator().manual_seed(5)).squeeze(-1)
    step = 1e-6
    direction = torch.nn.functional.one_hot(tokens, 11) - sampler  # gradient of ln π̃(a)
    _, above = logps_and_entropies(logits + step * direction, tokens)
    _, below = logps_and_entropies(logits - step * direction, tokens)
    s = entropy_sensitivity(logits, tokens, candidates)
    torch.testing.assert_close(s, (above - below) / (2 * step), rtol=1e-6, atol=1e-9)
    assert s[0] == 0, "a token that nothing else could have been drawn for has no step"
    assert s[-1] == entropy_sensitivity(logits, tokens)[-1], "nothing is known of the sampler: it had every token"


def test_exact_mean_over_a_truncated_sampler_is_zero():
    logits, candidates, sampler = truncated(12, 11)
    s = torch.stack([entropy_sensitivity(logits, torch.full((12,), a), candidates) for a in range(11)], -1)  # (12, 11)
    assert (sampler * s).sum(-1).abs().max().item() < 1e-15 < s.abs().max().item()


def test_exact_mean_over_the_policy_is_zero_flow_of_no_information():
    # With A = 1 for every action the expected policy gradient vanishes, and so must the expected entropy change
    logits = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tokens = torch.arange(5).expand(7, 5)
    s = entropy_sensitivity(logits.unsqueeze(1).expand(7, 5, 5), tokens)
    assert (logits.softmax(-1) * s).sum(-1).abs().max().item() < 1e-15


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_half_temperature_identity(temperature):
    generator = torch.Generator().manual_seed(2)
    logits = 4 * torch.randn(200, 31, generator=generator, dtype=torch.float64)
    tokens = torch.randint(31, (200,), generator=generator)
    full = logps_and_entropies(logits / temperature, tokens)
    half = logps_and_entropies(logits / (temperature / 2), tokens)
    expected = entropy_sensitivity(logits / temperature, tokens)
    torch.testing.assert_close(half_temperature_sensitivity(*full, *half), expected, rtol=1e-12, atol=1e-14)


def test_exact_with_impossible_tokens():
    logits = torch.tensor([[0.8, 0.2, 0.0]], dtype=torch.float64).log()
    assert entropy_sensitivity(logits, torch.tensor([0])).item() == pytest.approx(-0.088722, abs=1e-6)


def test_exact_is_computed_in_float32_for_half_precision_logits():
    logits = torch.tensor([[2.0, 1.0, 0.5]], dtype=torch.bfloat16)
    s = entropy_sensitivity(logits, torch.tensor([0]))
    assert s.dtype == torch.float32
    torch.testing.assert_close(s, entropy_sensitivity(logits.float(), torch.tensor([0])), rtol=0, atol=0)


def test_balance_coefficient_cancels_the_flows():
    increase, decrease = torch.tensor([1.0, 3.0, 0.0, 2.0, 0.0]), torch.tensor([3.0, 1.0, 0.0, 0.0, 2.0])
    coefficient = balance_coefficient(increase, decrease)
    assert coefficient.tolist() == [0.5, -0.5, 0.0, -1.0, 1.0]
    assert ((1 + coefficient) * increase - (1 - coefficient) * decrease).tolist() == [0.0] * 5


def coefficient(increase, decrease, entropy=1.0, **settings):
    settings = {"strength": 1.0, "max_coefficient": 0.5, **settings}
    return flow_coefficient(torch.tensor(increase), torch.tensor(decrease), torch.tensor(entropy), **settings).item()


def test_flow_coefficient():
    assert coefficient(3.0, 5.0) == 0.25
    assert coefficient(3.0, 5.0, strength=0.5) == 0.125
    assert coefficient(3.0, 5.0, strength=0.0) == 0.0
    assert coefficient(1.0, 9.0) == 0.5  # bounded: the balance is 0.8
    assert coefficient(9.0, 1.0) == -0.5
    # target: 0.25 + 2 · (0.5 − 0.4) / 0.5 = 0.65, and 0.25 + 2 · (0.5 − 0.6) / 0.5 = −0.15
    target = {"entropy_target": 0.5, "entropy_gain": 2.0, "max_coefficient": 0.9}
    assert coefficient(3.0, 5.0, entropy=0.4, **target) == pytest.approx(0.65)
    assert coefficient(3.0, 5.0, entropy=0.6, **target) == pytest.approx(-0.15)
    assert coefficient(3.0, 5.0, entropy=math.nan, **target) == 0.25  # no token, no target term


def test_balance_advantages():
    advantages = torch.tensor([[2.0], [-1.0], [0.0]])
    sensitivities = torch.tensor([[0.1, -0.3, 0.0], [0.1, -0.3, 0.0], [0.1, -0.3, 0.0]])
    balanced = balance_advantages(advantages, sensitivities, torch.tensor(0.25))
    assert balanced.tolist() == [[2.5, 1.5, 2.0], [-0.75, -1.25, -1.0], [0.0, 0.0, 0.0]]
    unchanged = balance_advantages(advantages, sensitivities, torch.tensor(0.0))
    assert torch.equal(unchanged, advantages.expand(3, 3))


def test_balanced_flows_cancel():
    generator = torch.Generator().manual_seed(3)
    advantages = torch.randn(6, 1, generator=generator, dtype=torch.float64)
    sensitivities = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    weights = torch.rand(6, 9, generator=generator, dtype=torch.float64)
    flow = weights * advantages * sensitivities
    coefficient = balance_coefficient(flow.clamp(min=0).sum(), -flow.clamp(max=0).sum())
    balanced = weights * balance_advantages(advantages, sensitivities, coefficient) * sensitivities
    assert abs(balanced.sum().item()) < 1e-14 < abs(flow.sum().item())
