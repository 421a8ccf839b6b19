"""The gradient that the trainer takes, against an independent computation, whatever TRL does with a token's weight."""

import pytest
import torch
import trl
from conftest import METRICS, KeepGradient, letter_reward, relative_error
from independent import ONE_STEP, check_first_step
from peft import LoraConfig

from opefo_trl.entropy_flow import kernel, projection


LOSS_TYPES = ["grpo", "sapo", "bnpo", "dr_grpo", "luspo", "dapo", "cispo", "vespo"]


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs Triton's interpreter: the tests' trainers are on the CPU")
def test_gradient_with_the_triton_kernels(make_trainer, monkeypatch):
    """The path of a GPU, which scores valid positions alone: TRL's kernels and ours, interpreted."""
    for module in (trl.trainer.utils, trl.kernels.chunked_logprob):
        monkeypatch.setattr(module, "_use_triton", lambda device: True, raising=False)  # TRL 1.15 does nothing else
    monkeypatch.setattr(projection, "_fold_on", lambda device: kernel.fold_tile)
    keep = KeepGradient()
    check_first_step(make_trainer(callbacks=[keep], **ONE_STEP), keep)


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
