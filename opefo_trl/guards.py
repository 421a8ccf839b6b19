"""Guards against what would ruin a run: infinite rewards, NaN in the policy, a reward function that fails."""

import functools
import traceback
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.logging import get_logger
from accelerate.utils import operations
from trl.trainer.utils import get_callable_name, is_async_callable

from .hanging import SlowReward, code_of


if TYPE_CHECKING:
    from trl import GRPOTrainer as Base
else:
    Base = object  # what the mixin is mixed with

logger = get_logger(__name__)


class RunStopped(RuntimeError):
    """Training cannot continue. The message says why and what to do."""


class GuardedRollouts(Base):
    """
    Mixin for a [`~trl.GRPOTrainer`]: an infinite reward counts as no reward, and weights that are NaN or infinite stop
    the run with a [`RunStopped`]. Exceptions of the user's own functions pass unchanged.
    """

    def __init__(self, *trl_args: Any, **trl_kwargs: Any):
        super().__init__(*trl_args, **trl_kwargs)
        self.reward_funcs = [
            reward if isinstance(reward, torch.nn.Module) else checked_reward(reward, self.args.reward_warn_seconds)  # type: ignore[arg-type, attr-defined]
            for reward in self.reward_funcs
        ]

    # Infinite rewards of a rollout batch, over all processes; `None` if a subclass replaces `_calculate_rewards`
    _num_infinite: torch.Tensor | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        try:
            return super()._generate_and_score_completions(inputs)
        except RuntimeError as error:  # sampling from NaN is one
            if all(parameter.isfinite().all() for parameter in self.model.parameters()):  # type: ignore[union-attr]
                raise
            raise RunStopped(
                f"The model's weights are NaN or infinite at step {self.state.global_step}. Resume from an earlier "
                "checkpoint (`resume_from_checkpoint`) with a lower `learning_rate` or `max_grad_norm`."
            ) from error

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        rewards = super()._calculate_rewards(*args, **kwargs)  # (B, rewards)
        # Infinite rewards would make every advantage of the group NaN or infinite. NaN is TRL's "no reward"
        infinite = rewards.isinf()
        self._num_infinite = infinite.sum()
        return rewards.masked_fill(infinite, torch.nan)


def checked_reward(reward: Callable[..., Any], warn_seconds: float) -> Callable[..., Any]:
    """Wrap a reward function: warn if it takes long, and check its values before TRL uses them."""
    slow = SlowReward(reward, warn_seconds)
    if is_async_callable(reward):

        @functools.wraps(reward)
        async def checked_async(*args: Any, **kwargs: Any) -> Any:
            with slow.watch():
                values = await reward(*args, **kwargs)
            return check_values(reward, values, len(kwargs["completions"]))

        return checked_async

    @functools.wraps(reward)
    def checked(*args: Any, **kwargs: Any) -> Any:
        with slow.watch():
            values = reward(*args, **kwargs)
        return check_values(reward, values, len(kwargs["completions"]))

    return checked


def check_values(reward: Callable[..., Any], values: Any, num_completions: int) -> Any:
    """
    The values that a reward function returned, if TRL can use them.

    Raises:
        `RunStopped`: if they are not one number or `None` per completion.
    """
    try:
        found = None if len(values) == num_completions else f"{len(values)} value(s)"
    except TypeError:
        found = repr(values)
    if found is None:
        wrong = [
            value for value in values if not (value is None or isinstance(value, Real | torch.Tensor | np.generic))
        ]
        found = f"a list that contains {wrong[0]!r}" if wrong else None
    if found is None:
        return values
    code = code_of(reward)
    place = f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""
    raise RunStopped(
        f"Reward function `{get_callable_name(reward)}`{place} returned {found}. It must return a list of "
        f"{num_completions} values, one for each completion: each a number, or None for no reward."
    )


def count_lost(inputs: dict[str, Any], mask: torch.Tensor) -> torch.Tensor:
    """
    Number of tokens at which TRL's loss is not finite. Masked tokens count: 0 times NaN is NaN in a masked sum.

    Args:
        inputs (`dict[str, Any]`):
            Measured micro-batch.
        mask (`torch.Tensor` of shape `(B, T)`):
            1 where the token is trained.

    Returns:
        `torch.Tensor`, 0-d, float32.
    """
    in_loss = [inputs.get(name) for name in ("flow_logps", "ref_per_token_logps", "importance_sampling_ratio")]
    is_finite = torch.stack([x.isfinite().expand_as(mask) for x in in_loss if x is not None]).all(0)  # (B, T)
    return (~is_finite).float().sum()


def check_counts(num_lost: float, num_infinite: float, step: int) -> None:
    """
    Stop the run if tokens of a rollout batch are lost, and warn about infinite rewards.

    Raises:
        `RunStopped`: if the loss is not finite at a token.
    """
    if num_lost:
        raise RunStopped(
            f"At step {step}, {num_lost:.0f} tokens have a log-probability or an importance sampling ratio that is "
            "NaN or infinite. Training on them would make the weights NaN, so the run was stopped. Resume from an "
            "earlier checkpoint (`resume_from_checkpoint`) with a lower `learning_rate`, and with `bf16` instead of "
            "`fp16`."
        )
    if num_infinite:
        logger.warning(
            f"{num_infinite:.0f} reward value(s) were infinite at step {step}. They are ignored, as if the reward "
            "function had returned None."
        )


def describe_failed_reward(error: Exception, step: int) -> str | None:
    """
    Message for an exception that a reward function raised, or that TRL raised because of what the function returned.
    `None` for any other exception.
    """
    frames = traceback.extract_tb(error.__traceback__)
    names = [frame.name for frame in frames]
    # While the processes exchange their rewards, an exception means that another process is gone
    if "_calculate_rewards" not in names or any(frame.filename == operations.__file__ for frame in frames):
        return None
    place = frames[-1]
    return (
        f"A reward function failed at step {step}, in {place.name} ({place.filename}, line {place.lineno}): "
        f"{type(error).__name__}: {error}"
    )
