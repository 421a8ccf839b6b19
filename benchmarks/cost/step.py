"""An optimizer step of OPEFO against one of GRPO: the same model, the same rollouts, step by step."""

import gc
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen2Config,
    TrainerCallback,
    set_seed,
)
from trl import GRPOConfig, GRPOTrainer

from benchmarks.cost.measure import Cost, peak_memory, synchronize
from opefo_trl import OPEFOConfig, OPEFOTrainer


# Qwen2.5-Math-1.5B, and on the CPU a model with the same share of its parameters in the LM head
GPU_MODEL: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
CPU_MODEL: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 1492,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}
ARMS = ("GRPO", "OPEFO")
NUM_GENERATIONS = 4


class StepTimes(TrainerCallback):
    """Seconds of each optimizer step, generation included."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        synchronize(self.device)
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        synchronize(self.device)
        self.seconds.append(time.perf_counter() - self.start)


def make_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Every token is a word, `w0`, `w1`, …"""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocab_size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", eos_token="w1", padding_side="left")


def replay(prompt_tokens: int, completion_tokens: int, vocab_size: int):
    """A `rollout_func` that makes the same completions for the same call, of half to whole length."""

    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(trainer.state.global_step)

        def draw(length: int) -> list[int]:
            return torch.randint(2, vocab_size, (length,), generator=generator).tolist()

        lengths = torch.randint(completion_tokens // 2, completion_tokens, (len(prompts),), generator=generator)
        completions = [[*draw(length), 1] for length in lengths.tolist()]
        return {
            "prompt_ids": [draw(prompt_tokens) for _ in prompts],
            "completion_ids": completions,
            "logprobs": [[0.0] * len(ids) for ids in completions],
        }

    return rollout


def reward(completions: list[str], **kwargs: Any) -> list[float]:
    """Different within a group, and the same for the same completion."""
    return [float(sum(map(ord, completion)) % 7) for completion in completions]


def train(
    arm: str, case: dict[str, Any], device: torch.device, size: dict[str, Any], steps: int, folder: str
) -> list[float]:
    """Trains one arm for some optimizer steps and returns the seconds of each."""
    set_seed(0)
    on_gpu = device.type == "cuda"
    config = Qwen2Config(**(GPU_MODEL if on_gpu else CPU_MODEL), pad_token_id=0, eos_token_id=1)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if on_gpu else torch.float32)
    settings: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": size["batch"],
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 4 if case["trl_pass"] else 2,
        "num_generations": NUM_GENERATIONS,
        "max_completion_length": size["completion_tokens"],
        "max_steps": steps,
        "learning_rate": 0.0,  # a policy that stays makes the same rollouts whatever the arm
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    words = " ".join(f"w{i}" for i in range(2, 2 + size["prompt_tokens"]))
    times = StepTimes(device)
    trainer_class, args = {
        "GRPO": lambda: (GRPOTrainer, GRPOConfig(**settings)),
        "OPEFO": lambda: (OPEFOTrainer, OPEFOConfig(strict_on_policy=not case["trl_pass"], **settings)),
    }[arm]()
    trainer = trainer_class(
        model,
        reward,
        args,
        Dataset.from_dict({"prompt": [f"{words} w{i}" for i in range(2, 258)]}),
        processing_class=make_tokenizer(config.vocab_size),
        callbacks=[times],
        peft_config=LoraConfig(target_modules="all-linear") if case["training"] == "LoRA" else None,
        rollout_func=None
        if case["generation"] == "transformers"
        else replay(size["prompt_tokens"], size["completion_tokens"], config.vocab_size),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return times.seconds


def run(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """One record per arm and way of training, with and without a pass of TRL's own over the rollouts."""
    # Sized so that all parts together take less than ten minutes. On a GPU to set up a trainer is most of it, and
    # times are steady: one round of more steps
    if device.type == "cuda":
        size, rounds, pairs = {"batch": 8, "prompt_tokens": 256, "completion_tokens": 512}, 1, 4
    else:
        size, rounds, pairs = {"batch": 4, "prompt_tokens": 32, "completion_tokens": 96}, 3, 3
    if quick:
        rounds, pairs = 1, 1
    cases = [
        {"training": training, "trl_pass": trl_pass, "generation": "replayed"}
        for training in ("full", "LoRA")
        for trl_pass in (False, True)
    ]
    cases.append({"training": "full", "trl_pass": False, "generation": "transformers"})
    records = []
    for case in tqdm(cases[:2] if quick else cases, "Ways of training"):
        costs = {arm: Cost() for arm in ARMS}
        with tempfile.TemporaryDirectory() as folder:
            for arm in ARMS:
                with peak_memory(device) as peak:
                    train(arm, case, device, size, steps=2, folder=folder)
                costs[arm].peak_bytes = peak.bytes
                gc.collect()
            # Tokens one by one through a large model take long enough to be measured once
            pairs_here = 1 if case["generation"] == "transformers" else pairs
            for _ in range(rounds):
                for arm in ARMS:
                    # Two steps at a time, since TRL's pass serves two here; the first two warm up
                    seconds = train(arm, case, device, size, steps=2 + 2 * pairs_here, folder=folder)[2:]
                    costs[arm].seconds += [(a + b) / 2 for a, b in zip(seconds[::2], seconds[1::2], strict=True)]
                    gc.collect()
        for arm, cost in costs.items():
            records.append(
                {
                    "benchmark": "step",
                    "case": case | size,
                    "arm": arm,
                    "seconds": cost.quantiles,
                    "peak_bytes": cost.peak_bytes,
                    "time_ratio": cost.ratio(costs["GRPO"]),
                    "memory_ratio": cost.peak_bytes / costs["GRPO"].peak_bytes,
                }
            )
    return records
