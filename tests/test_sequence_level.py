"""Strictly on-policy, sequence-level importance sampling is the update of token level: stock GRPO's own gradient."""

import logging

import pytest
import torch
import vllm_stand_in
from conftest import KeepGradient, make_model, relative_error, weights_after
from independent import ONE_STEP
from test_trainer_gradient import LOSS_TYPES, rollout
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from opefo_trl import OPEFOConfig


GRPO = {"trainer_class": GRPOTrainer, "config_class": GRPOConfig}
MONITOR = {"config_class": lambda **settings: OPEFOConfig(flow_strength=0.0, **settings)}
SEQUENCE = {**ONE_STEP, "importance_sampling_level": "sequence"}


def gradient(make_trainer, **settings):
    keep = KeepGradient()
    trainer = make_trainer(callbacks=[keep], **settings)
    trainer.train()
    return keep.gradient, trainer


def check_equals_stock(make_trainer, **settings):
    """The stock gradient at sequence level, and not by chance that of a token level with the same factors."""
    expected, _ = gradient(make_trainer, **GRPO, **settings)
    actual, trainer = gradient(make_trainer, **MONITOR, **settings)
    assert trainer.importance_sampling_level == "token" and trainer.args.importance_sampling_level == "sequence"
    assert sum(g.square().sum() for g in expected.values()) > 1e-6
    assert relative_error(actual, expected) < 2e-6
    assert trainer.state.log_history[0]["entropy_flow/seam_error"] < 1e-5
    return expected


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_equals_stock(make_trainer, loss_type):
    check_equals_stock(make_trainer, loss_type=loss_type, **SEQUENCE)


@pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "luspo"])
def test_with_tool_tokens(make_trainer, loss_type):
    check_equals_stock(make_trainer, loss_type=loss_type, rollout_func=rollout, **SEQUENCE)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_with_an_entropy_mask(make_trainer, loss_type):
    """Every token of a sequence carries the share of its tokens that the mask keeps."""
    settings = {"loss_type": loss_type, "top_entropy_quantile": 0.4, **ONE_STEP}
    at_sequence = check_equals_stock(make_trainer, importance_sampling_level="sequence", **settings)
    at_token, _ = gradient(make_trainer, **GRPO, **settings)
    # cispo and vespo carry ln p itself, so that the mask is a token's at both levels
    assert (relative_error(at_token, at_sequence) > 1e-3) == (loss_type not in ("cispo", "vespo"))


@pytest.mark.parametrize(
    ("loss_type", "correction"),
    [(loss_type, "token_truncate") for loss_type in LOSS_TYPES]
    + [("grpo", "token_mask"), ("grpo", "sequence_mask"), ("dapo", "sequence_truncate")],
)
def test_with_a_sampler_ratio(make_trainer, monkeypatch, tmp_path, loss_type, correction):
    """Every token of a sequence carries the mean of its tokens' ratios."""
    vllm_stand_in.install(monkeypatch)
    make_model().save_pretrained(tmp_path / "model")

    def build(**settings):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        return make_trainer(model=model, use_vllm=True, vllm_mode="colocate", **settings)

    settings = {"vllm_importance_sampling_mode": correction, "vllm_importance_sampling_clip_max": 1.2}
    check_equals_stock(build, loss_type=loss_type, **settings, **SEQUENCE)


def test_with_a_reference(make_trainer, tmp_path):
    make_model().save_pretrained(tmp_path / "model")

    def build(**settings):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        trainer = make_trainer(model=model, beta=0.3, use_bias_correction_kl=False, **settings)
        with torch.no_grad():  # or the penalty has no slope at the first step
            trainer.ref_model.lm_head.weight.mul_(1.5)
        return trainer

    check_equals_stock(build, loss_type="grpo", **SEQUENCE)


@pytest.mark.parametrize("loss_type", ["grpo", "luspo"])
def test_balance_is_that_of_token_level_bit_for_bit(make_trainer, loss_type):
    at_sequence = weights_after(make_trainer(loss_type=loss_type, importance_sampling_level="sequence"))
    at_token = weights_after(make_trainer(loss_type=loss_type))
    assert all(torch.equal(value, at_sequence[name]) for name, value in at_token.items())


def test_it_is_said_once(make_trainer, caplog):
    with caplog.at_level(logging.WARNING):
        make_trainer(importance_sampling_level="sequence").train()
    assert caplog.text.count("sequence-level importance sampling is run per token") == 1
