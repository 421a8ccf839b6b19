"""What is wrong with a run is said while it runs, once, and again at its end."""

import pytest
from conftest import letter_reward, make_dataset

from opefo_trl.watching import LOGS_JUDGED, PATIENCE, PATIENCE_WHEN_NOT_LEARNING


def silent_reward(completions, log_metric=None, **kwargs):
    log_metric("math_reward/answered", 0.0)
    return letter_reward(completions)


def late_reward(completions, log_metric=None, trainer_state=None, **kwargs):
    log_metric("math_reward/answered", float(trainer_state.global_step > 0))
    return letter_reward(completions)


def no_reward(completions, **kwargs):
    return [None] * len(completions)


def same_reward(completions, **kwargs):
    return [1.0] * len(completions)


def warnings(caplog, words):
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        (silent_reward, "The model is not learning: no completion has given an answer."),
        (no_reward, "The model is not learning: no completion has received a reward."),
    ],
)
def test_a_run_that_learns_nothing_says_so(make_trainer, caplog, reward, sentence):
    steps = PATIENCE_WHEN_NOT_LEARNING + 1
    with caplog.at_level("WARNING"):
        make_trainer(reward=reward, max_steps=steps, logging_steps=1).train()
    early, late = warnings(caplog, sentence)
    assert f"Step {PATIENCE_WHEN_NOT_LEARNING}: {sentence}" in early
    assert f"At the end, step {steps}: {sentence}" in late


@pytest.mark.parametrize("reward", [late_reward, letter_reward])
def test_a_run_that_lives_says_nothing(make_trainer, caplog, reward):
    with caplog.at_level("WARNING"):
        make_trainer(reward=reward, max_steps=PATIENCE + 1, logging_steps=1).train()
    assert not warnings(caplog, "tep ")


def test_groups_without_variance_are_said_once_and_at_the_end(make_trainer, caplog):
    steps = LOGS_JUDGED + PATIENCE + 2
    with caplog.at_level("WARNING"):
        make_trainer(reward=same_reward, max_steps=steps, logging_steps=1).train()
    early, late = warnings(caplog, "100% of the groups have zero reward variance")
    assert f"Step {LOGS_JUDGED + PATIENCE - 1}: " in early and f"At the end, step {steps}: " in late


def test_few_logs_are_not_judged(make_trainer, caplog):
    with caplog.at_level("WARNING"):
        make_trainer(reward=same_reward, max_steps=PATIENCE + 1, logging_steps=1).train()
    assert not warnings(caplog, "of the groups")


def test_a_resumed_run_remembers_its_logs(make_trainer, caplog, tmp_path):
    settings = {"reward": same_reward, "logging_steps": 1, "output_dir": str(tmp_path), "save_steps": LOGS_JUDGED}
    settings |= {"save_strategy": "steps", "lr_scheduler_type": "constant"}
    make_trainer(max_steps=LOGS_JUDGED, **settings).train()
    caplog.clear()
    with caplog.at_level("WARNING"):
        make_trainer(max_steps=LOGS_JUDGED + PATIENCE, **settings).train(resume_from_checkpoint=True)
    early, late = warnings(caplog, "100% of the groups")
    assert f"Step {LOGS_JUDGED + PATIENCE}: " in early and "At the end" in late


def test_an_evaluation_before_any_training(make_trainer, caplog):
    trainer = make_trainer(eval_dataset=make_dataset(4), per_device_eval_batch_size=4)
    assert trainer.evaluate()["eval_reward"] > 0
    assert not warnings(caplog, "tep ")
