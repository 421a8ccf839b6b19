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
    Weight of each token in the mean that TRL's loss takes over one micro-batch, before any factor per token.

    Args:
        inputs (`dict[str, Any]`):
            Micro-batch as [`~trl.GRPOTrainer`] passes it to its loss.
        args ([`~trl.GRPOConfig`]):
            Training settings. `loss_type` selects the formula.
        num_processes (`int`):
            Number of training processes. Like `num_items_in_batch` of `inputs`, it matters only for the loss types
            that divide by the number of all trained tokens (`"dapo"`, `"cispo"`, `"vespo"`).

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
            As in [`mean_weights`]. Advantages of `inputs` may be `(B,)` or `(B, T)`; their signs matter.
        logps (`torch.Tensor` of shape `(B, T)`):
            ln p of the policy. Used only with `off_policy_mask_threshold`.
        entropy_mask (`torch.Tensor` of shape `(B, T)`, *optional*):
            Factor of a token's loss in TRL if `top_entropy_quantile` is below 1.

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
    Expected gradient of TRL's loss over one micro-batch with respect to ln p, at ratio 1.

    It is −c·A, plus the slope of the KL penalty if `beta` is not 0. No factor per token scales this slope. The KL
    estimator is e^x − x − 1 with x = ln p_ref − ln p. Its slope is 1 − e^x, or −x if `use_bias_correction_kl`
    multiplies it by the ratio. The entropy bonus and the auxiliary loss do not depend on ln p.

    Args:
        inputs, args, num_processes, logps, entropy_mask:
            As in [`token_weights`].

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

    At sequence level, the factor of a token multiplies the coefficient of its whole sequence. In effect, every token
    of the sequence gets the mean factor. `"cispo"` and `"vespo"` multiply ln p of the token itself, at either level.

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
