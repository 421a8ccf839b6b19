"""`OPEFOConfig`: GRPO's settings and the knobs of the entropy flow."""

import warnings
from dataclasses import dataclass, field

from trl import GRPOConfig


FLOW_ESTIMATORS = ("exact", "sampled", "paper")


@dataclass
class OPEFOConfig(GRPOConfig):
    r"""
    Configuration class for the [`OPEFOTrainer`].

    It inherits every parameter of [`~trl.GRPOConfig`] and adds the knobs of *On-Policy Entropy Flow Optimization*
    (arXiv 2605.11491). Per update, the trainer weighs tokens that raise entropy by `1 + λ` and tokens that lower it by
    `1 − λ`, with

        λ = clip(strength · (N − P) / (N + P) + gain · (H* − H̄) / H*, −λ_max, λ_max)

    where `P` and `N` are the batch's entropy-increasing and -decreasing flow and `H̄` its mean token entropy.

    Parameters:
        flow_estimator (`str`, *optional*, defaults to `"exact"`):
            How a token's entropy change is estimated:

            - `"exact"`: the first-order change of the entropy at its position.
            - `"sampled"`: without the sum over the vocabulary.
            - `"paper"`: the paper's estimate as a value per sampled token, reconstructed from a published numeric
              example, not from the authors' code.
        flow_strength (`float`, *optional*, defaults to `1.0`):
            Share of the balance to apply, in [0, 1]. 1 is the paper's rule. 0 without an entropy target is GRPO; the
            flows are still measured and logged.
        flow_max_coefficient (`float`, *optional*, defaults to `0.5`):
            Bound λ_max on |λ|, in (0, 1). Below 1 every token keeps the sign of its advantage. Not in the paper.
        flow_entropy_target (`float`, *optional*):
            Mean token entropy to steer toward, H*, in nats. Not in the paper.
        flow_entropy_target_ratio (`float`, *optional*):
            H* as a fraction of the mean token entropy of the first batch, which is kept in the checkpoint. Excludes
            `flow_entropy_target`.
        flow_entropy_gain (`float`, *optional*, defaults to `4.0`):
            Gain of the target term, ≥ 0, dimensionless. Read only with a target.
        strict_on_policy (`bool`, *optional*, defaults to `True`):
            Refuse settings that take more than one optimizer step per rollout batch. The paper is strictly on-policy,
            and the flow of a batch describes only the step taken from the policy that sampled it. `False` turns the
            refusal into a warning.

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
        metadata={"help": "Share of the balance to apply, in [0, 1]. 0 without an entropy target is GRPO."},
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
            "help": "Entropy target as a fraction of the first batch's mean token entropy. Excludes "
            "`flow_entropy_target`."
        },
    )
    flow_entropy_gain: float = field(
        default=4.0,
        metadata={"help": "Gain of the entropy target term, at least 0. Read only with a target."},
    )
    strict_on_policy: bool = field(
        default=True,
        metadata={
            "help": "Refuse settings that take more than one optimizer step per rollout batch. `False` warns instead."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.flow_estimator not in FLOW_ESTIMATORS:
            raise ValueError(f"`flow_estimator` must be one of {FLOW_ESTIMATORS}, got {self.flow_estimator!r}.")
        if not 0.0 <= self.flow_strength <= 1.0:
            raise ValueError(f"`flow_strength` must be in [0, 1], got {self.flow_strength}.")
        if not 0.0 < self.flow_max_coefficient < 1.0:
            raise ValueError(
                f"`flow_max_coefficient` must be in (0, 1), got {self.flow_max_coefficient}: from 1 on, a token would "
                "lose or change the sign of its advantage. To switch the balance off, set `flow_strength=0`."
            )
        for name in ("flow_entropy_target", "flow_entropy_target_ratio"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < float("inf"):
                raise ValueError(f"`{name}` must be a positive number or left unset, got {value}.")
        if self.flow_entropy_target is not None and self.flow_entropy_target_ratio is not None:
            raise ValueError(
                "`flow_entropy_target` and `flow_entropy_target_ratio` both set the entropy target: remove one."
            )
        if not 0.0 <= self.flow_entropy_gain < float("inf"):
            raise ValueError(f"`flow_entropy_gain` must be a number of at least 0, got {self.flow_entropy_gain}.")
        if self.importance_sampling_level == "sequence":
            raise ValueError(
                "`importance_sampling_level='sequence'` spreads each token's weight over its whole sequence, which "
                "undoes a balance between tokens: set `importance_sampling_level='token'`."
            )
        if not self.is_on_policy:
            message = (
                f"OPEFO takes one optimizer step per rollout batch, but `gradient_accumulation_steps` "
                f"({self.gradient_accumulation_steps}) is not a multiple of `steps_per_generation` × `num_iterations` "
                f"({self.steps_per_generation} × {self.num_iterations}), so later steps train on a stale policy's "
                f"tokens: set `num_iterations=1` and `steps_per_generation={self.gradient_accumulation_steps}` "
                "(or leave it unset)"
            )
            if self.strict_on_policy:
                raise ValueError(f"{message}, or set `strict_on_policy=False` to train off-policy anyway.")
            warnings.warn(f"{message}. Training off-policy, as `strict_on_policy=False` asks.", stacklevel=2)

    @property
    def is_on_policy(self) -> bool:
        """Whether each rollout batch is trained on before the policy that sampled it changes."""
        steps_per_rollout = self.steps_per_generation * self.num_iterations  # type: ignore[operator]  # set by GRPOConfig
        return self.gradient_accumulation_steps % steps_per_rollout == 0
