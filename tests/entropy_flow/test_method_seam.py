"""docs/method.md: (16), (17) and (18), derived with autograd and without the package."""

import pytest
import torch


@pytest.fixture
def logps():
    """ln p of two sequences of 3 and 5 tokens."""
    generator = torch.Generator().manual_seed(0)
    return [-torch.rand(n, generator=generator, dtype=torch.float64).requires_grad_() for n in (3, 5)]


ADVANTAGES = (0.7, -1.3)
WEIGHTS = (0.2, 0.05)  # w of each token of the two sequences


def sequence_ratio(logps):
    """The ratio of GSPO: the exponential of the mean log-ratio, old and new policy the same."""
    return (logps - logps.detach()).mean().exp()


def test_sequence_level_is_token_level_at_ratio_one(logps):
    """(16)"""
    for level in ("sequence", "token"):
        loss = torch.zeros((), dtype=torch.float64)
        for x, advantage, weight in zip(logps, ADVANTAGES, WEIGHTS, strict=True):
            ratio = sequence_ratio(x).expand_as(x) if level == "sequence" else (x - x.detach()).exp()
            loss = loss - (weight * advantage * ratio).sum()
        gradients = torch.autograd.grad(loss, logps)
        for gradient, advantage, weight in zip(gradients, ADVANTAGES, WEIGHTS, strict=True):
            torch.testing.assert_close(gradient, torch.full_like(gradient, -weight * advantage))


def test_a_factor_of_a_token_is_a_mean_at_sequence_level(logps):
    """The sentence below (16): and a loss that carries ln p itself keeps the token's own factor."""
    for x, advantage, weight in zip(logps, ADVANTAGES, WEIGHTS, strict=True):
        factors = torch.linspace(0.5, 2.0, len(x), dtype=torch.float64)
        loss = -(weight * advantage * factors * sequence_ratio(x)).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        torch.testing.assert_close(gradient, torch.full_like(gradient, -weight * advantage * factors.mean().item()))
        loss = -(weight * advantage * factors * sequence_ratio(x).detach() * x).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        torch.testing.assert_close(gradient, -weight * advantage * factors)


@pytest.mark.parametrize("bias_correction", [False, True])
def test_derivative_of_the_loss_with_a_penalty(logps, bias_correction):
    """(17), and the slope −x where the penalty is multiplied with the ratio."""
    beta = 0.3
    for x, advantage, weight in zip(logps, ADVANTAGES, WEIGHTS, strict=True):
        difference = torch.linspace(-1.0, 1.0, len(x), dtype=torch.float64)  # ln p_ref − ln p
        reference = (x + difference).detach()
        ratio = (x - x.detach()).exp()
        penalty = (reference - x).exp() - (reference - x) - 1
        loss = (weight * (-advantage * ratio + beta * penalty * (ratio if bias_correction else 1))).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        slope = -difference if bias_correction else 1 - difference.exp()
        torch.testing.assert_close(gradient, -weight * advantage + beta * weight * slope)


def test_step_of_a_truncated_sampler():
    """(18): the change of the whole vocabulary's entropy along e_a − π̃, and its mean under π̃."""
    z = torch.randn(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    log_pi = z.log_softmax(-1)
    h = -(log_pi.exp() * log_pi).sum()
    (slope,) = torch.autograd.grad(h, z)
    log_pi, h = log_pi.detach(), h.detach()
    pi, kept = log_pi.exp(), torch.tensor([0, 3, 4, 7])
    truncated = torch.zeros_like(pi)
    truncated[kept] = pi[kept] / pi[kept].sum()
    mean = (pi[kept] ** 2 * (log_pi[kept] + h)).sum() / pi[kept].sum()
    by_formula = -(pi * (log_pi + h) - mean)
    for a in kept.tolist():
        step = torch.nn.functional.one_hot(torch.tensor(a), 9) - truncated
        assert (slope * step).sum().item() == pytest.approx(by_formula[a].item(), rel=1e-12)
    assert (truncated * by_formula).sum().item() == pytest.approx(0, abs=1e-15)
