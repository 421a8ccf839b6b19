"""Numbers that are none, and batches with nothing to learn from: each has one defined outcome."""

import itertools
import logging
import math
import re

import pytest
import torch
from conftest import PROMPTS, equal, letter_reward, make_model, weights_after
from trl import GRPOConfig, GRPOTrainer

from opefo_trl import OPEFOTrainer
from opefo_trl.entropy_flow import balance_advantages, flow_coefficient
from opefo_trl.guards import RunStopped, describe_failed_reward


NASTY = [0.0, 1e-45, 1.0, 3e38, math.inf, math.nan]


def rewards_with(value, rows):
    """`letter_reward` with `value` in some rows of each batch."""

    def reward(completions, **kwargs):
        return [value if row in rows else r for row, r in enumerate(letter_reward(completions))]

    return reward


def poisoned(name, value, where):
    """A trainer whose measured batch holds `value` at some places of one of its tensors."""

    class Poisoned(OPEFOTrainer):
        def _measure(self, micro_batches):
            super()._measure(micro_batches)
            for micro_batch in micro_batches:
                micro_batch[name][where] = value

    return Poisoned


@pytest.mark.parametrize("increase, decrease, entropy", list(itertools.product(NASTY, NASTY, [-math.inf, *NASTY])))
def test_coefficient_is_finite_and_bounded_whatever_comes(increase, decrease, entropy):
    values = [torch.tensor(value) for value in (increase, decrease, entropy)]
    for target in (None, 0.5):
        coefficient = flow_coefficient(*values, 1.0, 0.5, target, 4.0)
        assert -0.5 <= coefficient.item() <= 0.5


def test_advantages_without_a_sensitivity_stay():
    advantages = torch.tensor([[2.0], [-2.0]])
    sensitivities = torch.tensor([[math.nan, 1.0], [math.nan, 1.0]])
    balanced = balance_advantages(advantages, sensitivities, torch.tensor(0.25))
    assert balanced.tolist() == [[2.0, 2.5], [-2.0, -1.5]]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("scale_rewards", ["group", "none"])
def test_a_reward_that_is_no_number_counts_as_none(make_trainer, value, scale_rewards):
    """Bit for bit: the rest of the group is compared without it."""
    weights = weights_after(make_trainer(reward=rewards_with(value, [0, 5]), scale_rewards=scale_rewards))
    expected = weights_after(make_trainer(reward=rewards_with(None, [0, 5]), scale_rewards=scale_rewards))
    assert equal(weights, expected)
    assert not equal(weights, weights_after(make_trainer(scale_rewards=scale_rewards)))


def test_infinite_rewards_are_said(make_trainer, caplog):
    with caplog.at_level(logging.WARNING):
        make_trainer(reward=rewards_with(math.inf, [0, 5]), max_steps=1).train()
    assert "2 reward value(s) were infinite at step 0. They are ignored" in caplog.text


@pytest.mark.parametrize("value", [None, 1.0], ids=["None for all", "the same for all"])
def test_nothing_to_learn_changes_nothing(make_trainer, value):
    before = {name: weight.clone() for name, weight in make_model().state_dict().items()}
    trainer = make_trainer(reward=rewards_with(value, range(8)))
    assert equal(weights_after(trainer), before)
    assert [log["entropy_flow/coefficient"] for log in trainer.state.log_history[:-1]] == [0.0] * 3


def test_a_batch_of_one_group_is_balanced(make_trainer):
    trainer = make_trainer(num_generations=8, max_steps=1)
    trainer.train()
    (log, _) = trainer.state.log_history
    assert log["entropy_flow/increase"] > 0 and log["entropy_flow/decrease"] > 0
    expected = -log["entropy_flow/net"]
    assert log["entropy_flow/coefficient"] == pytest.approx(max(-0.5, min(expected, 0.5)))


