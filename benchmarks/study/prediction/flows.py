"""The mathematics of one batch for any policy: gradients, and what they do to log-probabilities and entropies."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from opefo_trl.entropy_flow import entropy_sensitivity, paper_sensitivity, sampled_sensitivity


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
        """All rows, shape `(B,)`."""
        return torch.arange(len(self.tokens))

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Plain mean of `values` (B, T) over the trained tokens."""
        return (values * self.mask).sum() / self.mask.sum()


def entropies_of(log_pi: torch.Tensor) -> torch.Tensor:
    """H in nats from ln π of shape `(*, V)`, shape `(*)`."""
    return -(log_pi.exp() * log_pi).sum(-1)


def logps_of(log_pi: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """ln p of the tokens from ln π of shape `(*, V)`, shape `(*)`."""
    return log_pi.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def token_entropies(policy: Policy, params: Params, rows: torch.Tensor) -> torch.Tensor:
    """H of every token in nats, shape `(R, T)`."""
    return entropies_of(policy(params, rows).log_softmax(-1))


def token_logps(policy: Policy, params: Params, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """ln p of every token of the rows, shape `(R, T)`, with `tokens` of the same shape."""
    return logps_of(policy(params, rows).log_softmax(-1), tokens)


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
        return (batch.weights * advantages * token_logps(policy, params, batch.rows, batch.tokens)).sum()

    return torch.func.grad(objective)(params)


def entropy_gradient(policy: Policy, params: Params, batch: Batch, rows: torch.Tensor) -> Params:
    """The share of ∇H̄, the gradient of the batch's mean entropy, that the tokens of some rows bring."""

    def share(params: Params) -> torch.Tensor:
        return (token_entropies(policy, params, rows) * batch.mask[rows]).sum() / batch.mask.sum()

    return torch.func.grad(share)(params)


def logp_response(policy: Policy, params: Params, batch: Batch, rows: torch.Tensor, direction: Params) -> torch.Tensor:
    """⟨∇ln p, direction⟩ of every token of the rows, shape `(R, T)`."""
    tokens = batch.tokens[rows]
    return torch.func.jvp(lambda params: token_logps(policy, params, rows, tokens), (params,), (direction,))[1]


def entropy_response(policy: Policy, params: Params, rows: torch.Tensor, direction: Params) -> torch.Tensor:
    """⟨∇H, direction⟩ of every token of the rows, shape `(R, T)`."""
    return torch.func.jvp(lambda params: token_entropies(policy, params, rows), (params,), (direction,))[1]


def own_logit_responses(policy: Policy, params: Params, row: torch.Tensor, positions: list[int]) -> torch.Tensor:
    """k of some positions of one row, as [`own_logit_response`] has it, shape `(N, V)`."""
    entropies, pull_back = torch.func.vjp(  # type: ignore[misc]  # two without aux
        lambda params: token_entropies(policy, params, row)[0], params
    )
    (gradients,) = torch.func.vmap(pull_back)(torch.eye(len(entropies), dtype=entropies.dtype)[positions])

    def push(gradient: Params) -> torch.Tensor:
        return torch.func.jvp(lambda params: policy(params, row)[0], (params,), (gradient,))[1]  # (T, V)

    return torch.func.vmap(push)(gradients)[range(len(positions)), positions]


def own_logit_response(policy: Policy, params: Params, batch: Batch) -> torch.Tensor:
    """
    k = J·∇H of every token: how the logits at its position move per unit step along the gradient of its entropy.

    By it a step along ∇ln p of a token b at the same position changes the entropy there by (e_b − π)·k.

    Returns:
        `torch.Tensor` of shape `(B, T, V)`; 0 where the token is not trained.
    """
    of_token = batch.contexts.unique(return_inverse=True)[1]  # (B, T)
    responses: dict[int, torch.Tensor] = {}
    for row, contexts, mask in zip(batch.rows.split(1), of_token.tolist(), batch.mask, strict=True):
        # One position per context that is new: k is the same wherever the context is
        positions = {
            context: position
            for position, context in enumerate(contexts)
            if mask[position] and context not in responses
        }
        if positions:
            of_row = own_logit_responses(policy, params, row, list(positions.values()))
            responses |= zip(positions, of_row, strict=True)
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
