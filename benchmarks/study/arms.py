"""The arms of the study: what each changes against the task's settings."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import yaml

from benchmarks.study import forms
from benchmarks.study.rivals import Entrocraft, EntroPIC, RepoR, clip_cov, random_drop, stare, steer
from benchmarks.study.tasks import STEPS, Task
from opefo_trl import OPEFOTrainer
from opefo_trl.entropy_flow.weights import loss_mask


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

    def __init__(self, *args, rule: Callable[..., Any], **kwargs):
        super().__init__(*args, **kwargs)
        self.rule = rule
        parts = self.args.steps_per_generation * self.accelerator.num_processes  # type: ignore[operator]
        if parts != 1:
            raise ValueError(
                f"A rival's rule takes a whole rollout batch, but this one is split in {parts}: use one process and "
                "`steps_per_generation=1`."
            )

    def apply_rule(self, inputs: dict[str, Any], advantages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the rule makes of the advantages, shape `(B, T)`."""
        return self.rule(advantages, inputs["flow_logps"], inputs["flow_entropies"], mask)

    def _new_advantages(self, inputs: dict[str, Any]) -> torch.Tensor:
        advantages, mask = inputs["advantages"].unsqueeze(1), loss_mask(inputs)  # (B, 1), (B, T)
        changed = self.apply_rule(inputs, advantages, mask)  # (B, T)
        relevant = (advantages != 0) & mask.bool()  # (B, T)
        if relevant.any():
            share = (changed != advantages)[relevant].float().mean()
            self._metrics["train"]["changed_share"].append(share.item())
        return changed


class FormTrainer(RivalTrainer):
    """OPEFO with another form of the coefficient, a rule as `benchmarks/study/forms.py` describes it."""

    def apply_rule(self, inputs: dict[str, Any], advantages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        flow = self._token_weights(inputs) * advantages * inputs["flow_sensitivities"]  # (B, T)
        up, down = self.rule(forms.Batch(flow, advantages, inputs["flow_entropies"], mask))
        factors = torch.where(flow > 0, up, torch.where(flow < 0, down, 1.0))  # (B, T)
        return advantages * factors


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
        make_rule (`Callable[[int], Callable]`, *optional*):
            From the seed, the rule that `trainer` takes.
        updates (`int`, *optional*, defaults to `1`):
            Optimizer steps per rollout batch. 0: no training, the base model is tested.
        entropy_target (`float`, *optional*):
            Level that the method steers to or switches at, in nats per token.
        trainer (`type[OPEFOTrainer]`, *optional*, defaults to [`~opefo_trl.OPEFOTrainer`]):
            What trains.
    """

    label: str
    seeds: int
    settings: dict[str, Any] = field(default_factory=dict)
    make_rule: Callable[[int], Callable] | None = None
    updates: int = 1
    entropy_target: float | None = None
    trainer: type[OPEFOTrainer] = OPEFOTrainer


def make_arms(task: Task) -> dict[str, Arm]:
    """The arms by name. Every rival that wants a level of entropy gets the task's low one."""
    low, high = task.entropy_targets
    grpo = {"flow_strength": 0.0}

    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def rival(label: str, make_rule: Callable[[int], Callable], entropy_target: float | None = None) -> Arm:
        return Arm(label, 3, grpo, make_rule, entropy_target=entropy_target, trainer=RivalTrainer)

    return {
        "base": Arm("base model", 1, updates=0),
        "grpo_8": Arm("GRPO, 8 updates a rollout", 3, {**grpo, "strict_on_policy": False}, updates=8),
        "grpo": Arm("GRPO, strict", 5, grpo),
        "opefo": Arm("OPEFO, exact", 5),
        "opefo_sampled": Arm("OPEFO, sampled", 3, {"flow_estimator": "sampled"}),
        "opefo_paper": Arm("OPEFO, paper", 3, {"flow_estimator": "paper"}),
        "opefo_low": Arm(f"OPEFO, target {low}", 5, {"flow_entropy_target": low}, entropy_target=low),
        "opefo_high": Arm(f"OPEFO, target {high}", 5, {"flow_entropy_target": high}, entropy_target=high),
        "stare": rival("STARE", lambda _: partial(stare, entropy_threshold=low), entropy_target=low),
        "steer": rival("STEER", lambda _: steer),
        "repo_r": rival("REPO-R", lambda _: RepoR(low), entropy_target=low),
        "clip_cov": rival("Clip-Cov", lambda seed: partial(clip_cov, generator=generator(seed))),
        "entropic": rival("EntroPIC", lambda _: EntroPIC(low), entropy_target=low),
        "entrocraft": rival("Entrocraft", lambda _: Entrocraft(high, low, STEPS), entropy_target=low),
        "top_20": Arm("80/20", 3, {**grpo, "top_entropy_quantile": 0.2}),
        "opefo_top_20": Arm("OPEFO, exact, 80/20", 3, {"top_entropy_quantile": 0.2}),
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
        "random_drop": rival("random drop of 20 %", lambda seed: partial(random_drop, generator=generator(seed))),
    }


def make_forms(task: Task) -> dict[str, Arm]:
    """OPEFO with other forms of the coefficient, by name; run where `--arms` names them."""
    low, high = task.entropy_targets

    def form(label: str, make_rule: Callable[[int], Callable], entropy_target: float | None = None) -> Arm:
        settings = {"flow_strength": 0.0}
        return Arm(f"OPEFO, {label}", 3, settings, make_rule, entropy_target=entropy_target, trainer=FormTrainer)

    return {
        "overbalanced": form("λ × 1.5", lambda _: forms.overbalanced),
        "raise_only": form("raising side only", lambda _: forms.raise_only),
        "lower_only": form("lowering side only", lambda _: forms.lower_only),
        "per_sequence": form("a λ per completion", lambda _: forms.per_sequence),
        "smoothed": form("λ of ten batches", lambda _: forms.Smoothed()),
        "schedule": form(
            f"target {high} to {low}", lambda _: forms.Schedule(high, low, STEPS), entropy_target=(low + high) / 2
        ),
        "by_failure": form(f"target {high} by failure", lambda _: partial(forms.by_failure, target=high)),
        "wrong_only": form(f"target {high}, wrong answers", lambda _: partial(forms.wrong_only, target=high)),
        "forks_only": form(f"target {high}, fork tokens", lambda _: partial(forms.forks_only, target=high)),
        "integral": form(f"target {low}, integral", lambda _: forms.Integral(low), entropy_target=low),
    }


def find_arm(task: Task, name: str) -> Arm:
    """
    An arm by its name, or one with settings of its own changed, as in `"opefo_low flow_entropy_gain=4"`.

    Raises:
        `ValueError`: if there is no such arm.
    """
    base, *changes = name.split()
    arms = make_arms(task) | make_forms(task)
    if base not in arms:
        raise ValueError(f"There is no arm {base!r}: take one of {', '.join(arms)}.")
    changed = {key: yaml.safe_load(value) for key, value in (change.split("=") for change in changes)}
    target = changed.get("flow_entropy_target", arms[base].entropy_target)
    return replace(arms[base], settings={**arms[base].settings, **changed}, entropy_target=target)
