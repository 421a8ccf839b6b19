"""A run that learns nothing says so: while it runs, and at its end."""

import pytest
from conftest import letter_reward

from opefo_trl.guards import LOGS_BEFORE_A_WORD


def silent_reward(completions, log_metric=None, **kwargs):
    log_metric("math_reward/answered", 0.0)
    return letter_reward(completions)


def late_reward(completions, log_metric=None, trainer_state=None, **kwargs):
    log_metric("math_reward/answered", float(trainer_state.global_step > 0))
    return letter_reward(completions)


def no_reward(completions, **kwargs):
    return [None] * len(completions)


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        (silent_reward, "The model is not learning: no completion has given an answer up to step {step}. "),
        (no_reward, "The model is not learning: no completion has received a reward up to step {step}. "),
    ],
)
def test_a_dead_run_says_so(make_trainer, caplog, reward, sentence):
    steps = LOGS_BEFORE_A_WORD + 1
    with caplog.at_level("WARNING"):
        make_trainer(reward=reward, max_steps=steps, logging_steps=1).train()
    said = [record.getMessage() for record in caplog.records if "The model is not learning" in record.getMessage()]
    assert len(said) == 2 and sentence.format(step=5) in said[0] and sentence.format(step=6) in said[1]


@pytest.mark.parametrize("reward", [late_reward, letter_reward])
def test_a_run_that_lives_says_nothing(make_trainer, caplog, reward):
    with caplog.at_level("WARNING"):
        make_trainer(reward=reward, max_steps=LOGS_BEFORE_A_WORD + 1, logging_steps=1).train()
    assert "not learning" not in caplog.text


def test_completions_that_are_cut(make_trainer, caplog):
    with caplog.at_level("WARNING"):
        trainer = make_trainer(reward=silent_reward, max_steps=1, logging_steps=1, max_completion_length=1)
        trainer.train()
    assert "Raise `max_completion_length`, which cut most of them" in caplog.text