def test_completions_that_end_at_once(make_trainer):
    """One token each, the same for all: the same training as GRPO's, which is none."""

    def rollout(prompts, trainer):
        prompt_ids = [trainer.processing_class(prompt)["input_ids"] for prompt in prompts]
        return {"prompt_ids": prompt_ids, "completion_ids": [[1]] * len(prompts), "logprobs": [[0.0]] * len(prompts)}

    trainer = make_trainer(rollout_func=rollout)
    weights = weights_after(trainer)
    grpo = make_trainer(GRPOTrainer, GRPOConfig, rollout_func=rollout)
    assert equal(weights, weights_after(grpo))
    assert [log["entropy_flow/coefficient"] for log in trainer.state.log_history[:-1]] == [0.0] * 3


def test_all_completions_masked_with_a_target(make_trainer):
    """No token, so no entropy: the target has nothing to say, and nothing is trained."""
    before = {name: weight.clone() for name, weight in make_model().state_dict().items()}

    def rollout(prompts, trainer):
        prompt_ids = [trainer.processing_class(prompt)["input_ids"] for prompt in prompts]
        ids = [[2 + row % 8] * 5 for row, _ in enumerate(prompts)]  # without an end: cut
        return {"prompt_ids": prompt_ids, "completion_ids": ids, "logprobs": [[0.0] * 5] * len(prompts)}

    trainer = make_trainer(rollout_func=rollout, mask_truncated_completions=True, flow_entropy_target=0.5)
    assert equal(weights_after(trainer), before)
    assert [log["entropy_flow/coefficient"] for log in trainer.state.log_history[:-1]] == [0.0] * 3


def test_rows_of_a_padded_vocabulary_are_tokens_like_others(make_trainer):
    """As in TRL, where softmax and sampling run over them, too: nothing is skipped, and λ is the batch's."""
    model = make_model()
    model.resize_token_embeddings(64)
    trainer = make_trainer(model=model, max_steps=1)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["entropy_flow/skipped"] == 0
    assert log["entropy"] > math.log(30), "21 tokens alone could not have it"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_token_without_a_sensitivity_is_skipped(make_trainer, value):
    """Bit for bit what a sensitivity of 0 gives, and it is counted."""
    where = (torch.tensor([0, 3]), torch.tensor([0, 0]))
    settings = {"max_steps": 2, "shuffle_dataset": False}
    trainer = make_trainer(poisoned("flow_sensitivities", value, where), **settings)
    weights = weights_after(trainer)
    assert equal(weights, weights_after(make_trainer(poisoned("flow_sensitivities", 0.0, where), **settings)))
    assert [log["entropy_flow/skipped"] for log in trainer.state.log_history[:-1]] == [2.0, 2.0]


def test_a_token_without_an_entropy_does_not_count_in_the_mean(make_trainer):
    """With all entropies lost there is no error from the target, with one lost the mean of the others gives it."""
    settings = {"max_steps": 1, "flow_entropy_target": 2.5, "flow_strength": 0.0, "flow_max_coefficient": 0.9}

    def coefficient(trainer_class):
        trainer = make_trainer(trainer_class, **settings)
        trainer.train()
        return trainer.state.log_history[0]["entropy_flow/coefficient"]

    def kept(value, where):
        class Kept(poisoned("flow_entropies", value, where)):
            def _flow_sums(self, inputs):
                self.seen = inputs
                return super()._flow_sums(inputs)

        trainer = make_trainer(Kept, **settings)
        trainer.train()
        inputs, log = trainer.seen, trainer.state.log_history[0]
        known = inputs["completion_mask"].bool() & inputs["flow_entropies"].isfinite()
        return log["entropy_flow/coefficient"], inputs["flow_entropies"][known].mean().item()

    assert coefficient(poisoned("flow_entropies", math.nan, slice(None))) == 0.0
    actual, entropy = kept(math.nan, (0, 0))
    assert actual == pytest.approx(4.0 * (2.5 - entropy) / 2.5, rel=1e-3)
    assert actual != coefficient(OPEFOTrainer)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_lost_log_probability_stops_the_run_before_the_step(make_trainer, value):
    """Even at a padded place: 0 times NaN is NaN in TRL's masked sum."""
    trainer = make_trainer(poisoned("flow_logps", value, (slice(None), -1)))
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    with pytest.raises(RunStopped, match="At step 0, 8 tokens have .* NaN or infinite. .* Resume from an earlier"):
        trainer.train()
    assert equal(trainer.model.state_dict(), before)


