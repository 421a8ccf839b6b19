"""Real batches: trains the Countdown example, takes its policy and rollouts in float64, and measures chosen steps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import load_dataset
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from benchmarks.study.prediction.decomposition import measure
from benchmarks.study.prediction.flows import Batch, Params, Policy, policy_gradient, token_entropies
from benchmarks.study.prediction.records import ARMS
from benchmarks.study.prediction.updates import Update, adamw_update, dot, sgd_update
from benchmarks.study.tasks import EASY_SIZES, EASY_TRAIN_PUZZLES
from examples.countdown import countdown, prepare, training
from opefo_trl import OPEFOConfig, OPEFOTrainer
from opefo_trl.entropy_flow import balance_advantages


SGD_LEARNING_RATE = 0.05  # its steps are about as long as those of AdamW at the recipe's rate


def policy_of(trainer: OPEFOTrainer, inputs: dict[str, torch.Tensor]) -> Policy:
    """The policy that the trainer is about to step from, over its rollout batch, in float64 and without dropout."""
    input_ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)  # (B, P+T)
    attention_mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)  # (B, P+T)
    num_tokens = inputs["completion_ids"].size(1)
    # A fresh model, since the trainer's forward is patched
    model: Any = AutoModelForCausalLM.from_config(trainer.model.config, attn_implementation="sdpa")
    for layer in model.modules():
        for name, norm in layer.named_children():
            if isinstance(norm, Qwen2RMSNorm):  # torch's has the same weight, and does not round to float32
                setattr(layer, name, torch.nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon))
    model = model.double().eval().requires_grad_(False)

    def policy(params: Params, rows: torch.Tensor) -> torch.Tensor:
        kwargs = {
            "input_ids": input_ids[rows],
            "attention_mask": attention_mask[rows],
            "logits_to_keep": num_tokens + 1,
            "use_cache": False,
        }
        with sdpa_kernel(SDPBackend.MATH):  # the others have no forward-mode derivative
            logits = torch.func.functional_call(model, params, (), kwargs).logits
        return logits[:, :-1] / trainer.temperature  # (R, T, V)

    return policy


def batch_of(trainer: OPEFOTrainer, inputs: dict[str, torch.Tensor]) -> Batch:
    """The trainer's rollout batch in float64."""
    prefixes: dict[tuple, int] = {}
    contexts = [
        [prefixes.setdefault((*prompt, *completion[:i]), len(prefixes)) for i in range(len(completion))]
        for prompt, completion in zip(inputs["prompt_ids"].tolist(), inputs["completion_ids"].tolist(), strict=True)
    ]
    numbers = torch.tensor(contexts)  # (B, T)
    return Batch(
        tokens=inputs["completion_ids"],
        weights=trainer._token_weights(inputs).double(),
        advantages=inputs["advantages"].double().unsqueeze(1),
        contexts=numbers,
        prompts=numbers[:, 0],  # nothing but the prompt precedes the first token
    )


def params_of(model: Any) -> Params:
    """The model's parameters in float64, by name."""
    return {name: value.detach().double() for name, value in model.named_parameters()}


