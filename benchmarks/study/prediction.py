"""Predicted against measured: does the flow of a batch foretell how one optimizer step changes its tokens' entropy?

    python -m benchmarks.study.prediction --output_dir outputs/prediction

Trains GRPO and OPEFO on Countdown, stops at some steps, and takes the batch's update on copies of the policy in
float64: with SGD and with AdamW's own state, in several sizes. `docs/results/prediction/README.md` defines every
quantity.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import yaml
from datasets import load_dataset
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from examples.countdown import countdown, demo, prepare
from opefo_trl import OPEFOConfig, OPEFOTrainer
from opefo_trl.config import FLOW_ESTIMATORS
from opefo_trl.entropy_flow import (
    balance_advantages,
    entropy_sensitivity,
    flow_coefficient,
    paper_sensitivity,
    sampled_sensitivity,
)
from opefo_trl.plot import COLOURS


ARMS = ("grpo", "opefo")  # runs that the batches come from, and YAML files of the example
SGD_LEARNING_RATE = 0.05  # its steps are about as long as those of AdamW at the recipe's rate
# Parts of a measured change that add up to it, in the order in which they are taken away
PARTS = (
    "token-wise",
    "unequal gain",
    "same context",
    "same prompt",
    "other prompts",
    "preconditioning",
    "memory",
    "second order",
)

# What several of them come to together
SUMS = {
    "interference": ("same context", "same prompt", "other prompts"),
    "optimizer": ("preconditioning", "memory"),
}
LABELS = {
    "sgd": "SGD",
    "adamw": "AdamW",
    "grpo": "GRPO",
    "opefo": "OPEFO",
    "exact": "exact",
    "sampled": "sampled",
    "paper": "paper",
    "own": "own token, parametric",
    "parametric": "parametric",
}

Params = dict[str, torch.Tensor]
# Logits of every completion token from parameters and the rows (R,) that are wanted, shape (R, T, V)
Policy = Callable[[Params, torch.Tensor], torch.Tensor]


class Batch(NamedTuple):
    """
    A rollout batch, as the loss sees it.

    Args:
        tokens (`torch.Tensor` of shape `(B, T)`):
            Sampled token ids.
        weights (`torch.Tensor` of shape `(B, T)`):
            c, the weight of each token in the loss; 0 where it is not trained.
        advantages (`torch.Tensor` of shape `(B, 1)`):
            A, before any balance.
        contexts (`torch.Tensor` of shape `(B, T)`):
            A number per token, equal where prompt and preceding tokens are.
        prompts (`torch.Tensor` of shape `(B,)`):
            A number per row, equal where the prompt is.
    """

    tokens: torch.Tensor
    weights: torch.Tensor
    advantages: torch.Tensor
    contexts: torch.Tensor
    prompts: torch.Tensor

    @property
    def mask(self) -> torch.Tensor:
        """1 where the token is trained, shape `(B, T)`."""
        return (self.weights > 0).to(self.weights.dtype)

    @property
    def rows(self) -> torch.Tensor:
        return torch.arange(len(self.tokens))

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Plain mean of `values` (B, T) over the trained tokens."""
        return (values * self.mask).sum() / self.mask.sum()


class Update(NamedTuple):
    """
    One step of the optimizer at its learning rate, and how it came about.

    Args:
        step (`Params`):
            Δθ.
        preconditioned (`Params`):
            What it would be if the optimizer had seen nothing but this batch: D·G, D the step size of each parameter.
            Of SGD the same as `step`.
        rate (`float`):
            η of the part of `preconditioned` that lies along the gradient G. Of SGD its learning rate.
        rates (`Params` or `float`):
            D.
    """

    step: Params
    preconditioned: Params
    rate: float
    rates: Any


# --- The mathematics, for any policy ---------------------------------------------------------------------------------


def entropies_of(log_pi: torch.Tensor) -> torch.Tensor:
    return -(log_pi.exp() * log_pi).sum(-1)


