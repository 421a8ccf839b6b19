"""The gradient of OPEFO's loss without TRL's loss or the package's weights: in float64, from full logits."""

import math
from typing import NamedTuple

import pytest
import torch
from accelerate.utils import gather_object
from conftest import relative_error

from opefo_trl.entropy_flow import entropy_sensitivity


# What `check_first_step` checks: the unclipped gradient of one step, over two micro-batches or more
ONE_STEP = {"max_steps": 1, "max_grad_norm": 0.0, "gradient_accumulation_steps": 2}


class Flow(NamedTuple):
    """Of one rollout batch. Closer than `margin`, no entropy comes to the threshold of `top_entropy_quantile`."""

    increase: float
    decrease: float
    coefficient: float
    entropy: float
    margin: float


def independent_flow(trainer, batches, policy, temperature, entropy_target=None):
    """
    The flow of one rollout batch, given as the micro-batches of all processes, those of the first process first; adds
    the gradient of −Σ c·A'·ln p to the policy. In float64, from full logits, without the package's weights.
    """
    args = trainer.args
    steps = args.gradient_accumulation_steps * args.world_size
    per_process = len(batches) // args.world_size
    masks = [b["completion_mask"] * b.get("tool_mask", 1) for b in batches]
    tokens = max(sum(mask.sum().item() for mask in masks), 1) * steps / len(batches)
    passes = []  # (ln p, s, H), each (B, T)
    for batch in batches:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        length = batch["completion_ids"].size(1)
        # the model's own forward, without TRL's fused head: full logits
        logits = policy(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1] / temperature  # (B, T, V)
        logps = logits.log_softmax(-1).gather(-1, batch["completion_ids"].unsqueeze(-1)).squeeze(-1)  # (B, T)
        with torch.no_grad():
            log_pi = logits.log_softmax(-1)
            entropies = -(log_pi.exp() * log_pi).sum(-1)  # (B, T)
            p, surprise = logps.exp(), logps + entropies  # (B, T)
            s = {
                "exact": entropy_sensitivity(logits, batch["completion_ids"]),
                "sampled": -p * surprise,
                "paper": -((1 - p) ** 2) * surprise,
            }[args.flow_estimator]  # (B, T)
        passes.append((logps, s, entropies))
    per_token, margin = [], float("inf")  # (c, A, s, ln p), each (B, T)
    for index, (batch, mask, (logps, s, entropies)) in enumerate(zip(batches, masks, passes, strict=True)):
        mask = mask.double()  # (B, T)
        advantages = batch["advantages"].double().unsqueeze(1).expand_as(mask)  # (B, T)
        rows, lengths = mask.size(0), mask.sum(-1, keepdim=True).clamp(min=1)
        weights = {
            "grpo": mask / lengths / rows / steps,
            "sapo": mask / lengths / rows / steps,
            "bnpo": mask / mask.sum().clamp(min=1) / steps,
            "dr_grpo": mask / rows / trainer.max_completion_length / steps,
            "luspo": mask / rows / steps,
            "dapo": mask / tokens,
            # clipped above at epsilon_high, which is epsilon, 0.2, by default
            "cispo": mask / tokens * min(1, args.epsilon if args.epsilon_high is None else args.epsilon_high),
            "vespo": mask / tokens,
        }[trainer.loss_type]
        if trainer.top_entropy_quantile < 1:
            # of this micro-batch on all processes
            together = range(index % per_process, len(batches), per_process)
            kept = torch.cat([passes[i][2][masks[i].bool()] for i in together]).sort().values
            if len(kept):
                # linear interpolation between order statistics, as `torch.quantile`
                position = (1 - trainer.top_entropy_quantile) * (len(kept) - 1)
                low = int(position)
                threshold = kept[low] + (position - low) * (kept[min(low + 1, len(kept) - 1)] - kept[low])
                is_kept = (entropies >= threshold).double()  # (B, T)
                if args.importance_sampling_level == "sequence" and trainer.loss_type not in ("cispo", "vespo"):
                    is_kept = (is_kept * mask).sum(-1, keepdim=True) / lengths  # (B, 1), multiplies the sequence
                weights = weights * is_kept
                # a threshold that is a token's own entropy is so in any precision
                distances = (kept - threshold).abs().tolist()
                margin = min([margin, *distances[: low + (position > low)], *distances[low + 1 :]])
        if trainer.use_vllm and trainer.vllm_importance_sampling_correction:
            bound = trainer.vllm_importance_sampling_clip_max
            level, cut = trainer.vllm_importance_sampling_mode.split("_")
            log_ratio = logps.detach() - batch["sampling_per_token_logps"]  # (B, T)
            # a log-probability that the sampler does not know corrects nothing
            log_ratio = torch.nan_to_num(log_ratio * mask, nan=0.0)
            if level == "sequence":
                log_ratio = log_ratio.sum(-1, keepdim=True)  # (B, 1)
            ratio = log_ratio.exp()  # (B, T) or (B, 1)
            ratio = ratio.clamp(max=bound) if cut == "truncate" else ratio * (ratio <= bound)
            if trainer.loss_type == "vespo":  # a weight per sequence, from its truncated ratios: φ = e^λ w^k e^(−λw)
                w = ratio.prod(-1, keepdim=True)  # (B, 1)
                power, rate = torch.where(advantages >= 0, 2.0, 3.0), torch.where(advantages >= 0, 3.0, 2.0)
                weights = weights * torch.exp(rate) * w**power * torch.exp(-rate * w)
            else:
                weights = weights * ratio
        if trainer.off_policy_mask_threshold is not None:
            drift = ((batch.get("sampling_per_token_logps", logps) - logps) * mask).sum(-1, keepdim=True) / lengths
            weights = weights * ((advantages >= 0) | (drift <= trainer.off_policy_mask_threshold))
        per_token.append((weights, advantages, s, logps))
    flow = torch.cat([(w * a * s).flatten() for w, a, s, _ in per_token])
    increase, decrease = flow[flow > 0].sum(), -flow[flow < 0].sum()
    total = increase + decrease
    coefficient = args.flow_strength * (decrease - increase) / total if total > 0 else total
    num_tokens = sum(mask.sum() for mask in masks)
    entropy = sum((h * mask).sum() for (_, _, h), mask in zip(passes, masks, strict=True)) / num_tokens
    if args.flow_entropy_target_ratio is not None and entropy_target is None:
        entropy_target = args.flow_entropy_target_ratio * entropy
    if entropy_target is not None and num_tokens > 0:
        coefficient = coefficient + args.flow_entropy_gain * (entropy_target - entropy) / entropy_target
    coefficient = coefficient.clamp(-args.flow_max_coefficient, args.flow_max_coefficient)
    loss = 0
    for weights, advantages, s, logps in per_token:
        scale = torch.where(advantages * s > 0, 1 + coefficient, 1 - coefficient)
        loss = loss - (weights * advantages * scale * logps).sum()
    loss.backward()
    return Flow(increase.item(), decrease.item(), coefficient.item(), entropy.item(), margin)


