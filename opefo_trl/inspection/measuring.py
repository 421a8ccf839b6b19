"""Draws a rollout batch as the training would, and measures each of its tokens."""

import copy
import math
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..data.prompts import render
from ..entropy_flow.mathematics import balance_coefficient
from ..entropy_flow.weights import advantages_per_token, loss_mask
from ..trainer import OPEFOTrainer


@dataclass(frozen=True)
class Token:
    """
    One token of a completion.

    Args:
        text (`str`):
            What it stands for.
        probability (`float`):
            p, the policy's probability of the token at the sampling temperature.
        entropy (`float`):
            H of the policy at its position, in nats.
        change (`float`):
            c·d = c·A·s: what a step on this token alone does to the entropy, to first order, in nats per unit step.
        is_trained (`bool`):
            Whether it counts in the loss.
        other_probability, other_entropy (`float`, *optional*):
            p and H under a second model.
    """

    text: str
    probability: float
    entropy: float
    change: float
    is_trained: bool
    other_probability: float | None = None
    other_entropy: float | None = None


@dataclass(frozen=True)
class Completion:
    """One completion with its reward (`None`: no reward) and its advantage A."""

    reward: float | None
    advantage: float
    tokens: list[Token]


@dataclass(frozen=True)
class Inspection:
    """
    A rollout batch.

    Args:
        groups (`list[tuple[str, list[Completion]]]`):
            Prompts, as the model saw them, each with its completions.
        increase, decrease (`float`):
            P and N, in nats per unit step, before balancing.
        coefficient (`float`):
            λ with the settings that were given: strength, target and bound.
        entropy (`float`):
            Mean entropy of the tokens, in nats.
        target (`float`, *optional*):
            Entropy target, in nats.
    """

    groups: list[tuple[str, list[Completion]]]
    increase: float
    decrease: float
    coefficient: float
    entropy: float
    target: float | None = None

    @property
    def balance(self) -> float:
        """λ with which the two flows cancel, without bound, strength or target."""
        return balance_coefficient(torch.tensor(self.increase), torch.tensor(self.decrease)).item()


class InspectedTrainer(OPEFOTrainer):
    """An [`OPEFOTrainer`] that is asked for one batch and never trains."""

    rewards: torch.Tensor  # (B, rewards), of the last batch

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.rewards = super()._calculate_rewards(*args, **kwargs)
        return self.rewards


def inspect(trainer: InspectedTrainer, other: InspectedTrainer | None = None) -> Inspection:
    """
    Args:
        trainer ([`InspectedTrainer`]):
            Whose first rollout batch is drawn. One micro-batch must hold it all.
        other ([`InspectedTrainer`], *optional*):
            One with a second model and the same tokenizer, to measure the same tokens.
    """
    for each in (trainer, other):
        if each is not None:
            each.model.train()
            each.current_gradient_accumulation_steps = 1
    tokenizer: Any = trainer.processing_class
    rows = next(iter(trainer.get_train_dataloader()))
    inputs = trainer._generate_and_score_completions(rows)
    if "flow_logps" not in inputs:
        trainer._measure([inputs])
    measured = copy.copy(inputs)
    if other is not None:
        other._measure([measured])
    coefficient = trainer._flow_coefficient([inputs]).item()
    increase, decrease, _, _, _, entropy, num_tokens, _ = trainer._flow_sums(inputs).tolist()
    mask, entropies = loss_mask(inputs), inputs["flow_entropies"]  # (B, T) each
    weights = trainer._token_weights(inputs)  # (B, T)
    changes = weights * advantages_per_token(inputs) * inputs["flow_sensitivities"]  # (B, T)
    changes = torch.where(mask.bool(), changes, 0.0)  # (B, T)
    rewards = (trainer.rewards * trainer.reward_weights.to(trainer.rewards.device)).nansum(1)  # (B,)
    rewards = torch.where(trainer.rewards.isnan().all(1), torch.nan, rewards)  # (B,)
    advantages = inputs["advantages"]  # (B,) or (B, T)
    if advantages.dim() == 2:
        advantages = advantages[:, 0]
    completions = [
        Completion(
            reward=None if rewards[row].isnan() else rewards[row].item(),
            advantage=advantages[row].item(),
            tokens=[
                Token(
                    text=tokenizer.decode([inputs["completion_ids"][row, place].item()]),
                    probability=inputs["flow_logps"][row, place].exp().item(),
                    entropy=entropies[row, place].item(),
                    change=changes[row, place].item(),
                    is_trained=bool(mask[row, place]),
                    other_probability=measured["flow_logps"][row, place].exp().item() if other else None,
                    other_entropy=measured["flow_entropies"][row, place].item() if other else None,
                )
                for place in inputs["completion_mask"][row].nonzero().flatten().tolist()
            ],
        )
        for row in range(len(rows))
    ]
    size = cast(int, trainer.args.num_generations)
    prompts = [
        render(rows[start]["prompt"], tokenizer, **cast(dict, trainer.args.chat_template_kwargs or {}))
        for start in range(0, len(rows), size)
    ]
    groups = [(prompt, completions[place * size : (place + 1) * size]) for place, prompt in enumerate(prompts)]
    return Inspection(
        groups=groups,
        increase=increase,
        decrease=decrease,
        coefficient=coefficient,
        entropy=entropy / num_tokens if num_tokens else math.nan,
        target=trainer.entropy_target,
    )
