"""A tiny model, its tokenizer and a way to build trainers: everything the tests need, made here."""

import copy
import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch


# Triton reads it when a kernel is defined: without a GPU its interpreter runs them, TRL's and ours
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import trl
from datasets import Dataset
from packaging.version import Version
from peft import PeftModel
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, TrainerCallback

from opefo_trl import OPEFOConfig, OPEFOTrainer
from opefo_trl.entropy_flow import projection


pytest.register_assert_rewrite("independent", "ways")  # they assert for the tests that call them

# The environment of programs in which Triton compiles
COMPILED = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
SYMBOLS = ["<pad>", "<eos>", *"abcdefgh", *"0123456789 "]
METRICS = ["increase", "decrease", "net", "coefficient", "increase_share", "skipped"]
# A run small enough for a test, on CPU and in float32
SETTINGS = {
    "num_generations": 4,
    "max_completion_length": 10,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "save_strategy": "no",
}
PROMPTS = ["a1", "bb 22", "c 333", "dd", "e5 5", "f 66", "g7", "hh 88"]


def make_tokenizer(symbols=SYMBOLS, pattern=".", unknown="<pad>", **settings) -> PreTrainedTokenizerFast:
    """One token for each match of the pattern; `settings` are those of the tokenizer's class."""
    tokenizer = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left", **settings
    )


def make_model(initializer_range: float = 0.1, symbols=SYMBOLS, max_position_embeddings=64) -> Qwen2ForCausalLM:
    """Logits far enough from uniform for flows of both signs, gradients within float32's reach."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(symbols),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_position_embeddings,
        initializer_range=initializer_range,
        eos_token_id=symbols.index("<eos>"),
        pad_token_id=symbols.index("<pad>"),
    )
    return Qwen2ForCausalLM(config)


def make_dataset(rows: int = 32) -> Dataset:
    return Dataset.from_list([{"prompt": PROMPTS[i % len(PROMPTS)] + str(i)} for i in range(rows)])


def letter_reward(completions: list[str], **kwargs) -> list[float]:
    """Deterministic, and different enough within a group that advantages have both signs."""
    return [float(sum(letter in "abcd02468" for letter in completion)) for completion in completions]


class KeepGradient(TrainerCallback):
    """Keeps the policy before the first optimizer step and the gradient that the step takes."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.policy = copy.deepcopy(model)
            base = self.policy.get_base_model() if isinstance(model, PeftModel) else self.policy
            del base.forward  # TRL's patch and ours: what remains is the model's own
            vars(base.lm_head).pop("forward", None)  # that of `cast_lm_head_to_fp32`

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.gradient = {n: p.grad.double().clone() for n, p in model.named_parameters() if p.requires_grad}


def weights_after(trainer):
    trainer.train()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def equal(one: dict, other: dict) -> bool:
    """Whether two sets of weights are the same, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def relative_error(actual: dict, expected: dict) -> float:
    assert actual.keys() == expected.keys()
    difference = sum((actual[n] - expected[n]).square().sum() for n in actual)
    return (difference / sum(g.square().sum() for g in expected.values())).sqrt().item()


@pytest.fixture(autouse=True)
def fold_as_trl_does(monkeypatch):
    """TRL 1.15 has no fold in torch: its kernels run in Triton's interpreter, and ours beside them, as on a GPU."""
    if Version(trl.__version__) < Version("1.16"):
        from opefo_trl.entropy_flow import kernel

        monkeypatch.setattr(projection, "_fold_on", lambda device: kernel.fold_tile)


@pytest.fixture
def make_trainer(tmp_path):
    """Build a trainer on a fresh tiny model; the same seed gives the same model, data and rollouts."""

    def build(trainer_class=OPEFOTrainer, config_class=OPEFOConfig, model=None, reward=letter_reward, **settings):
        extra = {
            name: settings.pop(name)
            for name in ("peft_config", "eval_dataset", "callbacks", "rollout_func")
            if name in settings
        }
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 8,
            "max_steps": 3,
            "learning_rate": 1e-2,
            "seed": 7,
        }
        return trainer_class(
            model=make_model() if model is None else model,
            reward_funcs=reward,
            args=config_class(**{**SETTINGS, **defaults, **settings}),
            train_dataset=make_dataset(),
            processing_class=make_tokenizer(),
            **extra,
        )

    return build
