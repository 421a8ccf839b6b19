"""The gradient that the trainer takes, against an independent computation, whatever TRL does with a token's weight."""

import math

import pytest
import torch
from conftest import METRICS, KeepGradient, letter_reward, relative_error
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from opefo_trl.entropy_flow import entropy_sensitivity


LOSS_TYPES = ["grpo", "sapo", "bnpo", "dr_grpo", "luspo", "dapo", "cispo", "vespo"]


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
        # the model's own forward, without TRL's fused head: full logits
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
        if trainer.use_vllm:
            log_ratio = torch.nan_to_num(
                (logps - batch["sampling_per_token_logps"]) * mask, nan=0.0
            ).detach()  # (B, T)
            if trainer.loss_type == "vespo":  # a weight per sequence, from its truncated ratios: φ = e^λ w^k e^(−λw)
                bound = math.log(trainer.vllm_importance_sampling_clip_max)
                w = log_ratio.clamp(max=bound).sum(-1, keepdim=True).exp()  # (B, 1)
                power, rate = torch.where(advantages >= 0, 2.0, 3.0), torch.where(advantages >= 0, 3.0, 2.0)
                weights = weights * torch.exp(rate) * w**power * torch.exp(-rate * w)
            elif trainer.vllm_importance_sampling_mode == "token_truncate":
                weights = weights * log_ratio.exp().clamp(max=trainer.vllm_importance_sampling_clip_max)
            else:  # sequence_mask
                ratio = log_ratio.sum(-1, keepdim=True).exp()  # (B, 1)
                weights = weights * ratio * (ratio <= trainer.vllm_importance_sampling_clip_max)
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


class SamplerOfItsOwn:
    """Stands where TRL calls vLLM: random completions with log-probabilities near the policy's, some unknown."""

    def __init__(self, policy):
        self.policy = policy

    def sync_weights(self):
        pass

    def generate(self, prompts, images, num_generations, profiler):
        generator = torch.Generator().manual_seed(0)
        completions, logprobs = [], []
        for row, prompt in enumerate(prompts):
            tokens = torch.randint(2, 21, (3 + row % 5,), generator=generator)
            with torch.no_grad():
                logits = self.policy(input_ids=torch.tensor([[*prompt, *tokens.tolist()]])).logits[
                    0, len(prompt) - 1 : -1
                ]
            logps = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
            noise = 0.3 * torch.randn(len(tokens), generator=generator)
            known = [[value] for value in (logps + noise).tolist()]
            if row == 0:
                known[0] = [None]  # as TRL's vLLM client hands over a NaN
            completions.append(tokens.tolist())
            logprobs.append(known)
        return prompts, completions, logprobs, None


def sampled_by_vllm(trainer):
    # vLLM cannot be installed everywhere, so the trainer learns of it only after it is built
    trainer.use_vllm, trainer._last_loaded_step = True, -1
    trainer.vllm_generation = SamplerOfItsOwn(trainer.model)
    return trainer


@pytest.mark.parametrize(
    ("loss_type", "mode"),
    [
        ("grpo", "token_truncate"),
        ("grpo", "sequence_mask"),
        ("dapo", "token_truncate"),
        ("dapo", "sequence_mask"),
        ("vespo", "token_truncate"),
    ],
)
def test_gradient_with_a_sampler_of_its_own(make_trainer, loss_type, mode):
    keep = KeepGradient()
    trainer = make_trainer(
        loss_type=loss_type,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_max=1.2,
        callbacks=[keep],
        **ONE_STEP,
    )
    check_first_step(sampled_by_vllm(trainer), keep)
    ratios = torch.cat([b["importance_sampling_ratio"].flatten() for b in trainer._buffered_inputs])
    assert (ratios != 1).any() and ratios.isfinite().all()
    assert all("old_per_token_logps" not in b for b in trainer._buffered_inputs), "the policy's own ratio is exactly 1"


def test_no_pass_is_added_where_trl_runs_one(make_trainer):
    passes = {}
    for name, classes in {
        "grpo": {"trainer_class": GRPOTrainer, "config_class": GRPOConfig},
        "opefo": {},
    }.items():
        trainer = sampled_by_vllm(make_trainer(max_steps=2, **classes))
        calls = []
        trainer.model.model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        trainer.train()
        passes[name] = len(calls)
    assert passes["opefo"] == passes["grpo"] > 0


def test_gradient_with_lora(make_trainer):
    keep = KeepGradient()
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    check_first_step(make_trainer(peft_config=lora, callbacks=[keep], **ONE_STEP), keep)


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