def test_a_lost_reference_stops_the_run(make_trainer, tmp_path):
    make_model().save_pretrained(tmp_path)
    trainer = make_trainer(model=str(tmp_path), beta=0.1)
    torch.nn.init.constant_(trainer.ref_model.model.norm.weight, math.nan)
    with pytest.raises(RunStopped, match="tokens have a log-probability .* that is NaN or infinite"):
        trainer.train()


def test_lost_weights_stop_the_run(make_trainer):
    trainer = make_trainer()
    torch.nn.init.constant_(trainer.model.model.norm.weight, math.nan)
    with pytest.raises(RunStopped, match="weights are NaN or infinite at step 0. Resume from an earlier checkpoint"):
        trainer.train()


def test_other_errors_of_a_rollout_are_not_renamed(make_trainer):
    def rollout(prompts, trainer):
        raise RuntimeError("the sampler is gone")

    with pytest.raises(RuntimeError, match="^the sampler is gone$") as raised:
        make_trainer(rollout_func=rollout).train()
    assert not isinstance(raised.value, RunStopped)


def test_a_completion_without_a_token_is_no_training_of_trls(make_trainer):
    """Only a `rollout_func` can make one; should TRL take it one day, this says so."""

    def rollout(prompts, trainer):
        prompt_ids = [trainer.processing_class(prompt)["input_ids"] for prompt in prompts]
        return {"prompt_ids": prompt_ids, "completion_ids": [[]] * len(prompts), "logprobs": [[]] * len(prompts)}

    with pytest.raises(IndexError):
        make_trainer(rollout_func=rollout).train()


def failing_reward(completions, **kwargs):
    return [1.0] * len(PROMPTS[10])


def short_reward(completions, **kwargs):
    return [1.0]


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        (failing_reward, r"in failing_reward \(.*test_poisoned.py, line \d+\): IndexError: list index out of range"),
        (failing_reward, "A reward function failed at step 0"),
    ],
)
def test_a_reward_that_fails_is_described(make_trainer, reward, sentence):
    """From Python the exception passes as it is, so that a script can catch its own; the command says the sentence."""
    with pytest.raises((IndexError, ValueError, TypeError)) as raised:
        make_trainer(reward=reward).train()
    assert not isinstance(raised.value, RunStopped)
    assert re.search(sentence, describe_failed_reward(raised.value, step=0))


async def async_reward(completions, **kwargs):
    return ["good"] * len(completions)


class RewardObject:
    def __call__(self, completions, **kwargs):
        return {"reward": 1.0}


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        (
            short_reward,
            r"`short_reward` \(.*test_poisoned.py, line \d+\) returned 1 value\(s\)\. It must return a list of 8",
        ),
        (
            rewards_with("good", [1]),
            r"`reward` \(.*line \d+\) returned a list that contains 'good'. It must return a list of 8",
        ),
        (
            lambda completions, **kwargs: None,
            r"returned None. It must return a list of 8 values, one for each",
        ),
        (async_reward, r"`async_reward` \(.*line \d+\) returned a list that contains 'good'"),
        (RewardObject(), r"`RewardObject` \(.*line \d+\) returned 1 value\(s\)\. It must return a list of 8 values"),
    ],
)
def test_a_reward_that_returns_something_else_is_named(make_trainer, reward, sentence):
    with pytest.raises(RunStopped, match=sentence):
        make_trainer(reward=reward).train()


def test_other_exceptions_are_not_put_on_a_reward(make_trainer):
    def rollout(prompts, trainer):
        raise KeyError("prompt_ids")

    with pytest.raises(KeyError) as raised:
        make_trainer(rollout_func=rollout).train()
    assert describe_failed_reward(raised.value, step=0) is None