def first_step(trainer, keep, temperature):
    """Train one step; returns the flow of each of its rollout batches and the gradient, both as they must be."""
    rollouts = []
    flow_coefficient = trainer._flow_coefficient
    trainer._flow_coefficient = lambda batches: rollouts.append(batches) or flow_coefficient(batches)
    trainer.train()
    policy = keep.policy.double()
    flows: list[Flow] = []
    for batches in rollouts:
        target = trainer.args.flow_entropy_target
        # A ratio is that of the first rollout batch with a token
        if before := [flow.entropy for flow in flows if not math.isnan(flow.entropy)]:
            ratio = trainer.args.flow_entropy_target_ratio
            target = target if ratio is None else ratio * before[0]
        flows.append(independent_flow(trainer, gather_object(batches), policy, temperature, target))
    return flows, {name: p.grad for name, p in policy.named_parameters() if p.requires_grad}


def gradient_error(trainer, keep):
    """
    Train one step of whatever settings; returns the relative error of its gradient, and the margin of `Flow`, below
    which rounding alone decides which tokens `top_entropy_quantile` keeps.
    """
    flows, expected = first_step(trainer, keep, trainer.args.temperature)
    margin = min(flow.margin for flow in flows)
    logs = trainer.state.log_history[0]
    for name in ("increase", "decrease", "coefficient") if margin > 1e-5 else ():
        expected_log = sum(getattr(flow, name) for flow in flows) / len(flows)
        assert logs[f"entropy_flow/{name}"] == pytest.approx(expected_log, rel=2e-5, abs=1e-5), name
    if all((gradient == 0).all() for gradient in expected.values()):  # every completion masked, or no advantage
        assert all((gradient == 0).all() for gradient in keep.gradient.values())
        return 0.0, margin
    return relative_error(keep.gradient, expected), margin


def check_first_step(trainer, keep, temperature=1.0):
    flows, expected = first_step(trainer, keep, temperature)
    # the log of a step is the mean over its rollout batches
    increase, decrease, coefficient, _, _ = (sum(values) / len(values) for values in zip(*flows, strict=True))
    logs = trainer.state.log_history[0]
    assert logs["entropy_flow/increase"] == pytest.approx(increase, rel=2e-5)
    assert logs["entropy_flow/decrease"] == pytest.approx(decrease, rel=2e-5)
    assert logs["entropy_flow/coefficient"] == pytest.approx(coefficient, abs=1e-5)
    assert abs(coefficient) > 1e-3, "the batch must need balancing, or the test shows nothing"
    # Rounding of a float32 gradient alone: 3e-7 to 9e-7 where it was measured, and it differs between processors
    assert relative_error(keep.gradient, expected) < 2e-6
    return logs
