"""The trainer against plain GRPO, in evaluation, and where there is nothing to balance."""

import inspect

import pytest
import torch
from conftest import METRICS, SYMBOLS, make_dataset, make_model, weights_after
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from opefo_trl import OPEFOConfig, OPEFOTrainer


def test_lora_with_reference_measures_the_policy(make_trainer):
    """With beta > 0 the reference pass runs through the same model with its adapter off: it must not be recorded."""
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    logs = []
    for beta in (0.0, 0.1):
        trainer = make_trainer(peft_config=lora, beta=beta, max_steps=1)
        trainer.train()
        logs.append(trainer.state.log_history[0])
    assert logs[1]["kl"] > 0, "the reference must differ from the policy"
    for name in METRICS:
        assert logs[0][f"entropy_flow/{name}"] == logs[1][f"entropy_flow/{name}"]


@pytest.mark.parametrize("estimator", ["sampled", "paper"])
def test_cheap_estimators(make_trainer, estimator):
    trainer = make_trainer(flow_estimator=estimator, max_steps=1)
    trainer.train()
    (batch,) = trainer._buffered_inputs
    logps, entropies = batch["flow_logps"], batch["flow_entropies"]
    p = logps.exp()
    expected = {"sampled": -p * (logps + entropies), "paper": -((1 - p) ** 2) * (logps + entropies)}[estimator]
    torch.testing.assert_close(batch["flow_sensitivities"], expected * batch["completion_mask"], rtol=1e-6, atol=0)
    assert batch["flow_sensitivities"].abs().sum() > 0


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 2, "beta": 0.1},
        {"peft_config": LoraConfig(r=4, lora_dropout=0.2, target_modules=["q_proj", "v_proj"])},
        {"mask_truncated_completions": True, "loss_type": "vespo"},
        {"gradient_checkpointing": True, "loss_type": "grpo"},
    ],
    ids=["plain", "accumulation and reference", "LoRA with dropout", "masked", "gradient checkpointing"],
)
def test_strength_zero_is_grpo_bit_for_bit(make_trainer, settings, tmp_path):
    saved = make_model()  # TRL loads the reference model of beta > 0 from the folder the policy came from
    saved.save_pretrained(tmp_path / "model")
    settings = {"max_steps": 4, **settings}

    def build(**classes):
        return make_trainer(model=type(saved).from_pretrained(tmp_path / "model"), **classes, **settings)

    grpo = weights_after(build(trainer_class=GRPOTrainer, config_class=GRPOConfig))
    monitored = build(config_class=lambda **kw: OPEFOConfig(flow_strength=0.0, **kw))
    opefo = weights_after(monitored)
    assert grpo.keys() == opefo.keys()
    assert all(torch.equal(grpo[name], opefo[name]) for name in grpo)
    assert all(log["entropy_flow/coefficient"] == 0 for log in monitored.state.log_history[:4])
    assert sum(log["entropy_flow/decrease"] for log in monitored.state.log_history[:4]) > 0, "still monitored"
    balanced = weights_after(build())
    assert any(not torch.equal(grpo[name], balanced[name]) for name in grpo), "strength 1 must differ"


def test_target_term(make_trainer):
    trainer = make_trainer(flow_entropy_target=1.5, flow_entropy_gain=0.3, flow_strength=0.5, max_steps=2)
    trainer.train()
    for log in trainer.state.log_history[:2]:
        expected = -0.5 * log["entropy_flow/net"] + 0.3 * (1.5 - log["entropy"]) / 1.5
        assert log["entropy_flow/coefficient"] == pytest.approx(expected, abs=1e-6)
        assert log["entropy_flow/target"] == 1.5


def test_target_ratio_is_set_by_the_first_batch(make_trainer):
    trainer = make_trainer(flow_entropy_target_ratio=0.8, max_steps=2)
    trainer.train()
    assert trainer.entropy_target == pytest.approx(0.8 * trainer.state.log_history[0]["entropy"], rel=1e-6)
    assert [log["entropy_flow/target"] for log in trainer.state.log_history[:2]] == 2 * [trainer.entropy_target]


def test_off_policy_mode_keeps_old_logps_and_still_balances(make_trainer):
    with pytest.warns(UserWarning, match="strict_on_policy=False"):
        trainer = make_trainer(num_iterations=2, strict_on_policy=False, max_steps=2)
    trainer.train()
    assert "old_per_token_logps" in trainer._buffered_inputs[0]
    torch.testing.assert_close(
        trainer._buffered_inputs[0]["old_per_token_logps"], trainer._buffered_inputs[0]["flow_logps"], rtol=0, atol=0
    )
    assert trainer.state.log_history[0]["entropy_flow/coefficient"] != 0


def test_evaluation_neither_measures_nor_balances(make_trainer):
    trainer = make_trainer(
        eval_dataset=make_dataset(4), eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=4, max_steps=2
    )
    passes = []
    record = trainer.flow_head.record
    trainer.flow_head.record = lambda rows: passes.append((rows, trainer.model.training)) or record(rows)
    trainer.train()
    evaluations = [log for log in trainer.state.log_history if "eval_loss" in log]
    assert len(evaluations) == 2
    assert not any("entropy_flow" in key for log in evaluations for key in log)
    assert [recorded for recorded in passes if recorded[0]] == [(8, True), (8, True)]


def test_no_valid_token(make_trainer):
    """Every completion truncated and masked: nothing to balance, nothing to train, and no number that is not one."""
    trainer = make_trainer(
        generation_kwargs={"suppress_tokens": [SYMBOLS.index("<eos>"), SYMBOLS.index("<pad>")]},
        mask_truncated_completions=True,
        max_steps=2,
        flow_entropy_target_ratio=0.5,
    )
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    end = weights_after(trainer)
    logs = trainer.state.log_history[0]
    masked = [b["completion_mask"].sum().item() for b in trainer._buffered_inputs]
    assert masked == [0], "the last batch must have no valid token"
    assert logs["entropy_flow/coefficient"] == 0 and logs["entropy_flow/net"] == 0
    assert trainer.entropy_target is None and "entropy_flow/target" not in logs
    assert all(torch.equal(start[name], end[name]) for name in start)


def test_constructor_has_the_signature_of_grpo_trainer():
    assert inspect.signature(OPEFOTrainer) == inspect.signature(GRPOTrainer)


@pytest.mark.parametrize("num_positional", range(13))
def test_arguments_reach_grpo_trainer_as_they_came(monkeypatch, num_positional):
    """By position what came by position, by keyword what came by keyword: a class below may want either."""
    names = list(inspect.signature(GRPOTrainer).parameters)
    assert len(names) >= 12
    values = {name: OPEFOConfig(use_cpu=True, bf16=False) if name == "args" else object() for name in names}
    received = []

    def stop(self, *args, **kwargs):
        received.append((args, kwargs))
        raise InterruptedError

    monkeypatch.setattr(GRPOTrainer, "__init__", stop)
    args, kwargs = list(values.values())[:num_positional], dict(list(values.items())[num_positional:])
    with pytest.raises(InterruptedError):
        OPEFOTrainer(*args, **kwargs)
    assert received == [(tuple(args), kwargs)]


def test_plain_grpo_config_is_refused(make_trainer):
    with pytest.raises(TypeError, match="`args` must be an `OPEFOConfig`, got `GRPOConfig`"):
        make_trainer(config_class=GRPOConfig)


def test_model_card_names_the_method(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "OPEFO" in card and "2605.11491" in card and "opefo" in card