class Probe(TrainerCallback):
    """
    Measures the steps it is told to, and checks the trainer's own step against the one computed here.

    Args:
        steps (`set[int]`):
            Optimizer steps, the first being 1.
        sizes (`list[float]`):
            Step sizes, as multiples of the update.
        sgd_learning_rate (`float`):
            Learning rate of SGD.
        bar (`tqdm`):
            Moves on by one per measured step.
    """

    def __init__(self, steps: set[int], sizes: list[float], sgd_learning_rate: float, bar: tqdm):
        self.steps, self.sizes, self.sgd_learning_rate, self.bar = steps, sizes, sgd_learning_rate, bar
        self.trainer: Any = None
        self.records: list[dict[str, Any]] = []
        self.pending: tuple | None = None

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        if state.global_step + 1 not in self.steps:
            return
        (inputs,) = self.trainer._buffered_inputs  # one micro-batch, as the recipes have it
        policy, params, batch = policy_of(self.trainer, inputs), params_of(model), batch_of(self.trainer, inputs)
        group = optimizer.param_groups[0]
        settings = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")}
        moments = {name: optimizer.state.get(value, {}) for name, value in model.named_parameters()}
        make_updates: dict[str, Callable[[Params], Update]] = {
            "sgd": lambda gradient: sgd_update(gradient, self.sgd_learning_rate),
            "adamw": lambda gradient: adamw_update(params, gradient, moments, settings, args.max_grad_norm),
        }
        record = measure(
            policy, params, batch, make_updates, self.sizes, args.flow_max_coefficient, (args.flow_estimator,)
        )
        advantages = balance_advantages(
            batch.advantages, inputs["flow_sensitivities"].double(), inputs["flow_coefficient"]
        )
        gradient = policy_gradient(policy, params, batch, advantages)
        step = make_updates["adamw"](gradient).step
        self.pending = (policy, params, batch, step)
        logged = {
            name: self.trainer._metrics["train"][f"entropy_flow/{name}"][-1] for name in ("increase", "decrease")
        }
        self.records.append(
            {
                "step": state.global_step + 1,
                "gradient_norm": dot(gradient, gradient).sqrt().item(),
                "trainer": {**logged, "coefficient": inputs["flow_coefficient"].item()},
                **record,
            }
        )

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.pending is None:
            return
        policy, params, batch, step = self.pending
        self.pending = None
        after = params_of(model)
        error = {name: after[name] - params[name] - step[name] for name in params}
        change = token_entropies(policy, after, batch.rows) - token_entropies(policy, params, batch.rows)
        self.records[-1]["trainer"] |= {
            "step_error": (dot(error, error) / dot(step, step)).sqrt().item(),
            "measured": batch.mean(change).item(),
        }
        self.bar.update()


def run(base_dir: Path, output_dir: Path, arm: str, seed: int, probe: Probe) -> None:
    """Trains one arm of the Countdown example up to the last step that the probe wants."""
    settings = yaml.safe_load(training.config_of(arm).read_text())
    for name in ("model_name_or_path", "dataset_name", "reward_funcs"):
        del settings[name]
    settings |= {
        "seed": seed,
        "max_steps": max(probe.steps),
        "max_completion_length": 16,
        "output_dir": str(output_dir / "trainer"),
        "logging_strategy": "no",
    }
    set_seed(seed)
    trainer = OPEFOTrainer(
        model=AutoModelForCausalLM.from_pretrained(base_dir / "base"),
        reward_funcs=countdown.countdown_reward,
        args=OPEFOConfig(**settings),
        train_dataset=load_dataset("json", data_files=str(base_dir / "data" / "train.jsonl"), split="train"),
        processing_class=AutoTokenizer.from_pretrained(base_dir / "base"),
        callbacks=[probe],
    )
    probe.trainer = trainer
    trainer.train()


def study(base_dir: Path, output_dir: Path, seeds: list[int], steps: set[int], sizes: list[float]) -> list[dict]:
    """
    Trains both arms with every seed, measures the chosen steps, and writes `records.json`.

    Args:
        base_dir (`Path`):
            Folder for puzzles and base model, made if missing.
        output_dir (`Path`):
            Folder to write to.
        seeds (`list[int]`):
            Seeds of the trainings.
        steps (`set[int]`):
            Optimizer steps to measure, the first being 1.
        sizes (`list[float]`):
            Step sizes, as multiples of the update.

    Returns:
        `list[dict]`: one record per measured step.
    """
    torch.set_num_threads(1)
    prepare.prepare(base_dir, sizes=EASY_SIZES, train_puzzles=EASY_TRAIN_PUZZLES)
    output_dir.mkdir(parents=True, exist_ok=True)
    records: list[dict] = []
    with tqdm(desc="Measured steps", total=len(ARMS) * len(seeds) * len(steps)) as bar:
        for seed in seeds:
            for arm in ARMS:
                probe = Probe(steps, sizes, SGD_LEARNING_RATE, bar)
                run(base_dir, output_dir, arm, seed, probe)
                records += [{"arm": arm, "seed": seed, **record} for record in probe.records]
                (output_dir / "records.json").write_text(json.dumps(records) + "\n")
    return records
