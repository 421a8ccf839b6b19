"""The weight of a token in TRL's loss: the table of `docs/method.md`, section "The weight c", as code."""

from typing import Any

import torch
from trl import GRPOConfig, GRPOTrainer


def loss_mask(inputs: dict[str, Any]) -> torch.Tensor:
    """1 where TRL trains the token, 0 elsewhere (padding, tool tokens, truncated completions); shape `(B, T)`."""
    mask = inputs["completion_mask"]
    return mask * inputs["tool_mask"] if "tool_mask" in inputs else mask  # (B, T)


def advantages_per_token(inputs: dict[str, Any]) -> torch.Tensor:
    """TRL's advantages of shape `(B,)` as `(B, 1)`; those that a subclass makes per token stay `(B, T)`."""
    advantages = inputs["advantages"]
    return advantages.unsqueeze(1) if advantages.dim() == 1 else advantages  # (B, 1) or (B, T)


def mean_weights(inputs: dict[str, Any], args: GRPOConfig, num_processes: int) -> torch.Tensor:
    """
    Weight of each token in the mean that TRL's loss takes over one micro-batch, before any factor of a token.

    Args:
        inputs (`dict[str, Any]`):
            Micro-batch as [`~trl.GRPOTrainer`] hands it to its loss.
        args ([`~trl.GRPOConfig`]):
            Settings of the training. `loss_type` decides.
        num_processes (`int`):
            Processes that train. Only the loss types that divide by the number of all trained tokens (`"dapo"`,
            `"cispo"`, `"vespo"`) read it, and `num_items_in_batch` of `inputs`.

    Returns:
        `torch.Tensor` of shape `(B, T)`, per token.

    Raises:
        `ValueError`: if the loss type is not one of TRL's.
    """
    mask = loss_mask(inputs).float()  # (B, T)
    num_sequences = mask.size(0)
    if args.loss_type in ("grpo", "sapo"):
        return mask / mask.sum(-1, keepdim=True).clamp(min=1.0) / num_sequences
    if args.loss_type == "bnpo":
        return mask / mask.sum().clamp(min=1.0)
    if args.loss_type == "dr_grpo":
        return mask / (num_sequences * args.max_completion_length)  # type: ignore[operator]  # refused where unset
    if args.loss_type == "luspo":
        return mask / num_sequences
    if args.loss_type in ("dapo", "cispo", "vespo"):
        num_micro_batches = args.steps_per_generation * num_processes  # type: ignore[operator]  # set by GRPOConfig
        return mask / (inputs["num_items_in_batch"].clamp(min=1.0) / num_micro_batches)
    raise ValueError(
        f"Loss type {args.loss_type!r} has no known token weights, so its entropy flow cannot be balanced."
    )


def token_weights(
    inputs: dict[str, Any],
    args: GRPOConfig,
    num_processes: int,
    logps: torch.Tensor,
    entropy_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Weight c of each token in TRL's loss over one micro-batch, at ratio 1: the gradient of the loss with respect to
    ln p is −c·A.

    Args:
        inputs, args, num_processes:
            As [`mean_weights`] takes them. Advantages of `inputs` may be `(B,)` or `(B, T)`; their signs matter.
        logps (`torch.Tensor` of shape `(B, T)`):
            ln p of the policy. Only `off_policy_mask_threshold` reads it.
        entropy_mask (`torch.Tensor` of shape `(B, T)`, *optional*):
            What TRL multiplies the loss of a token with where `top_entropy_quantile` is below 1.

    Returns:
        `torch.Tensor` of shape `(B, T)`, per token.
    """
    weights = mean_weights(inputs, args, num_processes)  # (B, T)
    mask, advantages = loss_mask(inputs), advantages_per_token(inputs)  # (B, T), (B, 1) or (B, T)
    sampler_ratio = inputs.get("importance_sampling_ratio")  # (B, T) or (B, 1), vLLM only
    if args.loss_type == "cispo":
        weights = weights * min(1.0, args.epsilon if args.epsilon_high is None else args.epsilon_high)
    if args.loss_type == "vespo":
        weights = weights * GRPOTrainer.get_gamma_weights(
            advantages=advantages,
            log_ratio_per_token=torch.zeros_like(weights),
            mask=mask,
            importance_sampling_ratio=sampler_ratio,
            k_pos=args.vespo_k_pos,
            lambda_pos=args.vespo_lambda_pos,
            k_neg=args.vespo_k_neg,
            lambda_neg=args.vespo_lambda_neg,
        )
    elif sampler_ratio is not None:
        weights = weights * sampler_ratio
    if args.off_policy_mask_threshold is not None:
        weights = weights * GRPOTrainer.get_off_policy_mask(
            advantages=advantages,
            per_token_logps=logps,
            sampling_per_token_logps=inputs.get("sampling_per_token_logps", logps),
            mask=mask,
            off_policy_threshold=args.off_policy_mask_threshold,
        )
    return weights if entropy_mask is None else weights * entropy_mask  # (B, T)


def loss_gradient(
    inputs: dict[str, Any],
    args: GRPOConfig,
    num_processes: int,
    logps: torch.Tensor,
    entropy_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    What the gradient of TRL's loss over one micro-batch must be with respect to ln p, at ratio 1.

    −c·A, and where `beta` is not 0 the slope of the KL penalty, which no factor of a token scales. Its estimator
    e^x − x − 1 with x = ln p_ref − ln p has the slope 1 − e^x, and −x if `use_bias_correction_kl` multiplies it with
    the ratio. The entropy bonus and the auxiliary loss do not depend on ln p.

    Args:
        inputs, args, num_processes, logps, entropy_mask:
            As [`token_weights`] takes them.

    Returns:
        `torch.Tensor` of shape `(B, T)`, before the division by the number of accumulated micro-batches.
    """
    weights = token_weights(inputs, args, num_processes, logps, entropy_mask)  # (B, T)
    gradient = -weights * advantages_per_token(inputs)  # (B, T)
    if args.beta != 0.0:
        difference = inputs["ref_per_token_logps"] - logps  # (B, T)
        slope = -difference if args.use_bias_correction_kl else 1 - difference.exp()  # (B, T)
        gradient = gradient + args.beta * slope * mean_weights(inputs, args, num_processes)
    return gradient


def spread_over_sequence(factors: torch.Tensor, mask: torch.Tensor, loss_type: str) -> torch.Tensor:
    """
    Factors of tokens as sequence-level importance sampling applies them at ratio 1.

    There the factor of a token multiplies the coefficient of its whole sequence, so that every token of the sequence
    carries their mean. `"cispo"` and `"vespo"` multiply ln p of the token itself, at either level.

    Args:
        factors (`torch.Tensor` of shape `(B, T)` or `(B, 1)`):
            vLLM's ratio, or the high-entropy mask.
        mask (`torch.Tensor` of shape `(B, T)`):
            1 where the token is trained.
        loss_type (`str`):
            `loss_type` of [`~trl.GRPOConfig`].

    Returns:
        `torch.Tensor`: `factors`, or their means of shape `(B, 1)`.
    """
    if loss_type in ("cispo", "vespo"):
        return factors
    return (factors * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1.0)
