"""The arms of the study: what each changes against the task's settings."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import yaml

from benchmarks.study.rivals import RepoR, clip_cov, random_drop, stare, steer
from benchmarks.study.tasks import Task
from opefo_trl import OPEFOTrainer


Rule = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class RivalTrainer(OPEFOTrainer):
    """
    GRPO whose advantages a rival's rule rewrites, from the log-probabilities and entropies that OPEFO measures.

    Logs `changed_share`, the share of trained tokens with A ≠ 0 whose advantage the rule has changed.

    Args:
        *args, **kwargs:
            As [`~opefo_trl.OPEFOTrainer`] takes them, with `flow_strength=0` and no target.
        rule (`Callable`):
            As `benchmarks/study/rivals.py` describes it.

    Raises:
        `ValueError`: if a micro-batch is not the whole rollout batch, whose sums and ranks the rules are made of.
    """

    def __init__(self, *args, rule: Rule, **kwargs):
        super().__init__(*args, **kwargs)
        self.rule = rule
        parts = self.args.steps_per_generation * self.accelerator.num_processes  # type: ignore[operator]
        if parts != 1:
            raise ValueError(
                f"A rival's rule takes a whole rollout batch, but this one is split in {parts}: use one process and "
                "`steps_per_generation=1`."
            )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        # Without it OPEFO leaves the advantages as they are
        if inputs.pop("flow_coefficient", None) is not None:
            advantages, mask = inputs["advantages"].unsqueeze(1), self._loss_mask(inputs)  # (B, 1), (B, T)
            changed = self.rule(advantages, inputs["flow_logps"], inputs["flow_entropies"], mask)  # (B, T)
            relevant = (advantages != 0) & mask.bool()  # (B, T)
            if relevant.any():
                share = (changed != advantages)[relevant].float().mean()
                self._metrics["train"]["changed_share"].append(share.item())
            inputs["advantages"] = changed
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


@dataclass(frozen=True)
class Arm:
    """
    One way to train.

    Args:
        label (`str`):
            For the report.
        seeds (`int`):
            Seeds that it is run with by default: 1, 2, … up to this.
        settings (`dict[str, Any]`, *optional*):
            Fields of [`~opefo_trl.OPEFOConfig`].
        make_rule (`Callable[[int], Rule]`, *optional*):
            From the seed, the rule of a rival.
        updates (`int`, *optional*, defaults to `1`):
            Optimizer steps per rollout batch. 0: no training, the base model is tested.
        entropy_target (`float`, *optional*):
            Level that the method steers to or switches at, in nats per token.
    """

    label: str
    seeds: int
    settings: dict[str, Any] = field(default_factory=dict)
    make_rule: Callable[[int], Rule] | None = None
    updates: int = 1
    entropy_target: float | None = None


def make_arms(task: Task) -> dict[str, Arm]:
    """The arms by name. Every rival that wants a level of entropy gets the task's low one."""
    low, high = task.entropy_targets
    grpo = {"flow_strength": 0.0}

    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    return {
        "base": Arm("base model", 1, updates=0),
        "grpo_8": Arm("GRPO, 8 updates a rollout", 3, {**grpo, "strict_on_policy": False}, updates=8),
        "grpo": Arm("GRPO, strict", 5, grpo),
        "opefo": Arm("OPEFO, exact", 5),
        "opefo_sampled": Arm("OPEFO, sampled", 3, {"flow_estimator": "sampled"}),
        "opefo_paper": Arm("OPEFO, paper", 3, {"flow_estimator": "paper"}),
        "opefo_low": Arm(f"OPEFO, target {low}", 5, {"flow_entropy_target": low}, entropy_target=low),
        "opefo_high": Arm(f"OPEFO, target {high}", 5, {"flow_entropy_target": high}, entropy_target=high),
        "stare": Arm("STARE", 3, grpo, lambda _: partial(stare, entropy_threshold=low), entropy_target=low),
        "steer": Arm("STEER", 3, grpo, lambda _: steer),
        "repo_r": Arm("REPO-R", 3, grpo, lambda _: RepoR(low), entropy_target=low),
        "clip_cov": Arm("Clip-Cov", 3, grpo, lambda seed: partial(clip_cov, generator=generator(seed))),
        "top_20": Arm("80/20", 3, {**grpo, "top_entropy_quantile": 0.2}),
        # Step and bound of Skywork-OR1
        "entropy_bonus": Arm(
            "adaptive entropy bonus",
            3,
            {
                **grpo,
                "use_adaptive_entropy": True,
                "entropy_target": low,
                "entropy_coef_delta": 1e-4,
                "entropy_coef_max": 5e-3,
            },
            entropy_target=low,
        ),
        "random_drop": Arm(
            "random drop of 20 %", 3, grpo, lambda seed: partial(random_drop, generator=generator(seed))
        ),
    }


def find_arm(task: Task, name: str) -> Arm:
    """
    An arm by its name, or one with settings of its own changed, as in `"opefo_low flow_entropy_gain=4"`.

    Raises:
        `ValueError`: if there is no such arm.
    """
    base, *changes = name.split()
    arms = make_arms(task)
    if base not in arms:
        raise ValueError(f"There is no arm {base!r}: take one of {', '.join(arms)}.")
    changed = {key: yaml.safe_load(value) for key, value in (change.split("=") for change in changes)}
    target = changed.get("flow_entropy_target", arms[base].entropy_target)
    return replace(arms[base], settings={**arms[base].settings, **changed}, entropy_target=target)
