"""Whatever stock GRPO trains: at strength 0 its weights bit for bit, else λ and gradient as full logits have them."""

import asyncio

import pytest
import torch
from conftest import SYMBOLS, KeepGradient, letter_reward, make_dataset, make_model, make_tokenizer, relative_error
from independent import ONE_STEP, first_step
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)
from ways import build, chat, check, check_monitor, logged, plain

from opefo_trl import OPEFOConfig, OPEFOTrainer


MOE = {
    "vocab_size": len(SYMBOLS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "num_experts_per_tok": 2,
    "eos_token_id": SYMBOLS.index("<eos>"),
    "pad_token_id": SYMBOLS.index("<pad>"),
}


def make_qwen_moe():
    torch.manual_seed(0)
    own = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**MOE, **own))


def make_mixtral(router_jitter_noise=0.0):
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**MOE, num_local_experts=4, router_jitter_noise=router_jitter_noise))


class KeepExperts(KeepGradient):
    """Torch's grouped product of the experts does not know float64."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        super().on_step_begin(args, state, control, model, **kwargs)
        self.policy.set_experts_implementation("eager")


@pytest.mark.parametrize("make", [make_qwen_moe, make_mixtral])
def test_mixture_of_experts(tmp_path, make):
    """The auxiliary loss adds its own gradient, and changes neither λ nor the proof of the loss."""
    stock = check_monitor(tmp_path, lambda: plain(model=make()), router_aux_loss_coef=0.1)
    assert all(value > 0 for value in logged(stock, "aux_loss"))
    keep = KeepExperts()
    arguments = plain(model=make(), callbacks=[keep])
    trainer = build(OPEFOTrainer, OPEFOConfig, tmp_path, arguments, router_aux_loss_coef=0.1, **ONE_STEP)
    (flow,), gradient = first_step(trainer, keep, temperature=1.0)
    of_the_policy = {name: value.clone() for name, value in gradient.items()}
    (log, *_) = trainer.state.log_history
    assert log["entropy_flow/coefficient"] == pytest.approx(flow.coefficient, abs=1e-5)
    assert abs(flow.coefficient) > 1e-3 and log["entropy_flow/seam_error"] < 1e-5
    for batch in trainer._buffered_inputs:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        outputs = keep.policy(input_ids=ids, attention_mask=attention, output_router_logits=True)
        (0.1 * outputs.aux_loss / len(trainer._buffered_inputs)).backward()  # adds to `gradient`
    assert relative_error(keep.gradient, gradient) < 2e-6
    assert relative_error(keep.gradient, of_the_policy) > 1e-3, "the auxiliary loss must matter"


def test_mixture_of_experts_with_a_noisy_router(tmp_path):
    """The measurement draws noise of its own, and leaves GRPO's as it was."""
    check_monitor(tmp_path, lambda: plain(model=make_mixtral(router_jitter_noise=0.3)), router_aux_loss_coef=0.1)


def rollout(prompts, trainer):
    """The model's own completions, as a loop of one's own makes them, with a score for the reward function."""
    rows = [trainer.processing_class(prompt)["input_ids"] for prompt in prompts]
    completions, _ = trainer._generate_single_turn(rows, None, {}, trainer.num_generations)
    scores = [float(sum(ids)) / len(ids) for ids in completions]
    return {"prompt_ids": rows, "completion_ids": completions, "logprobs": None, "score": scores}


def rollout_reward(completions, score, **kwargs):
    return score


