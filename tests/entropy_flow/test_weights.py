"""The weight of a token in TRL's loss, by hand; the trainer's tests hold it against TRL's own gradient."""

import pytest
import torch

from opefo_trl import OPEFOConfig
from opefo_trl.entropy_flow.weights import (
    advantages_per_token,
    loss_gradient,
    loss_mask,
    mean_weights,
    spread_over_sequence,
    token_weights,
)


MASK = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0]])
LOGPS = torch.tensor([[-1.0, 0.0, 0.0], [-2.0, -0.5, -0.1], [0.0, 0.0, 0.0]])


def args(**settings):
    defaults = {"max_completion_length": 10, "gradient_accumulation_steps": 2, "epsilon": 0.3}
    return OPEFOConfig(output_dir="unused", use_cpu=True, bf16=False, report_to="none", **{**defaults, **settings})


def inputs(**columns):
    """Two micro-batches with 20 trained tokens, in two processes: 5 tokens to each."""
    advantages = torch.tensor([1.0, -2.0, 0.5])
    return {"completion_mask": MASK, "num_items_in_batch": torch.tensor(20), "advantages": advantages, **columns}


# Two sequences of 1 and 3 trained tokens, one fully masked
@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", [[1 / 3, 0, 0], [1 / 9, 1 / 9, 1 / 9], [0, 0, 0]]),
        ("sapo", [[1 / 3, 0, 0], [1 / 9, 1 / 9, 1 / 9], [0, 0, 0]]),
        ("bnpo", [[1 / 4, 0, 0], [1 / 4, 1 / 4, 1 / 4], [0, 0, 0]]),
        ("dr_grpo", [[1 / 30, 0, 0], [1 / 30, 1 / 30, 1 / 30], [0, 0, 0]]),
        ("luspo", [[1 / 3, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0, 0]]),
        ("dapo", [[1 / 5, 0, 0], [1 / 5, 1 / 5, 1 / 5], [0, 0, 0]]),
        ("cispo", [[1 / 5, 0, 0], [1 / 5, 1 / 5, 1 / 5], [0, 0, 0]]),
        ("vespo", [[1 / 5, 0, 0], [1 / 5, 1 / 5, 1 / 5], [0, 0, 0]]),
    ],
)
def test_by_hand(loss_type, expected):
    mean = mean_weights(inputs(), args(loss_type=loss_type), num_processes=2)
    torch.testing.assert_close(mean, torch.tensor(expected, dtype=torch.float32))
    weights = token_weights(inputs(), args(loss_type=loss_type), 2, LOGPS)
    factor = 0.3 if loss_type == "cispo" else 1.0
    torch.testing.assert_close(weights, factor * torch.tensor(expected, dtype=torch.float32))


def test_unknown_loss_type():
    settings = args()
    settings.loss_type = "new"
    with pytest.raises(ValueError, match="Loss type 'new' has no known token weights"):
        mean_weights(inputs(), settings, 1)


def test_tool_tokens_are_not_trained():
    tool_mask = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    assert loss_mask(inputs(tool_mask=tool_mask)).tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0]]
    weights = token_weights(inputs(tool_mask=tool_mask), args(loss_type="grpo"), 1, LOGPS)
    torch.testing.assert_close(weights, torch.tensor([[1 / 3, 0, 0], [1 / 6, 0, 1 / 6], [0, 0, 0]]))


def test_factors_multiply():
    ratio = torch.tensor([[2.0, 1, 1], [1, 3, 1], [1, 1, 1]])
    kept = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    # ln p of the sampler is higher by 1 on the second sequence, whose advantage is negative: dropped beyond 0.5
    sampler = LOGPS + torch.tensor([[1.0], [1.0], [0.0]])
    batch = inputs(importance_sampling_ratio=ratio, sampling_per_token_logps=sampler)
    weights = token_weights(batch, args(loss_type="bnpo"), 1, LOGPS, kept)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0, 0], [0, 0.75, 0.25], [0, 0, 0]]))
    weights = token_weights(batch, args(loss_type="bnpo", off_policy_mask_threshold=0.5), 1, LOGPS, kept)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0, 0], [0, 0, 0], [0, 0, 0]]))


def test_advantages_per_token():
    assert advantages_per_token(inputs()).tolist() == [[1.0], [-2.0], [0.5]]
    per_token = torch.arange(9.0).view(3, 3)
    assert advantages_per_token(inputs(advantages=per_token)) is per_token


@pytest.mark.parametrize("bias_correction", [True, False])
def test_loss_gradient_is_that_of_loss_and_penalty(bias_correction):
    """Against autograd on −c·A·ratio + β·w·KL, written out."""
    settings = args(loss_type="bnpo", beta=0.2, use_bias_correction_kl=bias_correction)
    reference = LOGPS + torch.tensor([[0.3, 0.0, 0.0], [-0.2, 0.5, 0.1], [0.0, 0.0, 0.0]])
    ratio = torch.tensor([[2.0], [0.5], [1.0]])
    batch = inputs(ref_per_token_logps=reference, importance_sampling_ratio=ratio)
    logps = LOGPS.double().requires_grad_()
    policy_ratio = (logps - logps.detach()).exp()
    kl = (reference - logps).exp() - (reference - logps) - 1
    kl = kl * policy_ratio if bias_correction else kl
    per_token = -policy_ratio * batch["advantages"].unsqueeze(1) * ratio + 0.2 * kl
    (expected,) = torch.autograd.grad((per_token * MASK).sum() / 4, logps)
    gradient = loss_gradient(batch, settings, 1, LOGPS)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-6, atol=1e-7)


def test_factors_spread_over_a_sequence():
    factors = torch.tensor([[2.0, 9, 9], [1, 2, 6], [9, 9, 9]])
    assert spread_over_sequence(factors, MASK, "grpo").tolist() == [[2.0], [3.0], [0.0]]
    assert spread_over_sequence(factors[:, :1], MASK, "dapo").tolist() == [[2.0], [1.0], [0.0]]
    assert spread_over_sequence(factors, MASK, "vespo") is factors
    assert spread_over_sequence(factors, MASK, "cispo") is factors
