"""The trainer with vLLM as TRL sets it up, colocated and behind a server; `vllm_stand_in` says what stands in."""

import copy
import itertools
import os
from unittest import mock

import pytest
import torch
import vllm_stand_in
from conftest import KeepGradient, make_dataset, make_model, weights_after
from independent import ONE_STEP, check_first_step
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from opefo_trl import OPEFOConfig


GRPO = {"trainer_class": GRPOTrainer, "config_class": GRPOConfig}
MONITOR = {"config_class": lambda **settings: OPEFOConfig(flow_strength=0.0, **settings)}
ADAPTED = "model.layers.0.self_attn.q_proj.weight"
# Two micro-batches to a rollout batch
SPLIT = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}


def make_lora(dropout: float = 0.0) -> LoraConfig:
    return LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=dropout,
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )


@pytest.fixture
def make_vllm_trainer(make_trainer, monkeypatch, tmp_path):
    """Build a trainer and what stands for vLLM, an `LLM` or a `Server`; both start from the model in one folder."""
    vllm_stand_in.install(monkeypatch)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = str(tmp_path / "model")
    make_model().save_pretrained(folder)
    servers = []

    def build(mode, peft_config=None, **settings):
        if mode == "server":
            servers.append(vllm_stand_in.serve(monkeypatch, folder))
            settings["vllm_server_base_url"] = servers[-1].url
        model = AutoModelForCausalLM.from_pretrained(folder)
        with mock.patch.dict(os.environ):  # in colocate mode TRL leaves RANK and the like behind
            trainer = make_trainer(
                model=model,
                peft_config=copy.deepcopy(peft_config),  # PEFT writes the model's folder into it
                use_vllm=True,
                vllm_mode=mode,
                **settings,
            )
        return trainer, servers[-1] if mode == "server" else trainer.vllm_generation.llm

    yield build
    for server in servers:
        server.stop()


@pytest.fixture(params=["colocate", "server"])
def mode(request):
    return request.param


@pytest.mark.parametrize(
    ("loss_type", "correction"),
    [
        ("grpo", "token_truncate"),
        ("grpo", "token_mask"),
        ("grpo", "sequence_truncate"),
        ("grpo", "sequence_mask"),
        ("dapo", "token_truncate"),
        ("dapo", "sequence_mask"),
        ("vespo", "token_truncate"),
    ],
)
def test_gradient_equals_independent_computation(make_vllm_trainer, mode, loss_type, correction):
    keep = KeepGradient()
    trainer, _ = make_vllm_trainer(
        mode,
        loss_type=loss_type,
        vllm_importance_sampling_mode=correction,
        vllm_importance_sampling_clip_max=1.2,
        callbacks=[keep],
        **ONE_STEP,
    )
    check_first_step(trainer, keep)
    batches = trainer._buffered_inputs
    assert all("old_per_token_logps" not in b for b in batches)
    ratios = torch.cat([b["importance_sampling_ratio"] for b in batches])  # (B, T) or (B, 1)
    unknown = torch.cat([b["sampling_per_token_logps"] for b in batches]).isnan()  # (B, T)
    lengths = torch.cat([b["completion_mask"].sum(-1) for b in batches])
    assert unknown.any() and ratios.isfinite().all(), "some log-probabilities must be NaN, and no ratio"
    assert len(ratios.unique()) > 2, "the correction must have something to correct"
    assert len(lengths.unique()) > 2, "the lengths must be uneven"
    if correction.startswith("token"):
        assert (ratios[unknown] == 1).all()


def test_gradient_with_lora_and_temperature(make_vllm_trainer, mode):
    keep = KeepGradient()
    trainer, _ = make_vllm_trainer(mode, peft_config=make_lora(), temperature=0.7, callbacks=[keep], **ONE_STEP)
    check_first_step(trainer, keep, temperature=0.7)


