"""What the page shows of each token equals what the whole distribution says."""

import math

import pytest
import torch
from conftest import SYMBOLS, letter_reward, make_model

from opefo_trl.inspection.measuring import InspectedTrainer, inspect


SETTINGS = {"trainer_class": InspectedTrainer, "per_device_train_batch_size": 8, "max_steps": 1}


def ids(text):
    return [SYMBOLS.index(symbol) for symbol in text]


def exact(model, prompt, completion):
    """p, H and s of each token of a completion, in float64, from the model's own logits."""
    tokens = [SYMBOLS.index(token.text) for token in completion.tokens]
    with torch.no_grad():
        logits = type(model).forward(model, torch.tensor([[*ids(prompt), *tokens]])).logits[0].double()
    for place, token in enumerate(tokens):
        logps = logits[len(prompt) - 1 + place].log_softmax(-1)
        p, entropy = logps.exp(), -(logps.exp() * logps).sum()
        s = -(p[token] * (logps[token] + entropy) - (p.square() * (logps + entropy)).sum())
        yield p[token].item(), entropy.item(), s.item()


def test_tokens_flows_and_coefficient(make_trainer):
    trainer = make_trainer(**SETTINGS)
    inspection = inspect(trainer)
    assert len(inspection.groups) == 2 and all(len(completions) == 4 for _, completions in inspection.groups)
    num_tokens = sum(len(completion.tokens) for _, group in inspection.groups for completion in group)
    changes, entropies = [], []
    for prompt, completions in inspection.groups:
        rewards = [letter_reward(["".join(t.text for t in c.tokens if len(t.text) == 1)])[0] for c in completions]
        assert [completion.reward for completion in completions] == rewards
        deviation = torch.tensor(rewards).std().item()
        for completion, reward in zip(completions, rewards, strict=True):
            advantage = (reward - sum(rewards) / 4) / (deviation + 1e-4)
            assert completion.advantage == pytest.approx(advantage, abs=1e-5)
            for token, (p, entropy, s) in zip(
                completion.tokens, exact(trainer.model, prompt, completion), strict=True
            ):
                assert token.is_trained and token.other_entropy is None
                assert (token.probability, token.entropy) == pytest.approx((p, entropy), abs=1e-5)
                assert token.change == pytest.approx(advantage * s / num_tokens, abs=1e-6)
                changes.append(advantage * s / num_tokens)
                entropies.append(entropy)
    increase, decrease = sum(c for c in changes if c > 0), -sum(c for c in changes if c < 0)
    assert (inspection.increase, inspection.decrease) == pytest.approx((increase, decrease), rel=1e-4)
    assert inspection.balance == pytest.approx((decrease - increase) / (decrease + increase), rel=1e-3)
    assert inspection.coefficient == pytest.approx(inspection.balance, abs=1e-6)
    assert inspection.entropy == pytest.approx(sum(entropies) / len(entropies), abs=1e-5)
    assert inspection.target is None


def test_settings_make_the_coefficient(make_trainer):
    inspection = inspect(make_trainer(**SETTINGS, flow_strength=0.5, flow_entropy_target=2.0))
    expected = 0.5 * inspection.balance + 4.0 * (2.0 - inspection.entropy) / 2.0
    assert inspection.coefficient == pytest.approx(max(-0.5, min(0.5, expected)), abs=1e-5)
    assert inspection.target == 2.0


def test_a_second_model_measures_the_same_tokens(make_trainer):
    other = make_model(initializer_range=0.3)
    inspection = inspect(make_trainer(**SETTINGS), make_trainer(**SETTINGS, model=other))
    for prompt, completions in inspection.groups:
        for completion in completions:
            for token, (p, entropy, _) in zip(completion.tokens, exact(other, prompt, completion), strict=True):
                assert (token.other_probability, token.other_entropy) == pytest.approx((p, entropy), abs=1e-5)
    assert inspection == inspect(make_trainer(**SETTINGS), make_trainer(**SETTINGS, model=other)), "seeded"


def test_no_reward_and_no_flow(make_trainer):
    inspection = inspect(make_trainer(**SETTINGS, reward=lambda completions, **kwargs: [None] * len(completions)))
    assert all(completion.reward is None for _, completions in inspection.groups for completion in completions)
    assert (inspection.increase, inspection.decrease, inspection.balance) == (0.0, 0.0, 0.0)
    assert math.isfinite(inspection.entropy)