def logps_of(log_pi: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return log_pi.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def dot(a: Params, b: Params) -> torch.Tensor:
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def scaled(params: Params, factor: Any) -> Params:
    """Every tensor times one number, or times the tensor of its name."""
    return {name: value * (factor[name] if isinstance(factor, dict) else factor) for name, value in params.items()}


def token_entropies(policy: Policy, params: Params, rows: torch.Tensor) -> torch.Tensor:
    """H of every token in nats, shape `(R, T)`."""
    return entropies_of(policy(params, rows).log_softmax(-1))


def sensitivities(logits: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """s of every token by each estimator, shape `(B, T)`."""
    log_pi = logits.log_softmax(-1)
    logps, entropies = logps_of(log_pi, tokens), entropies_of(log_pi)
    return {
        "exact": entropy_sensitivity(logits, tokens),
        "sampled": sampled_sensitivity(logps, entropies),
        "paper": paper_sensitivity(logps, entropies),
    }


def policy_gradient(policy: Policy, params: Params, batch: Batch, advantages: torch.Tensor) -> Params:
    """G = Σ c·A·∇ln p over the batch, the direction that the loss asks for, with A of shape `(B, T)` or `(B, 1)`."""

    def objective(params: Params) -> torch.Tensor:
        return (batch.weights * advantages * logps_of(policy(params, batch.rows).log_softmax(-1), batch.tokens)).sum()

    return torch.func.grad(objective)(params)


def entropy_gradient(policy: Policy, params: Params, batch: Batch, rows: torch.Tensor | None = None) -> Params:
    """∇H̄, the gradient of the batch's mean entropy, or the share of it that the tokens of some rows bring."""
    rows = batch.rows if rows is None else rows
    mask = batch.mask[rows]

    def mean(params: Params) -> torch.Tensor:
        return (token_entropies(policy, params, rows) * mask).sum() / batch.mask.sum()

    return torch.func.grad(mean)(params)


def logp_response(policy: Policy, params: Params, batch: Batch, rows: torch.Tensor, direction: Params) -> torch.Tensor:
    """⟨∇ln p, direction⟩ of every token of the rows, shape `(R, T)`."""

    def logps(params: Params) -> torch.Tensor:
        return logps_of(policy(params, rows).log_softmax(-1), batch.tokens[rows])

    return torch.func.jvp(logps, (params,), (direction,))[1]


def entropy_response(policy: Policy, params: Params, rows: torch.Tensor, direction: Params) -> torch.Tensor:
    """⟨∇H, direction⟩ of every token of the rows, shape `(R, T)`."""
    return torch.func.jvp(lambda params: token_entropies(policy, params, rows), (params,), (direction,))[1]


def own_logit_response(policy: Policy, params: Params, batch: Batch) -> torch.Tensor:
    """
    k = J·∇H of every token: how the logits at its position move per unit step along the gradient of its entropy.

    By it a step along ∇ln p of a token b at the same position changes the entropy there by (e_b − π)·k.

    Returns:
        `torch.Tensor` of shape `(B, T, V)`; 0 where the token is not trained.
    """
    of_token = batch.contexts.unique(return_inverse=True)[1]  # (B, T)
    responses: dict[int, torch.Tensor] = {}
    for row in batch.rows.split(1):

        def entropies_of_row(params: Params, row: torch.Tensor = row) -> torch.Tensor:
            return token_entropies(policy, params, row)[0]  # (T,)

        def push(gradient: Params, row: torch.Tensor = row) -> torch.Tensor:
            return torch.func.jvp(lambda params: policy(params, row)[0], (params,), (gradient,))[1]  # (T, V)

        # One position per context: k is the same in all of them
        new = {
            context: position
            for position, context in enumerate(of_token[row.item()].tolist())
            if batch.mask[row.item(), position] and context not in responses
        }
        if new:
            positions = torch.tensor(list(new.values()))
            entropies, pull_back = torch.func.vjp(entropies_of_row, params)  # type: ignore[misc]  # two without aux
            (gradients,) = torch.func.vmap(pull_back)(torch.eye(len(entropies), dtype=entropies.dtype)[positions])
            pushed = torch.func.vmap(push)(gradients)  # (N, T, V)
            responses |= zip(new, pushed[torch.arange(len(new)), positions], strict=True)
    untrained = torch.zeros_like(next(iter(responses.values())))
    return torch.stack([responses.get(context, untrained) for context in range(int(of_token.max()) + 1)])[of_token]


def own_effects(
    batch: Batch, pi: torch.Tensor, response: torch.Tensor, advantages: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Change of each token's entropy per unit SGD step, brought by its own term of the loss, and by the terms of other
    tokens sampled in exactly its context.

    Args:
        batch ([`Batch`]):
            The batch.
        pi (`torch.Tensor` of shape `(B, T, V)`):
            π of every position.
        response (`torch.Tensor` of shape `(B, T, V)`):
            From [`own_logit_response`].
        advantages (`torch.Tensor` of shape `(B, T)` or `(B, 1)`):
            The advantages of the update.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: both of shape `(B, T)`, in nats, 0 where the token is not trained.
    """
    one_hot = torch.nn.functional.one_hot(batch.tokens, pi.size(-1)).to(pi.dtype)  # (B, T, V)
    pushes = (batch.weights * advantages).unsqueeze(-1) * (one_hot - pi)  # (B, T, V)
    own = (pushes * response).sum(-1)
    groups = batch.contexts.flatten().unique(return_inverse=True)[1]  # (B * T,)
    summed = torch.zeros(int(groups.max()) + 1, pi.size(-1), dtype=pi.dtype)
    summed = summed.index_add(0, groups, pushes.flatten(0, 1))[groups].view_as(pushes)
    return own * batch.mask, ((summed * response).sum(-1) - own) * batch.mask


def prompt_response(policy: Policy, params: Params, batch: Batch) -> torch.Tensor:
    """⟨∇ln p, ∇H̄ of the token's own prompt⟩, H̄ of a prompt being its tokens' share of the mean, shape `(B, T)`."""
    response = torch.zeros_like(batch.weights)
    for prompt in batch.prompts.unique():
        rows = batch.rows[batch.prompts == prompt]
        gradient = entropy_gradient(policy, params, batch, rows)
        response[rows] = logp_response(policy, params, batch, rows, gradient)
    return response


def sgd_update(gradient: Params, learning_rate: float) -> Update:
    step = scaled(gradient, learning_rate)
    return Update(step, step, learning_rate, learning_rate)


def adamw_update(params: Params, gradient: Params, state: dict[str, dict], settings: dict, max_norm: float) -> Update:
    """
    The step that torch's AdamW takes from its state, and what it is made of.

    Args:
        params, gradient (`Params`):
            θ and G, the direction of ascent.
        state (`dict[str, dict]`):
            AdamW's state of each parameter before the step, empty before the first.
        settings (`dict`):
            Arguments of [`~torch.optim.AdamW`].
        max_norm (`float`):
            Gradients longer than this are cut to it, as [`~transformers.Trainer`] does. D contains the cut.
    """
    cut = min(1.0, max_norm / dot(gradient, gradient).sqrt().item())
    copies = {name: value.clone().requires_grad_() for name, value in params.items()}
    for name, copy in copies.items():
        copy.grad = -cut * gradient[name]
    optimizer = torch.optim.AdamW(copies.values(), **settings)
    for name, copy in copies.items():
        optimizer.state[copy] = {key: value.clone().to(copy) for key, value in state.get(name, {}).items()}
    optimizer.step()
    rates = {}
    for name, copy in copies.items():
        after = optimizer.state[copy]
        second_moment = after["exp_avg_sq"] / (1 - settings["betas"][1] ** after["step"])
        rates[name] = cut * settings["lr"] / (second_moment.sqrt() + settings["eps"])
    preconditioned = scaled(gradient, rates)
    return Update(
        step={name: copy.detach() - params[name] for name, copy in copies.items()},
        preconditioned=preconditioned,
        rate=(dot(preconditioned, gradient) / dot(gradient, gradient)).item(),
        rates=rates,
    )


# --- Figures of merit ------------------------------------------------------------------------------------------------


def pearson(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Correlation; NaN where either has no spread."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(predicted, measured)[0, 1])


def slope(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Of the line through the origin, measured on predicted, by least squares; NaN where all is predicted 0."""
    total = float(predicted @ predicted)
    return float(predicted @ measured) / total if total > 0 else float("nan")


def sign_agreement(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Share of equal signs where a change is predicted; NaN where none is."""
    where = predicted != 0
    return float(np.mean(np.sign(predicted[where]) == np.sign(measured[where]))) if where.any() else float("nan")


def merits(predicted: torch.Tensor | list[float], measured: torch.Tensor | list[float]) -> dict[str, float]:
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    return {"pearson": pearson(x, y), "slope": slope(x, y), "sign": sign_agreement(x, y)}


# --- One batch -------------------------------------------------------------------------------------------------------


def measure(
    policy: Policy,
    params: Params,
    batch: Batch,
    make_updates: dict[str, Callable[[Params], Update]],
    sizes: Iterable[float],
    max_coefficient: float,
    adamw_balances: Iterable[str] = FLOW_ESTIMATORS,
) -> dict[str, Any]:
    """
    Predict and measure the steps of one batch.

    Args:
        policy, params, batch:
            The policy, its parameters and its rollouts.
        make_updates (`dict[str, Callable]`):
            The update of each optimizer, from the gradient G.
        sizes (`Iterable[float]`):
            Step sizes, as multiples of the update.
        max_coefficient (`float`):
            λ_max.
        adamw_balances (`Iterable[str]`):
            Estimators whose balanced update is taken with optimizers other than `"sgd"`, too.

    Returns:
        `dict[str, Any]`: `"flows"` by estimator, and a list `"steps"`, one entry per balance, optimizer and size.
    """
    rows, mask, weights = batch.rows, batch.mask, batch.weights
    logits = policy(params, rows)
    pi = logits.softmax(-1)
    before = token_entropies(policy, params, rows)
    s = sensitivities(logits, batch.tokens)
    d = {e: weights * batch.advantages * s[e] for e in s}  # change of a token's entropy per unit step
    response = own_logit_response(policy, params, batch)
    mean_gradient = entropy_gradient(policy, params, batch)
    # What a unit step on each token does to the mean entropy, and to its own prompt's share of it
    influences = weights * batch.advantages * logp_response(policy, params, batch, rows, mean_gradient)  # (B, T)
    within_prompt = weights * prompt_response(policy, params, batch)  # (B, T)
    moved = (mask > 0) & (batch.advantages != 0)  # tokens that have a prediction

    flows: dict[str, dict] = {}
    balanced = {"none": batch.advantages.expand_as(weights)}
    for e in s:
        increase, decrease = d[e].clamp(min=0).sum(), -d[e].clamp(max=0).sum()
        coefficient = flow_coefficient(increase, decrease, batch.mean(before), 1.0, max_coefficient)
        balanced[e] = balance_advantages(batch.advantages, s[e], coefficient)
        raised, lowered = influences[d[e] > 0].sum().item(), influences[d[e] < 0].sum().item()
        flows[e] = {
            "increase": increase.item(),
            "decrease": decrease.item(),
            "coefficient": coefficient.item(),
            "parametric_increase_side": raised,
            "parametric_decrease_side": lowered,
            # The λ at which the parametric flow vanishes, the tokens split as the estimator splits them
            "parametric_coefficient": -(raised + lowered) / (raised - lowered),
        }

    steps = []
    for balance, advantages in balanced.items():
        gradient = policy_gradient(policy, params, batch, advantages)
        own, same_context = own_effects(batch, pi, response, advantages)
        within = (within_prompt * advantages).sum()
        # Its own estimator's prediction; of the plain update each estimator's
        predictors = {e: weights * advantages * s[e] for e in (s if balance == "none" else (balance,))}
        reference = "exact" if balance == "none" else balance
        gain = slope(predictors[reference][moved].numpy(), own[moved].numpy())
        for optimizer, make_update in make_updates.items():
            if optimizer != "sgd" and balance not in ("none", *adamw_balances):
                continue
            update = make_update(gradient)
            along_gradient = dot(mean_gradient, gradient).item() * update.rate
            preconditioned = dot(mean_gradient, update.preconditioned).item()
            parametric_tokens = entropy_response(policy, params, rows, update.step)
            parametric = batch.mean(parametric_tokens).item()
            of_sides = (
                weights * advantages * logp_response(policy, params, batch, rows, scaled(mean_gradient, update.rates))
            )  # (B, T)
            sides = [of_sides[d[reference] > 0].sum().item(), of_sides[d[reference] < 0].sum().item()]
            per_step = {e: update.rate * values / mask.sum() for e, values in predictors.items()}
            influence = {e: merits(values[moved], of_sides[moved]) for e, values in per_step.items()}
            mean_own, mean_context = batch.mean(own).item(), batch.mean(same_context).item()
            token_wise = gain * batch.mean(predictors[reference]).item()
            first_order = {
                "token-wise": token_wise * update.rate,
                "unequal gain": (mean_own - token_wise) * update.rate,
                "same context": mean_context * update.rate,
                "same prompt": (within.item() - mean_own - mean_context) * update.rate,
                "other prompts": along_gradient - within.item() * update.rate,
                "preconditioning": preconditioned - along_gradient,
                "memory": parametric - preconditioned,
            }
            for size in sizes:
                stepped = {name: value + size * update.step[name] for name, value in params.items()}
                change = token_entropies(policy, stepped, rows) - before  # (B, T)
                measured = batch.mean(change).item()
                tokens = {name: size * update.rate * values for name, values in {**predictors, "own": own}.items()}
                tokens["parametric"] = size * parametric_tokens
                parts = {name: size * value for name, value in first_order.items()}
                steps.append(
                    {
                        "balance": balance,
                        "optimizer": optimizer,
                        "size": size,
                        "rate": size * update.rate,
                        "norm": size * dot(update.step, update.step).sqrt().item(),
                        "gain": gain,
                        "measured": measured,
                        "predicted": {
                            **{e: size * update.rate * batch.mean(values).item() for e, values in predictors.items()},
                            "own": size * update.rate * mean_own,
                            "parametric": size * parametric,
                        },
                        "parametric_sides": [size * side for side in sides],
                        "influence": influence,
                        "parts": {**parts, "second order": measured - size * parametric},
                        "tokens": {name: merits(values[moved], change[moved]) for name, values in tokens.items()},
                    }
                )
    return {
        "entropy": batch.mean(before).item(),
        "trained_tokens": int(mask.sum()),
        "contexts": len(batch.contexts[mask > 0].unique()),
        "estimators_by_token": {e: merits(d[e][moved], d["exact"][moved]) for e in s},
        "flows": flows,
        "steps": steps,
    }


# --- Real batches ----------------------------------------------------------------------------------------------------


def batch_of(trainer: OPEFOTrainer) -> tuple[Policy, Params, Batch]:
    """The policy that [`OPEFOTrainer`] is about to step from, in float64, and its rollout batch."""
    (inputs,) = trainer._buffered_inputs  # one micro-batch, as the recipes have it
    input_ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)  # (B, P+T)
    attention_mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)  # (B, P+T)
    num_tokens = inputs["completion_ids"].size(1)
    # A fresh model, since the trainer's forward is patched; dropout is off
    model: Any = AutoModelForCausalLM.from_config(trainer.model.config, attn_implementation="sdpa")
    for layer in model.modules():
        for name, norm in layer.named_children():
            if isinstance(norm, Qwen2RMSNorm):  # torch's has the same weight, and does not round to float32
                setattr(layer, name, torch.nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon))
    model = model.double().eval().requires_grad_(False)
    params = {name: value.detach().double() for name, value in trainer.model.named_parameters()}

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

    prefixes: dict[tuple, int] = {}
    prompts: dict[tuple, int] = {}
    completions = inputs["completion_ids"].tolist()
    rows = [tuple(prompt) for prompt in inputs["prompt_ids"].tolist()]
    contexts = [
        [prefixes.setdefault((prompt, *completion[:i]), len(prefixes)) for i in range(num_tokens)]
        for prompt, completion in zip(rows, completions, strict=True)
    ]
    return (
        policy,
        params,
        Batch(
            tokens=inputs["completion_ids"],
            weights=trainer._token_weights(inputs).double(),
            advantages=inputs["advantages"].double().unsqueeze(1),
            contexts=torch.tensor(contexts),
            prompts=torch.tensor([prompts.setdefault(prompt, len(prompts)) for prompt in rows]),
        ),
    )


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
        policy, params, batch = batch_of(self.trainer)
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
        inputs = self.trainer._buffered_inputs[0]
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
        after = {name: value.detach().double() for name, value in model.named_parameters()}
        error = {name: after[name] - params[name] - step[name] for name in params}
        change = token_entropies(policy, after, batch.rows) - token_entropies(policy, params, batch.rows)
        self.records[-1]["trainer"] |= {
            "step_error": (dot(error, error) / dot(step, step)).sqrt().item(),
            "measured": batch.mean(change).item(),
        }
        self.bar.update()


def run(base_dir: Path, output_dir: Path, arm: str, seed: int, probe: Probe) -> None:
    """Trains one arm of the Countdown example up to the last step that the probe wants."""
    settings = yaml.safe_load(demo.config_of(arm).read_text())
    for name in ("model_name_or_path", "dataset_name", "reward_funcs"):
        del settings[name]
    settings |= {
        "seed": seed,
        "max_steps": max(probe.steps),
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
    prepare.prepare(base_dir)
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


# --- Report ----------------------------------------------------------------------------------------------------------


def steps_of(records: list[dict], **wanted: Any) -> list[dict]:
    """The steps of all records whose values are the wanted ones."""
    return [s for record in records for s in record["steps"] if all(s[name] == wanted[name] for name in wanted)]


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float, digits: int = 2) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def mean_and_error(values: list[float], scale: float = 1.0) -> str:
    """Mean ± its standard error, and the root of the mean square."""
    scaled_values = scale * np.asarray(values)
    error = scaled_values.std(ddof=1) / len(values) ** 0.5
    return f"{scaled_values.mean():.1f} ± {error:.1f} ({(scaled_values**2).mean() ** 0.5:.1f})"


def median_and_quartiles(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


Pairs = list[tuple[float, float]]  # predicted and measured, one per batch


def plain_pairs(records: list[dict], optimizer: str, name: str, size: float, without: str | None = None) -> Pairs:
    """Change of the mean entropy by the plain update, as one predictor has it and as it was, less one of its parts."""
    steps = steps_of(records, balance="none", optimizer=optimizer, size=size)
    return [(step["predicted"][name], step["measured"] - step["parts"].get(without, 0.0)) for step in steps]


def balance_pairs(records: list[dict], optimizer: str, estimator: str, name: str, size: float) -> Pairs:
    """The same of the difference that the balance makes: balanced minus plain update of one batch."""
    plain = steps_of(records, balance="none", optimizer=optimizer, size=size)
    balanced = steps_of(records, balance=estimator, optimizer=optimizer, size=size)
    return [
        (b["predicted"][name] - p["predicted"][name], b["measured"] - p["measured"])
        for p, b in zip(plain, balanced, strict=bool(balanced))
    ]


def merits_of(pairs: Pairs) -> dict[str, float]:
    return merits(*map(list, zip(*pairs, strict=True)))


def merits_by_size(label: list[str], pairs: dict[float, Pairs]) -> list[str]:
    """A row: correlation at every size, then slope and sign agreement at size 1, of (predicted, measured)."""
    by_size = {size: merits_of(of_size) for size, of_size in pairs.items()}
    return [
        *label,
        *(number(merit["pearson"]) for merit in by_size.values()),
        f"{by_size[1.0]['slope']:.3g}",
        number(by_size[1.0]["sign"]),
    ]


def step_table(records: list[dict], sizes: list[float]) -> str:
    """Predicted against measured change of the mean entropy, one point per batch, of the plain update."""
    rows = []
    for optimizer in ("sgd", "adamw"):
        for name in (*FLOW_ESTIMATORS, "own", "parametric"):
            pairs = {size: plain_pairs(records, optimizer, name, size) for size in sizes}
            rows.append(merits_by_size([LABELS[optimizer], LABELS[name]], pairs))
    for name in FLOW_ESTIMATORS:
        pairs = {size: plain_pairs(records, "adamw", name, size, without="memory") for size in sizes}
        rows.append(merits_by_size(["AdamW, less memory", LABELS[name]], pairs))
    header = ["optimizer", "prediction", *(f"r, × {size:g}" for size in sizes), "slope, × 1", "signs, × 1"]
    return table(header, rows)


def balance_table(records: list[dict], sizes: list[float]) -> str:
    """What the balance does: the difference between the balanced and the plain update of the same batch."""
    rows = []
    for optimizer in ("sgd", "adamw"):
        for estimator in FLOW_ESTIMATORS:
            for name in (estimator, "parametric"):
                pairs = {size: balance_pairs(records, optimizer, estimator, name, size) for size in sizes}
                if pairs[1.0]:  # not every balance was taken with every optimizer
                    rows.append(merits_by_size([LABELS[optimizer], LABELS[estimator], LABELS[name]], pairs))
    header = ["optimizer", "balance", "prediction", *(f"r, × {s:g}" for s in sizes), "slope, × 1", "signs, × 1"]
    return table(header, rows)


def token_table(records: list[dict], sizes: list[float]) -> str:
    """By token, means over the batches of each batch's correlation and sign agreement, of the plain update."""
    rows = []
    for optimizer in ("sgd", "adamw"):
        for name in (*FLOW_ESTIMATORS, "own", "parametric"):
            cells = [LABELS[optimizer], LABELS[name]]
            for size in (min(sizes), 1.0, max(sizes)):
                steps = steps_of(records, balance="none", optimizer=optimizer, size=size)
                of_tokens = [step["tokens"][name] for step in steps]
                cells += [number(statistics.mean(t[merit] for t in of_tokens)) for merit in ("pearson", "sign")]
            steps = steps_of(records, balance="none", optimizer=optimizer, size=1.0)
            influence = [step["influence"][name] for step in steps if name in step["influence"]]
            cells += [
                number(statistics.mean(i[merit] for i in influence)) if influence else ""
                for merit in ("pearson", "sign")
            ]
            rows.append(cells)
    header = ["optimizer", "prediction"]
    for size in (min(sizes), 1.0, max(sizes)):
        header += [f"own entropy, × {size:g}: r", "signs"]
    return table([*header, "effect on the batch: r", "signs"], rows)


def coefficient_table(records: list[dict]) -> str:
    """λ as the estimators have it, before anything is shared, and λ at which the parametric flow vanishes."""
    rows = []
    for estimator in FLOW_ESTIMATORS:
        flows = [record["flows"][estimator] for record in records]
        right = [flow["parametric_increase_side"] > 0 > flow["parametric_decrease_side"] for flow in flows]
        token_wise = np.array([flow["coefficient"] for flow in flows])
        parametric = np.array([flow["parametric_coefficient"] for flow in flows])
        rows.append(
            [
                LABELS[estimator],
                median_and_quartiles(token_wise),
                median_and_quartiles(parametric),
                number(pearson(token_wise[right], parametric[right])),
                f"{sum(right)} of {len(right)}",
            ]
        )
    return table(["estimator", "λ", "parametric λ", "r, sides as named", "sides as named"], rows)


def phases(records: list[dict]) -> list[list[int]]:
    """The measured steps, cut where some were left out."""
    runs: list[list[int]] = []
    for step in sorted({record["step"] for record in records}):
        if runs and step == runs[-1][-1] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return runs


def phase_table(records: list[dict]) -> str:
    """Correlations of the estimator "exact" at size 1, by point of the training."""
    rows = []
    for steps in phases(records):
        chosen = [record for record in records if record["step"] in steps]
        pairs = [
            *(plain_pairs(chosen, optimizer, "exact", 1.0) for optimizer in ("sgd", "adamw")),
            *(balance_pairs(chosen, optimizer, "exact", "exact", 1.0) for optimizer in ("sgd", "adamw")),
        ]
        rows.append(
            [
                f"{steps[0]} to {steps[-1]}",
                str(len(chosen)),
                f"{statistics.mean(record['entropy'] for record in chosen):.2f}",
                *(number(merits_of(of_column)["pearson"]) for of_column in pairs),
                *(f"{merits_of(of_column)['slope']:.3g}" for of_column in pairs[2:]),
            ]
        )
    header = ["steps", "batches", "entropy", "plain, SGD: r", "plain, AdamW: r"]
    return table([*header, "balance, SGD: r", "balance, AdamW: r", "balance, SGD: slope", "AdamW: slope"], rows)


def own_updates(records: list[dict], arm: str, optimizer: str, size: float) -> list[dict]:
    """The updates that a run takes itself: plain in GRPO's, balanced by "exact" in OPEFO's."""
    balance = {"grpo": "none", "opefo": "exact"}[arm]
    return steps_of([r for r in records if r["arm"] == arm], balance=balance, optimizer=optimizer, size=size)


def part_table(records: list[dict]) -> str:
    """Of what the measured change consists: mean ± standard error (root mean square) over the batches."""
    columns = [(arm, optimizer) for optimizer in ("sgd", "adamw") for arm in ARMS]
    rows = []
    for name in ("measured", *PARTS, *SUMS):
        cells = [f"{name}: {', '.join(SUMS[name])}" if name in SUMS else name]
        for arm, optimizer in columns:
            steps = own_updates(records, arm, optimizer, 1.0)
            if name == "measured":
                values = [step["measured"] for step in steps]
            else:
                values = [sum(step["parts"][part] for part in SUMS.get(name, (name,))) for step in steps]
            cells.append(mean_and_error(values, 1e4) if np.abs(values).max() > 1e-8 else "0")
        rows.append(cells)
    return table(["1e-4 nats per token", *(f"{LABELS[o]}, {LABELS[arm]}" for arm, o in columns)], rows)


def drift_table(records: list[dict], sizes: list[float]) -> str:
    """Mean change by the plain and the balanced update, and the orders of the one that the run takes, by step size."""
    rows = []
    for optimizer in ("sgd", "adamw"):
        for arm in ARMS:
            chosen = [record for record in records if record["arm"] == arm]
            at_sizes: list[dict[str, Any]] = [{"optimizer": optimizer, "size": size} for size in sizes]
            columns = [
                {
                    "plain, measured": [s["measured"] for s in steps_of(chosen, balance="none", **which)],
                    "balanced, measured": [s["measured"] for s in steps_of(chosen, balance="exact", **which)],
                    "own, first order": [s["predicted"]["parametric"] for s in own_updates(chosen, arm, **which)],
                    "own, second order": [s["parts"]["second order"] for s in own_updates(chosen, arm, **which)],
                }
                for which in at_sizes
            ]
            for name in columns[0]:
                means = [f"{np.mean(column[name]) * 1e4:.3g}" for column in columns]
                rows.append([LABELS[optimizer], LABELS[arm], name, *means])
    return table(["optimizer", "run", "1e-4 nats per token", *(f"× {size:g}" for size in sizes)], rows)


def draw_scatter(records: list[dict], path: Path) -> None:
    """Measured against predicted change of the mean entropy, one point per batch."""

    def pairs(chosen: list[dict], optimizer: str, column: str) -> Pairs:
        if column == "balance":
            return balance_pairs(chosen, optimizer, "exact", "exact", 1.0)
        return plain_pairs(chosen, optimizer, column, 1.0)

    columns = {name: LABELS[name] for name in (*FLOW_ESTIMATORS, "parametric")} | {"balance": "effect of the balance"}
    figure, all_axes = plt.subplots(2, len(columns), figsize=(14, 5.8), layout="constrained", sharey="row")
    points = sorted({record["step"] for record in records})
    for line, optimizer in zip(all_axes, ("sgd", "adamw"), strict=True):
        for axes, (column, label) in zip(line, columns.items(), strict=True):
            for arm, marker in zip(ARMS, "os", strict=True):
                chosen = [record for record in records if record["arm"] == arm]
                x, y = zip(*pairs(chosen, optimizer, column), strict=True)
                colours = [points.index(record["step"]) / max(len(points) - 1, 1) for record in chosen]
                axes.scatter(x, y, c=colours, cmap="viridis", vmin=0, vmax=1, s=20, marker=marker, alpha=0.85)
            merit = merits_of(pairs(records, optimizer, column))
            axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
            axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
            ends = np.array(axes.get_xlim())
            axes.plot(ends, merit["slope"] * ends, color="#D55E00", linewidth=1.2, scalex=False, scaley=False)
            axes.set_title(f"{LABELS[optimizer]}, {label}: r = {merit['pearson']:.2f}", fontsize=9)
            axes.set_xlabel("predicted, nats per token", fontsize=8)
            axes.tick_params(labelsize=8)
            axes.ticklabel_format(style="sci", scilimits=(0, 0))
            axes.locator_params(axis="x", nbins=4)
            for axis in (axes.xaxis, axes.yaxis):
                axis.get_offset_text().set_fontsize(8)
        line[0].set_ylabel("measured change of the\nmean entropy, nats per token", fontsize=9)
    figure.suptitle(
        "One step from each batch. First four columns: the plain update; last: balanced (exact) minus plain.\n"
        "Circles: batches of GRPO's runs, squares: of OPEFO's; dark: first steps, light: last; line: slope through 0.",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_parts(records: list[dict], sizes: list[float], path: Path) -> None:
    """How correlations decay with the step size, and of what the drift of each run consists."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained", width_ratios=(1, 1.5))
    for name, colour in zip((*FLOW_ESTIMATORS, "own", "parametric"), COLOURS, strict=False):
        for optimizer, style in (("sgd", "-"), ("adamw", "--")):
            correlations = [merits_of(plain_pairs(records, optimizer, name, size))["pearson"] for size in sizes]
            label = LABELS[name] if optimizer == "sgd" else None
            left.plot(sizes, correlations, style, color=colour, marker="o", ms=4, label=label)
    left.set_xscale("log")
    left.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    left.set_xlabel("step size, as a multiple of the trainer's")
    left.set_ylabel("correlation over batches")
    left.set_title(
        "Predicted and measured change of the mean entropy\nplain update; SGD solid, AdamW dashed", fontsize=10
    )
    left.set_ylim(bottom=-0.5)
    left.legend(fontsize=8, loc="lower left", ncols=2)
    names = ("measured", *PARTS)
    columns = [(arm, optimizer) for optimizer in ("sgd", "adamw") for arm in ARMS]
    for i, ((arm, optimizer), colour) in enumerate(zip(columns, COLOURS, strict=False)):
        steps = own_updates(records, arm, optimizer, 1.0)
        values = np.array([[step["measured"], *(step["parts"][part] for part in PARTS)] for step in steps]) * 1e4
        error = values.std(0, ddof=1) / len(values) ** 0.5
        positions = np.arange(len(names)) + 0.2 * (i - 1.5)
        label = f"{LABELS[optimizer]}, {LABELS[arm]}"
        right.bar(positions, values.mean(0), 0.2, yerr=error, color=colour, label=label, error_kw={"linewidth": 0.8})
    right.axhline(0, color="0.3", linewidth=0.8)
    right.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names], fontsize=8)
    right.set_ylabel("1e-4 nats per token, mean ± s.e.")
    right.set_title("The change of one step, and the parts that add up to it (update of the run itself)", fontsize=10)
    right.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def report(records: list[dict], output_dir: Path, how: str) -> None:
    """
    Writes `tables.md`, `scatter.png` and `parts.png`.

    Args:
        records (`list[dict]`):
            From [`study`].
        output_dir (`Path`):
            Folder to write to.
        how (`str`):
            What to say below the tables of how they were made.
    """
    sizes = list(dict.fromkeys(step["size"] for step in records[0]["steps"]))
    errors = [record["trainer"]["step_error"] for record in records]
    gains = [step["gain"] for step in steps_of(records, balance="none", optimizer="sgd", size=1.0)]
    text = "\n\n".join(
        [
            "By step:",
            step_table(records, sizes),
            "What the balance does:",
            balance_table(records, sizes),
            "By token:",
            token_table(records, sizes),
            "λ:",
            coefficient_table(records),
            "By point of the training, exact, × 1:",
            phase_table(records),
            "Parts:",
            part_table(records),
            "Drift by step size:",
            drift_table(records, sizes),
            f"{len(records)} batches, {statistics.mean(r['trained_tokens'] for r in records):.0f} trained tokens and "
            f"{statistics.mean(r['contexts'] for r in records):.0f} contexts in the mean. The trainer's own step and "
            f"the one computed here differ by {max(errors):.1e} of its length at most. Gain κ, plain update: median "
            f"(quartiles) {np.median(gains):.0f} ({np.quantile(gains, 0.25):.0f} to {np.quantile(gains, 0.75):.0f}), "
            f"{min(gains):.0f} to {max(gains):.0f} in all.\n{how}",
        ]
    )
    (output_dir / "tables.md").write_text(text + "\n")
    draw_scatter(records, output_dir / "scatter.png")
    draw_parts(records, sizes, output_dir / "parts.png")
    print(f"\n{text}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares predicted and measured changes of entropy on Countdown.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/prediction"), help="folder to write to")
    parser.add_argument("--base_dir", type=Path, default=Path("outputs/countdown"), help="puzzles and base model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of the trainings")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[1, 2, 3, 60, 61, 62, 118, 119, 120], help="optimizer steps to measure"
    )
    parser.add_argument(
        "--sizes",
        type=float,
        nargs="+",
        default=[0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
        help="step sizes, as multiples of the trainer's own",
    )
    args = parser.parse_args()
    if 1.0 not in args.sizes:
        parser.error("--sizes must contain 1, the step that the trainer takes, since the tables are about it")
    started = time.monotonic()
    records = study(args.base_dir, args.output_dir, args.seeds, set(args.steps), args.sizes)
    command = shlex.join(["python", "-m", "benchmarks.study.prediction", *sys.argv[1:]])
    packages = ", ".join(f"{name} {version(name)}" for name in ("opefo_trl", "trl", "transformers", "torch"))
    seconds = time.monotonic() - started
    report(records, args.output_dir, f"Made by `{command}` in {seconds:.0f} seconds with {packages}.")


if __name__ == "__main__":
    main()