def test_gradient_without_correction(make_vllm_trainer, mode):
    keep = KeepGradient()
    trainer, _ = make_vllm_trainer(mode, vllm_importance_sampling_correction=False, callbacks=[keep], **ONE_STEP)
    check_first_step(trainer, keep)
    assert all("importance_sampling_ratio" not in b for b in trainer._buffered_inputs)


@pytest.mark.parametrize("correction", [True, False])
def test_passes_through_the_backbone(make_vllm_trainer, mode, correction):
    """Where TRL runs a pass over the rollout batch none is added, elsewhere one, in chunks of a micro-batch."""
    passes = {}
    for name, classes in {"grpo": GRPO, "opefo": {}}.items():
        trainer, _ = make_vllm_trainer(mode, vllm_importance_sampling_correction=correction, **SPLIT, **classes)
        seen = passes[name] = []
        trainer.model.model.register_forward_hook(
            lambda module, args, outputs, seen=seen: seen.append(
                (outputs.last_hidden_state.size(0), torch.is_grad_enabled())
            )
        )
        trainer.train()
    measured, trained = [(4, False)] * 2, [(4, True)] * 2
    assert passes["grpo"] == ((measured + trained) if correction else trained) * 3
    assert passes["opefo"] == (measured + trained) * 3


def round_without_gradient(module, args, outputs):
    """Makes two passes of the same rows differ by rounding, as in other chunks on a GPU; on CPU they do not."""
    if not torch.is_grad_enabled():
        outputs.last_hidden_state = outputs.last_hidden_state.bfloat16().float()
    return outputs


@pytest.mark.parametrize("cause", ["rounding", "dropout"])
def test_ratio_is_exactly_one(make_vllm_trainer, monkeypatch, mode, cause):
    """TRL's ratio of the policy to itself, where its recomputation is off: by rounding, or by another dropout mask."""

    def train(classes, **settings):
        if cause == "dropout":
            settings["peft_config"] = make_lora(dropout=0.2)
        trainer, _ = make_vllm_trainer(mode, **SPLIT, **settings, **classes)
        if cause == "rounding":
            trainer.model.model.register_forward_hook(round_without_gradient)
        trainer.train()
        return trainer.state.log_history

    log_ratios = []
    gamma_weights = GRPOTrainer.get_gamma_weights

    def keep_log_ratio(log_ratio_per_token, mask, **kwargs):
        if log_ratio_per_token.requires_grad:  # from TRL's loss, not from the flow's weights
            log_ratios.append((log_ratio_per_token * mask).detach().abs().max().item())
        return gamma_weights(log_ratio_per_token=log_ratio_per_token, mask=mask, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "get_gamma_weights", staticmethod(keep_log_ratio))
    largest, clipped = {}, {}
    for name, classes in {"grpo": GRPO, "opefo": {}}.items():
        log_ratios.clear()
        train(classes, loss_type="vespo", vllm_importance_sampling_mode="token_truncate")
        assert len(log_ratios) == 6, "two micro-batches in each of three steps"
        largest[name] = max(log_ratios)
        # with epsilon 0 TRL counts a ratio off 1 as clipped, above or below by the sign of its advantage
        logs = train(classes, loss_type="dapo", epsilon=0.0)
        clipped[name] = max(log["clip_ratio/region_mean"] for log in logs[:3])
    assert largest["grpo"] > 0 and clipped["grpo"] > 0, "the recomputation must differ, or the test shows nothing"
    assert largest["opefo"] == 0 and clipped["opefo"] == 0


@pytest.mark.parametrize(
    "settings",
    [
        SPLIT,
        {"peft_config": make_lora(), "beta": 0.1},
        # not with TRL's correction: dropout makes the ratio, which is exactly 1 here, another one in GRPO
        {"peft_config": make_lora(dropout=0.2), "vllm_importance_sampling_correction": False},
    ],
    ids=["accumulation", "LoRA with reference", "LoRA with dropout"],
)
def test_strength_zero_is_grpo_bit_for_bit(make_vllm_trainer, mode, settings):
    """Bit for bit, since TRL recomputes in chunks of a micro-batch: on these shapes, its ratio too is 1."""
    ends = {
        name: weights_after(make_vllm_trainer(mode, **settings, **classes)[0])
        for name, classes in {"grpo": GRPO, "monitored": MONITOR, "balanced": {}}.items()
    }
    assert all(torch.equal(weight, ends["monitored"][name]) for name, weight in ends["grpo"].items())
    assert any(not torch.equal(weight, ends["balanced"][name]) for name, weight in ends["grpo"].items())


