"""What every way of training that stock GRPO offers must pass: the checks, and the arguments of a trainer."""

import functools

from chats import chat_reward, make_chat_model, make_chat_tokenizer, make_chats
from conftest import (
    SETTINGS,
    KeepGradient,
    equal,
    letter_reward,
    make_dataset,
    make_model,
    make_tokenizer,
    weights_after,
)
from independent import ONE_STEP, check_first_step
from trl import GRPOConfig, GRPOTrainer

from opefo_trl import OPEFOConfig, OPEFOTrainer


monitor = functools.partial(OPEFOConfig, flow_strength=0.0)


def build(trainer_class, config_class, folder, arguments, **settings):
    defaults = {
        "output_dir": str(folder / "run"),
        "per_device_train_batch_size": 8,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "seed": 7,
    }
    return trainer_class(args=config_class(**{**SETTINGS, **defaults, **settings}), **arguments)


def check_monitor(folder, way, **settings):
    """Two steps of a way of training: a function that makes the arguments of a trainer. Returns stock's trainer."""
    stock = build(GRPOTrainer, GRPOConfig, folder, way(), **settings)
    before = {name: value.clone() for name, value in stock.model.state_dict().items()}
    weights = weights_after(stock)
    assert not equal(weights, before), "something must be trained"
    monitored = build(OPEFOTrainer, monitor, folder, way(), **settings)
    assert equal(weights_after(monitored), weights)
    logs = monitored.state.log_history[:2]
    assert [log["entropy_flow/coefficient"] for log in logs] == [0, 0]
    assert sum(log["entropy_flow/decrease"] for log in logs) > 0
    return stock


def check(folder, way, **settings):
    """Both identities. Returns stock's trainer and the one whose first step was checked."""
    stock = check_monitor(folder, way, **settings)
    keep = KeepGradient()
    arguments = {**way(), "callbacks": [keep]}
    balanced = build(OPEFOTrainer, OPEFOConfig, folder, arguments, **{**settings, **ONE_STEP})
    check_first_step(balanced, keep)
    return stock, balanced


def logged(trainer, name):
    return [log[name] for log in trainer.state.log_history if name in log]


def plain(**arguments):
    return {
        "model": make_model(),
        "reward_funcs": letter_reward,
        "train_dataset": make_dataset(),
        "processing_class": make_tokenizer(),
        **arguments,
    }


def chat(**arguments):
    return {
        "model": make_chat_model(),
        "reward_funcs": chat_reward,
        "train_dataset": make_chats(),
        "processing_class": make_chat_tokenizer(),
        **arguments,
    }
