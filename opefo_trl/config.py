"""`OPEFOConfig`: GRPO's settings and those of the entropy flow."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from trl import GRPOConfig
from trl.trainer.utils import get_config_model_id


FLOW_ESTIMATORS = ("exact", "sampled", "paper")
LOSS_TYPES = ("grpo", "sapo", "bnpo", "dr_grpo", "luspo", "dapo", "cispo", "vespo")

# Allowed values of a number: in words, and as a test
_Range = tuple[str, Callable[[Any], bool]]
_SHARE: _Range = ("in [0, 1]", lambda x: 0.0 <= x <= 1.0)
_INSIDE: _Range = ("in (0, 1)", lambda x: 0.0 < x < 1.0)
_POSITIVE: _Range = ("a positive number", lambda x: 0.0 < x < math.inf)
_NOT_NEGATIVE: _Range = ("a number of at least 0", lambda x: 0.0 <= x < math.inf)
_FINITE: _Range = ("a number", lambda x: math.isfinite(x))
# Infinity switches these off
_BOUND: _Range = ("at least 0", lambda x: x >= 0.0)
_POSITIVE_BOUND: _Range = ("above 0", lambda x: x > 0.0)
_BOUND_FROM_ONE: _Range = ("at least 1", lambda x: x >= 1.0)
_COUNT: _Range = ("a whole number of at least 1", lambda x: isinstance(x, Integral) and int(x) >= 1)
_COUNT_FROM_TWO: _Range = ("a whole number of at least 2", lambda x: isinstance(x, Integral) and int(x) >= 2)

# Every number that affects the balance, or the weight of a token in the loss (docs/method.md). TRL accepts any value,
# and then fails later or trains something else
_NUMBERS: dict[str, _Range] = {
    "flow_strength": _SHARE,
    "flow_max_coefficient": _INSIDE,
    "flow_entropy_target": _POSITIVE,
    "flow_entropy_target_ratio": _POSITIVE,
    "flow_entropy_gain": _NOT_NEGATIVE,
    "reward_warn_seconds": _POSITIVE_BOUND,
    "per_device_train_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "steps_per_generation": _COUNT,
    "generation_batch_size": _COUNT,
    "num_generations": _COUNT_FROM_TWO,
    "num_iterations": _COUNT,
    "max_completion_length": _COUNT,
    "temperature": _POSITIVE,
    "top_entropy_quantile": _SHARE,
    "off_policy_mask_threshold": _BOUND,
    "epsilon": _BOUND,
    "epsilon_high": _BOUND,
    "delta": _BOUND_FROM_ONE,
    "sapo_temperature_pos": _POSITIVE,
    "sapo_temperature_neg": _POSITIVE,
    "vespo_k_pos": _NOT_NEGATIVE,
    "vespo_lambda_pos": _NOT_NEGATIVE,
    "vespo_k_neg": _NOT_NEGATIVE,
    "vespo_lambda_neg": _NOT_NEGATIVE,
    "beta": _NOT_NEGATIVE,
    "entropy_coef": _FINITE,
    "vllm_importance_sampling_clip_min": _BOUND,
    "vllm_importance_sampling_clip_max": _POSITIVE_BOUND,
}
_MAY_BE_UNSET = {
    "flow_entropy_target",
    "flow_entropy_target_ratio",
    "steps_per_generation",
    "generation_batch_size",
    "max_completion_length",
    "off_policy_mask_threshold",
    "epsilon_high",
    "delta",
    "vllm_importance_sampling_clip_min",
    "vllm_importance_sampling_clip_max",
}
_CHOICES: dict[str, tuple] = {
    "flow_estimator": FLOW_ESTIMATORS,
    "strict_on_policy": (True, False),
    "loss_type": LOSS_TYPES,
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "mask_truncated_completions": (True, False),
    "use_vllm": (True, False),
    "vllm_importance_sampling_correction": (True, False),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}
_REASONS = {
    "flow_max_coefficient": "1 or more would zero or flip the advantages of some tokens (to switch the balance off, "
    "set `flow_strength=0`)",
    "epsilon": "with a lower value, the on-policy ratio of 1 would be clipped",
    "epsilon_high": "with a lower value, the on-policy ratio of 1 would be clipped",
    "delta": "with a lower value, the on-policy ratio of 1 would be clipped",
}


@dataclass
class OPEFOConfig(GRPOConfig):
    r"""
    Configuration class for the [`OPEFOTrainer`].

    It inherits every parameter of [`~trl.GRPOConfig`] and adds those of *On-Policy Entropy Flow Optimization* (arXiv
    2605.11491). In each update, the trainer multiplies the advantages of tokens that raise entropy by `1 + λ`, and of
    tokens that lower it by `1 − λ`, with

        λ = clip(strength · (N − P) / (N + P) + gain · (H* − H̄) / H*, −λ_max, λ_max)

    where `P` and `N` are the batch's entropy-increasing and -decreasing flow, and `H̄` is its mean token entropy.

    Parameters:
        flow_estimator (`str`, *optional*, defaults to `"exact"`):
            How a token's entropy change is estimated:

            - `"exact"`: the first-order change of the entropy at its position.
            - `"sampled"`: the same without its sum over the vocabulary.
            - `"paper"`: the paper's estimate as a value per sampled token, reconstructed from a published numeric
              example, not from the authors' code.
        flow_strength (`float`, *optional*, defaults to `1.0`):
            Fraction of the correction to apply, in [0, 1]. 1 is the paper's rule. 0 without an entropy target is GRPO;
            the flows are still measured and logged.
        flow_max_coefficient (`float`, *optional*, defaults to `0.5`):
            Bound λ_max on |λ|, in (0, 1). Below 1 every token keeps the sign of its advantage. Not in the paper.
        flow_entropy_target (`float`, *optional*):
            Mean token entropy to steer toward, H*, in nats. Not in the paper.
        flow_entropy_target_ratio (`float`, *optional*):
            H* as a fraction of the mean token entropy of the first batch. H* is saved in the checkpoint. Cannot be
            combined with `flow_entropy_target`.
        flow_entropy_gain (`float`, *optional*, defaults to `4.0`):
            Gain of the target term, ≥ 0, dimensionless. Used only with a target.
        strict_on_policy (`bool`, *optional*, defaults to `True`):
            Whether to refuse settings that take more than one optimizer step per rollout batch. The paper is strictly
            on-policy, and the flow of a batch describes only the step from the policy that sampled it. With `False`,
            such settings give a warning.
        reward_warn_seconds (`float`, *optional*, defaults to `60.0`):
            Seconds after which a warning names a reward function that is still running, and the line that it is at.
            Infinity switches the warning off.

    Raises:
        `ValueError`: if a value is out of its range or the settings contradict each other.
    """

    flow_estimator: str = field(
        default="exact",
        metadata={
            "help": "How a token's entropy change is estimated: 'exact', 'sampled' (without the sum over the "
            "vocabulary) or 'paper' (reconstructed from a published numeric example).",
            "choices": list(FLOW_ESTIMATORS),
        },
    )
    flow_strength: float = field(
        default=1.0,
        metadata={"help": "Fraction of the correction to apply, in [0, 1]. 0 without an entropy target is GRPO."},
    )
    flow_max_coefficient: float = field(
        default=0.5,
        metadata={"help": "Bound on the absolute value of the balancing coefficient, in (0, 1)."},
    )
    flow_entropy_target: float | None = field(
        default=None,
        metadata={"help": "Mean token entropy to steer toward, in nats per token."},
    )
    flow_entropy_target_ratio: float | None = field(
        default=None,
        metadata={
            "help": "Entropy target as a fraction of the first batch's mean token entropy. Cannot be combined with "
            "`flow_entropy_target`."
        },
    )
    flow_entropy_gain: float = field(
        default=4.0,
        metadata={"help": "Gain of the entropy target term, at least 0. Used only with a target."},
    )
    strict_on_policy: bool = field(
        default=True,
        metadata={
            "help": "Refuse settings that take more than one optimizer step per rollout batch. `False` warns instead."
        },
    )
    reward_warn_seconds: float = field(
        default=60.0,
        metadata={"help": "Seconds after which a warning names a reward function that is still running."},
    )

    def __post_init__(self):
        if problems := self._problems():
            raise ValueError("; ".join(problems) + ".")
        size_is_given = self.generation_batch_size is not None
        super().__post_init__()
        if isinstance(self.generation_kwargs, dict):
            sampling_temperature = self.generation_kwargs.get("temperature", self.temperature)
            if sampling_temperature != self.temperature:
                raise ValueError(
                    f"`generation_kwargs` samples at temperature {sampling_temperature}, but the policy is trained at "
                    f"`temperature` {self.temperature}: set only `temperature`."
                )
        if self.accelerator_config.split_batches:  # type: ignore[union-attr]  # made by TrainingArguments
            raise ValueError(
                "`accelerator_config` must not enable `split_batches`: rollout batches would be smaller than "
                "`generation_batch_size`, and some prompts would silently be left out."
            )
        if not self.is_on_policy:
            steps = f"steps_per_generation={self.gradient_accumulation_steps}"
            if size_is_given:
                size = self.generation_batch_size * self.gradient_accumulation_steps // self.steps_per_generation  # type: ignore[operator]
                steps = f"generation_batch_size={size}"
            message = (
                f"OPEFO takes one optimizer step per rollout batch, but `gradient_accumulation_steps` "
                f"({self.gradient_accumulation_steps}) is not a multiple of `steps_per_generation` × `num_iterations` "
                f"({self.steps_per_generation} × {self.num_iterations}), so later steps train on a stale policy's "
                f"tokens: set `num_iterations=1` and `{steps}` (or leave it unset)"
            )
            how = "off-policy"
            if self.importance_sampling_level == "sequence":
                raise ValueError(
                    f"{message}; off-policy, `importance_sampling_level='sequence'` would spread the balance of a "
                    "token over its sequence, so `strict_on_policy=False` needs `importance_sampling_level='token'`."
                )
        elif self.num_iterations > 1:
            message = (
                f"`num_iterations` ({self.num_iterations}) repeats each rollout batch within one optimizer step "
                f"(`gradient_accumulation_steps` is {self.gradient_accumulation_steps}), which only multiplies its "
                "gradient: set `num_iterations=1`"
            )
            how = "this way"
        else:
            return
        if self.strict_on_policy:
            raise ValueError(f"{message}, or set `strict_on_policy=False` to train {how} anyway.")
        warnings.warn(f"{message}. Training {how}, as `strict_on_policy=False` asks.", stacklevel=2)

    def _problems(self) -> list[str]:
        """What is wrong with the given values, field by field, before TRL computes with them."""
        problems = []
        for name, (wanted, holds) in _NUMBERS.items():
            value = getattr(self, name)
            if value is None and name in _MAY_BE_UNSET:
                continue
            if not isinstance(value, Real) or isinstance(value, bool) or not holds(value):
                unset = " or left unset" if name in _MAY_BE_UNSET else ""
                problems.append(f"`{name}` must be {wanted}{unset}, got {value!r}{_reason(name)}")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                problems.append(f"`{name}` must be one of {choices}, got {value!r}{_reason(name)}")
        if self.flow_entropy_target is not None and self.flow_entropy_target_ratio is not None:
            problems.append(
                "`flow_entropy_target` and `flow_entropy_target_ratio` both set the entropy target: remove one"
            )
        if self.loss_type == "dr_grpo" and self.max_completion_length is None:
            problems.append("`loss_type='dr_grpo'` divides by `max_completion_length`: set it")
        if self.importance_sampling_level == "sequence" and self.beta != 0.0 and self.use_bias_correction_kl:
            problems.append(
                "`importance_sampling_level='sequence'` is run per token, but `use_bias_correction_kl` makes the KL "
                "penalty of `beta` depend on the level: set `use_bias_correction_kl=False`, `beta=0` or "
                "`importance_sampling_level='token'`"
            )
        return problems

    @property
    def is_on_policy(self) -> bool:
        """Whether each rollout batch is trained on before the policy that sampled it changes."""
        steps_per_rollout = self.steps_per_generation * self.num_iterations  # type: ignore[operator]  # set by GRPOConfig
        return self.gradient_accumulation_steps % steps_per_rollout == 0

    @property
    def balances(self) -> bool:
        """Whether λ can differ from 0. If not, the trainer only monitors the flows of GRPO."""
        return (self.flow_strength, self.flow_entropy_target, self.flow_entropy_target_ratio) != (0.0, None, None)

    @property
    def runs_sequence_level_per_token(self) -> bool:
        """
        Whether `importance_sampling_level="sequence"` is run as `"token"`. At ratio 1, both give the same update: the
        gradient of a sequence's coefficient is that of the mean of its tokens' ln p, and the loss sums it over them.
        """
        return self.importance_sampling_level == "sequence" and self.is_on_policy


def _reason(name: str) -> str:
    return f": {_REASONS[name]}" if name in _REASONS else ""


def with_config(trl_args: tuple, trl_kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """
    Positional and keyword arguments of a [`~trl.GRPOTrainer`], with a default [`OPEFOConfig`] if `args` is missing.

    Raises:
        `TypeError`: if `args` is another configuration.
    """
    args = trl_args[2] if len(trl_args) > 2 else trl_kwargs.get("args")
    if args is None:
        model = trl_args[0] if trl_args else trl_kwargs["model"]
        name = model if isinstance(model, str) else get_config_model_id(model.config)
        args = OPEFOConfig(f"{name.split('/')[-1]}-OPEFO")
        if len(trl_args) > 2:
            return (*trl_args[:2], args, *trl_args[3:]), trl_kwargs
        return trl_args, {**trl_kwargs, "args": args}
    if not isinstance(args, OPEFOConfig):
        raise TypeError(
            f"`args` must be an `OPEFOConfig`, got `{type(args).__name__}`: build it with "
            "`from opefo_trl import OPEFOConfig`, which takes every field of `GRPOConfig`, or with a subclass of both."
        )
    return trl_args, trl_kwargs