class KeepPolicies(TrainerCallback):
    """Keeps the weights that each step starts from, an adapter merged into them, under their names on disk."""

    def __init__(self):
        self.policies = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        weights = {
            name.replace(".base_layer", ""): weight.clone()
            for name, weight in base.state_dict().items()
            if "lora_" not in name
        }
        for name, module in base.named_modules():
            if hasattr(module, "lora_A"):
                delta = module.lora_B["default"].weight @ module.lora_A["default"].weight  # (out, in)
                weights[f"{name}.weight"] += module.scaling["default"] * delta.detach()
        self.policies.append(weights)


@pytest.mark.parametrize("peft_config", [None, make_lora()], ids=["full", "LoRA"])
def test_sampler_has_the_policys_weights(make_vllm_trainer, monkeypatch, mode, peft_config):
    monkeypatch.setattr(vllm_stand_in.Engine, "noise", 0.0)
    keep = KeepPolicies()
    trainer, vllm = make_vllm_trainer(mode, peft_config=peft_config, temperature=0.7, callbacks=[keep])
    on_disk = {name: weight.clone() for name, weight in vllm.engine.model.state_dict().items()}
    trainer.train()
    assert len(vllm.engine.sampled_with) == len(keep.policies) == 3
    for sampler, policy in zip(vllm.engine.sampled_with, keep.policies, strict=True):
        assert sampler.keys() == policy.keys()
        for name in policy:
            torch.testing.assert_close(sampler[name], policy[name], rtol=0, atol=0 if peft_config is None else 1e-7)
    sampled_with = [on_disk, *vllm.engine.sampled_with] if peft_config else vllm.engine.sampled_with
    for before, after in itertools.pairwise(sampled_with):
        assert not torch.equal(before[ADAPTED], after[ADAPTED]), "the policy must move, or nothing was synced"
    # so without noise what it says of its samples is what the policy says, at the temperature
    for log in trainer.state.log_history[:3]:
        assert 0 < log["sampling/sampling_logp_difference/max"] < 1e-5


def test_sleep_mode(make_vllm_trainer):
    """Asleep, the engine forgets its weights; two rollout batches a step, so that the second must bring them back."""
    settings = {**SPLIT, "gradient_accumulation_steps": 4, "steps_per_generation": 2, "max_steps": 2}
    expected = weights_after(make_vllm_trainer("colocate", **settings)[0])
    trainer, llm = make_vllm_trainer("colocate", vllm_enable_sleep_mode=True, **settings)
    actual = weights_after(trainer)
    rollout = ["wake_up weights", "load_weights", "reset_prefix_cache", "wake_up kv_cache", "generate", "sleep"]
    assert llm.calls == ["sleep", *rollout * 4]
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_evaluation_is_grpos(make_vllm_trainer, mode):
    logs, calls = {}, []
    for name, classes in {"grpo": GRPO, "opefo": {}}.items():
        trainer, _ = make_vllm_trainer(mode, eval_dataset=make_dataset(4), per_device_eval_batch_size=8, **classes)
        if name == "opefo":
            record = trainer.flow_head.record
            trainer.flow_head.record = lambda rows, record=record: calls.append(rows) or record(rows)
        trainer.evaluate()
        (log,) = trainer.state.log_history
        timing = ("time", "per_second")
        logs[name] = {key: value for key, value in log.items() if not key.endswith(timing)}
    assert logs["opefo"] == logs["grpo"] and logs["grpo"]["eval_loss"] != 0
    assert not any(calls), "nothing is recorded"