def make_judge(folder):
    """A model that gives rewards, saved with its tokenizer."""
    config = make_model().config
    config.num_labels = 1
    torch.manual_seed(1)
    Qwen2ForSequenceClassification(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def sometimes(completions, **kwargs):
    """None where it has nothing to say: then the other rewards count, or none."""
    return [None if len(completion) % 3 else float(completion.count("a")) for completion in completions]


async def slow(completions, **kwargs):
    await asyncio.sleep(0)
    return [None if "5" in completion else float(len(completion)) for completion in completions]


def test_a_reward_model(tmp_path):
    judge = make_judge(tmp_path / "judge")

    def loaded():
        model = Qwen2ForSequenceClassification.from_pretrained(judge)
        return plain(reward_funcs=model, reward_processing_classes=make_tokenizer())

    stock, _ = check(tmp_path, loaded)
    assert all(deviation > 0 for deviation in logged(stock, "rewards/judge/std"))


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_several_rewards(tmp_path, aggregation):
    """A model by the name of its folder, and functions that return None here and there, one of them async."""
    judge = make_judge(tmp_path / "judge")
    stock, _ = check(
        tmp_path,
        lambda: plain(reward_funcs=[judge, letter_reward, sometimes, slow]),
        reward_weights=[0.5, 1.0, 2.0, -0.1],
        multi_objective_aggregation=aggregation,
    )
    assert all(len(logged(stock, f"rewards/{name}/mean")) == 2 for name in ("judge", "sometimes", "slow"))


def test_completions_without_any_reward(tmp_path):
    _, balanced = check(tmp_path, lambda: plain(reward_funcs=[sometimes]))
    advantages = torch.cat([batch["advantages"] for batch in balanced._buffered_inputs])
    assert 0 < (advantages == 0).sum() < len(advantages)


SMALL_CACHE = {"num_blocks": 32, "max_batch_tokens": 128}
WAYS = {
    "a streamed data set": (lambda: plain(train_dataset=make_dataset().to_iterable_dataset()), {}),
    "two streams shuffled": (
        lambda: plain(train_dataset=make_dataset().to_iterable_dataset(num_shards=2).shuffle(seed=1, buffer_size=8)),
        {"gradient_accumulation_steps": 2},
    ),
    "rollout_func": (lambda: plain(rollout_func=rollout, reward_funcs=rollout_reward), {}),
    "continuous batching": (
        plain,
        {"use_transformers_continuous_batching": True, "transformers_continuous_batching_config": SMALL_CACHE},
    ),
    "no shuffling": (plain, {"shuffle_dataset": False, "pad_to_multiple_of": 8}),
    "a chat": (chat, {"chat_template_kwargs": {"enable_thinking": False}}),
}


@pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")
@pytest.mark.parametrize("name", WAYS)
def test_other_ways(tmp_path, name):
    way, settings = WAYS[name]
    check(tmp_path, way, **settings)


LORA = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
ADAPTERS = {
    "DoRA": lambda: LoraConfig(use_dora=True, **LORA),
    "LoRA and the whole head": lambda: LoraConfig(modules_to_save=["lm_head"], **LORA),
    "LoRA and some embeddings": lambda: LoraConfig(trainable_token_indices=[3, 4], **LORA),
    "a prefix": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "a prompt": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "IA3": lambda: IA3Config(
        task_type="CAUSAL_LM", target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
}


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning:peft")
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters(tmp_path, name):
    def way():
        torch.manual_seed(3)
        return plain(peft_config=ADAPTERS[name]())

    check(tmp_path, way)


def trained_adapter(folder):
    """Its reference is a copy of it, which TRL makes."""
    torch.manual_seed(3)
    return plain(model=get_peft_model(make_model(), LoraConfig(**LORA)))


def from_folder(folder):
    """As a reference model has to be."""
    return plain(model=str(folder / "model"))


# Terms of the loss whose effect on entropy is not in λ
TERMS = {
    "an entropy bonus": (from_folder, {"entropy_coef": 0.05}),
    "an adaptive bonus": (from_folder, {"use_adaptive_entropy": True, "entropy_coef": 0.02, "entropy_target": 3.0}),
    "a moving reference": (from_folder, {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1}),
    "an adapter trained on": (trained_adapter, {"beta": 0.1}),
}


@pytest.mark.parametrize("name", TERMS)
def test_further_terms_of_the_loss(tmp_path, name):
    way, settings = TERMS[name]
    make_model().save_pretrained(tmp_path / "model")
    stock = check_monitor(tmp_path, lambda: way(tmp_path), **settings)
    log = stock.state.log_history[1]  # an adaptive bonus is 0 at the first step
    assert log["kl"] > 0 if "beta" in settings else log["policy_loss"] != pytest.approx(log["loss"], abs=1e-3)
    keep = KeepGradient()
    trainer = build(
        OPEFOTrainer, OPEFOConfig, tmp_path, {**way(tmp_path), "callbacks": [keep]}, **{**ONE_STEP, **settings}
    )
    (flow,), _ = first_step(trainer, keep, temperature=1.0)
    (log, *_) = trainer.state.log_history
    assert log["entropy_flow/coefficient"] == pytest.approx(flow.coefficient, abs=1e-5)
    assert abs(flow.coefficient) > 1e-3 and log["entropy_flow/seam_error"] < 1e-5
