"""The trainer against independent computations and against plain GRPO."""

import copy
import inspect

import pytest
import torch
from conftest import SYMBOLS, letter_reward, make_dataset, make_model
from peft import LoraConfig, PeftModel
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from opefo_trl import OPEFOConfig, OPEFOTrainer
from opefo_trl.entropy_flow import entropy_sensitivity


LOSS_TYPES = ["grpo", "sapo", "bnpo", "dr_grpo", "luspo", "dapo", "cispo", "vespo"]
METRICS = ["increase", "decrease", "net", "coefficient", "increase_share"]


class KeepGradient(TrainerCallback):
    """Keeps the policy before the first optimizer step and the gradient that the step takes."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.policy = copy.deepcopy(model)
            base = self.policy.get_base_model() if isinstance(model, PeftModel) else self.policy
            del base.forward  # TRL's patch and ours: what remains is the model's own

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.gradient = {n: p.grad.double().clone() for n, p in model.named_parameters() if p.requires_grad}


def independent_flow(trainer, batches, policy, temperature):
    """
    P, N and λ of one rollout batch; adds the gradient of −Σ c·A'·ln p to the policy. In float64, from full logits,
    without the package's weights.
    """
    steps = trainer.args.gradient_accumulation_steps
    masks = [b["completion_mask"] * b.get("tool_mask", 1) for b in batches]
    tokens = sum(mask.sum().item() for mask in masks) * steps / len(batches)
    per_token = []  # (c, A, s, ln p), each (B, T)
    for batch, mask in zip(batches, masks, strict=True):
        mask = mask.double()  # (B, T)
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        length = mask.size(1)
        # the package's forward, not TRL's fused head: full logits
        logits = policy(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1] / temperature  # (B, T, V)
        logps = logits.log_softmax(-1).gather(-1, batch["completion_ids"].unsqueeze(-1)).squeeze(-1)  # (B, T)
        with torch.no_grad():
            s = entropy_sensitivity(logits, batch["completion_ids"])  # (B, T)
            log_pi = logits.log_softmax(-1)
            entropies = -(log_pi.exp() * log_pi).sum(-1)  # (B, T)
        advantages = batch["advantages"].double().unsqueeze(1).expand_as(mask)  # (B, T)
        rows, lengths = mask.size(0), mask.sum(-1, keepdim=True).clamp(min=1)
        weights = {
            "grpo": mask / lengths / rows / steps,
            "sapo": mask / lengths / rows / steps,
            "bnpo": mask / mask.sum().clamp(min=1) / steps,
            "dr_grpo": mask / rows / trainer.max_completion_length / steps,
            "luspo": mask / rows / steps,
            "dapo": mask / tokens,
            "cispo": mask / tokens * 0.2,  # clipped above at epsilon_high, 0.2 by default
            "vespo": mask / tokens,
        }[trainer.loss_type]
        if trainer.top_entropy_quantile < 1:
            kept = entropies[mask.bool()].sort().values
            # linear interpolation between order statistics, as `torch.quantile`
            position = (1 - trainer.top_entropy_quantile) * (len(kept) - 1)
            low = int(position)
            threshold = kept[low] + (position - low) * (kept[min(low + 1, len(kept) - 1)] - kept[low])
            weights = weights * (entropies >= threshold)
        if trainer.off_policy_mask_threshold is not None:
            drift = ((batch["sampling_per_token_logps"] - logps) * mask).sum(-1, keepdim=True) / lengths
            weights = weights * ((advantages >= 0) | (drift <= trainer.off_policy_mask_threshold))
        per_token.append((weights, advantages, s, logps))
    flow = torch.cat([(w * a * s).flatten() for w, a, s, _ in per_token])
    increase, decrease = flow[flow > 0].sum(), -flow[flow < 0].sum()
    coefficient = ((decrease - increase) / (decrease + increase)).clamp(-0.5, 0.5)
    loss = 0
    for weights, advantages, s, logps in per_token:
        scale = torch.where(advantages * s > 0, 1 + coefficient, 1 - coefficient)
        loss = loss - (weights * advantages * scale * logps).sum()
    loss.backward()
    return increase.item(), decrease.item(), coefficient.item()


def relative_error(actual: dict, expected: dict) -> float:
    assert actual.keys() == expected.keys()
    difference = sum((actual[n] - expected[n]).square().sum() for n in actual)
    return (difference / sum(g.square().sum() for g in expected.values())).sqrt().item()


def check_first_step(trainer, keep, temperature=1.0):
    rollouts = []
    flow_coefficient = trainer._flow_coefficient
    trainer._flow_coefficient = lambda batches: rollouts.append(batches) or flow_coefficient(batches)
    trainer.train()
    policy = keep.policy.double()
    flows = [independent_flow(trainer, batches, policy, temperature) for batches in rollouts]
    # the log of a step is the mean over its rollout batches
    increase, decrease, coefficient = (sum(values) / len(values) for values in zip(*flows, strict=True))
    logs = trainer.state.log_history[0]
    assert logs["entropy_flow/increase"] == pytest.approx(increase, rel=2e-5)
    assert logs["entropy_flow/decrease"] == pytest.approx(decrease, rel=2e-5)
    assert logs["entropy_flow/coefficient"] == pytest.approx(coefficient, abs=1e-5)
    assert abs(coefficient) > 1e-3, "the batch must need balancing, or the test shows nothing"
    expected = {name: p.grad for name, p in policy.named_parameters() if p.requires_grad}
    assert relative_error(keep.gradient, expected) < 1e-6
    return logs


ONE_STEP = {"max_steps": 1, "max_grad_norm": 0.0, "gradient_accumulation_steps": 2}


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_gradient_equals_independent_computation(make_trainer, loss_type):
    keep = KeepGradient()
    trainer = make_trainer(loss_type=loss_type, callbacks=[keep], **ONE_STEP)
    check_first_step(trainer, keep)
    lengths = torch.cat([b["completion_mask"].sum(-1) for b in trainer._buffered_inputs])
    assert len(lengths.unique()) > 2, "the lengths must be uneven"


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo"])
def test_gradient_with_masked_rows_and_zero_variance_groups(make_trainer, loss_type):
    def one_dull_group(prompts, completions, **kwargs):
        rewards = letter_reward(completions)
        return [1.0 if prompt == prompts[0] else r for prompt, r in zip(prompts, rewards, strict=True)]

    keep = KeepGradient()
    trainer = make_trainer(
        loss_type=loss_type, reward=one_dull_group, mask_truncated_completions=True, callbacks=[keep], **ONE_STEP
    )
    check_first_step(trainer, keep)
    batches = trainer._buffered_inputs
    assert any((b["completion_mask"].sum(-1) == 0).any() for b in batches), "a row must be all masked"
    assert sum((b["advantages"] == 0).sum() for b in batches) >= 4, "a group must have no variance"


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_gradient_of_two_rollout_batches_in_one_step(make_trainer, loss_type):
    keep = KeepGradient()
    settings = {**ONE_STEP, "gradient_accumulation_steps": 4, "steps_per_generation": 2}
    trainer = make_trainer(loss_type=loss_type, callbacks=[keep], **settings)
    check_first_step(trainer, keep)
    assert trainer._step == 4 and len(trainer._buffered_inputs) == 2


def test_gradient_with_temperature(make_trainer):
    keep = KeepGradient()
    check_first_step(make_trainer(temperature=0.7, callbacks=[keep], **ONE_STEP), keep, temperature=0.7)


def test_gradient_with_high_entropy_mask(make_trainer):
    keep = KeepGradient()
    logs = check_first_step(make_trainer(top_entropy_quantile=0.3, callbacks=[keep], **ONE_STEP), keep)
    assert logs["entropy_flow/increase_share"] > 0


def rollout(prompts, trainer):
    """Random completions of uneven lengths, a made-up sampler's log-probabilities, and every third token a tool's."""
    generator = torch.Generator().manual_seed(0)
    completions = [torch.randint(2, 21, (3 + row % 5,), generator=generator).tolist() for row in range(len(prompts))]
    return {
        "prompt_ids": [trainer.processing_class(prompt)["input_ids"] for prompt in prompts],
        "completion_ids": completions,
        "logprobs": [(-6 * torch.rand(len(ids), generator=generator)).tolist() for ids in completions],
        "env_mask": [[int(position % 3 != 2) for position in range(len(ids))] for ids in completions],
    }


@pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")
@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_gradient_with_tool_tokens(make_trainer, loss_type):
    keep = KeepGradient()
    trainer = make_trainer(rollout_func=rollout, loss_type=loss_type, callbacks=[keep], **ONE_STEP)
    check_first_step(trainer, keep)
    masked = [(b["completion_mask"] * (1 - b["tool_mask"])).sum() for b in trainer._buffered_inputs]
    assert sum(masked) > 0, "some tokens must be a tool's"


@pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")
def test_gradient_with_off_policy_mask(make_trainer):
    """Sequences that their sampler found far likelier than the policy does are dropped, and carry no flow."""
    keep = KeepGradient()
    trainer = make_trainer(rollout_func=rollout, off_policy_mask_threshold=0.0, callbacks=[keep], **ONE_STEP)
    trained = []
    flow_sums = trainer._flow_sums
    trainer._flow_sums = lambda inputs: trained.append(trainer._token_weights(inputs).sum(-1) > 0) or flow_sums(inputs)
    check_first_step(trainer, keep)
    kept = torch.cat(trained)
    assert kept.any() and not kept.all(), "some sequences must be dropped, not all"


def test_gradient_with_lora(make_trainer):
    keep = KeepGradient()
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    check_first_step(make_trainer(peft_config=lora, callbacks=[keep], **ONE_STEP), keep)


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


def weights_after(trainer):
    trainer.train()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


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


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_update_is_micro_batch_invariant(make_trainer, loss_type):
    shared = {"max_steps": 1, "loss_type": loss_type, "max_grad_norm": 0.0}
    runs = []
    for batch, accumulation in ((16, 1), (4, 4)):
        keep = KeepGradient()
        trainer = make_trainer(
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, callbacks=[keep], **shared
        )
        trainer.train()
        runs.append((trainer.state.log_history[0], keep.gradient))
    for name in METRICS:
        assert runs[0][0][f"entropy_flow/{name}"] == pytest.approx(runs[1][0][f"entropy_flow/{name}"], rel=1e-5)
    assert relative_error(runs[0][1], runs[1][1]) < 1e-6


def test_target_term(make_trainer):
    trainer = make_trainer(flow_entropy_target=1.5, flow_entropy_gain=0.3, flow_strength=0.5, max_steps=2)
    trainer.train()
    for log in trainer.state.log_history[:2]:
        expected = -0.5 * log["entropy_flow/net"] + 0.3 * (1.5 - log["entropy"]) / 1.5
        assert log["entropy_flow/coefficient"] == pytest.approx(expected, abs=1e-6)


def test_target_ratio_is_set_by_the_first_batch(make_trainer):
    trainer = make_trainer(flow_entropy_target_ratio=0.8, max_steps=2)
    trainer.train()
    assert trainer.entropy_target == pytest.approx(0.8 * trainer.state.log_history[0]["entropy"], rel=1e-6)


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
    assert trainer.entropy_target is None
    assert all(torch.equal(start[name], end[name]) for name in start)


def test_constructor_accepts_every_positional_call_of_grpo_trainer():
    grpo, opefo = (inspect.signature(cls.__init__) for cls in (GRPOTrainer, OPEFOTrainer))
    names = list(grpo.parameters)
    for count in range(2, len(names) + 1):
        bound = opefo.bind(*names[:count])
        bound.apply_defaults()
        passed = [bound.arguments[n] for n in ("self", "model", "reward_funcs", "args")] + list(
            bound.arguments["trl_args"]
        )
        assert passed[:count] == names[:count]
    opefo.bind(**{name: name for name in names})


def test_plain_grpo_config_is_refused(make_trainer):
    with pytest.raises(TypeError, match="`args` must be an `OPEFOConfig`, got `GRPOConfig`"):
        make_trainer(config_class=GRPOConfig)


def test_model_card_names_the_method(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "OPEFO" in card and "2605.11491" in card and "opefo" in card
