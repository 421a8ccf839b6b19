"""One batch: the change of entropy that each prediction foretells, the one that steps bring, and its parts."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from benchmarks.study.prediction.flows import (
    Batch,
    Params,
    Policy,
    entropy_gradient,
    entropy_response,
    logp_response,
    own_effects,
    own_logit_response,
    policy_gradient,
    prompt_response,
    sensitivities,
    token_entropies,
)
from benchmarks.study.prediction.merits import merits, slope
from benchmarks.study.prediction.updates import Update, dot, scaled
from opefo_trl.config import FLOW_ESTIMATORS
from opefo_trl.entropy_flow import balance_advantages, flow_coefficient


# Parts of a measured change that add up to it, in the order in which they are taken away
PARTS = (
    "token-wise",
    "unequal gain",
    "same context",
    "same prompt",
    "other prompts",
    "preconditioning",
    "memory",
    "second order",
)


class Start(NamedTuple):
    """
    What all steps of a batch start from.

    Args:
        policy, params, batch:
            The policy, its parameters and its rollouts.
        pi (`torch.Tensor` of shape `(B, T, V)`):
            π of every position.
        entropies (`torch.Tensor` of shape `(B, T)`):
            H in nats.
        sensitivities (`dict[str, torch.Tensor]`):
            s by estimator, each of shape `(B, T)`.
        mean_gradient (`Params`):
            ∇H̄.
        own_response (`torch.Tensor` of shape `(B, T, V)`):
            From [`own_logit_response`].
        within_prompt (`torch.Tensor` of shape `(B, T)`):
            c times [`prompt_response`].
    """

    policy: Policy
    params: Params
    batch: Batch
    pi: torch.Tensor
    entropies: torch.Tensor
    sensitivities: dict[str, torch.Tensor]
    mean_gradient: Params
    own_response: torch.Tensor
    within_prompt: torch.Tensor

    @property
    def moved(self) -> torch.Tensor:
        """True where the token has a prediction, shape `(B, T)`."""
        return (self.batch.mask > 0) & (self.batch.advantages != 0)

    def token_flows(self, estimator: str, advantages: torch.Tensor) -> torch.Tensor:
        """c·A·s, the predicted change of each token's entropy per unit step, shape `(B, T)`."""
        return self.batch.weights * advantages * self.sensitivities[estimator]

    def influences(self, advantages: torch.Tensor, direction: Params) -> torch.Tensor:
        """c·A·⟨∇ln p, direction⟩: with ∇H̄ what a unit step on each token does to H̄, shape `(B, T)`."""
        response = logp_response(self.policy, self.params, self.batch, self.batch.rows, direction)
        return self.batch.weights * advantages * response

    def sides(self, estimator: str, values: torch.Tensor) -> list[float]:
        """Sums of `values` (B, T) over the tokens that raise entropy, says the estimator, and that lower it."""
        flows = self.token_flows(estimator, self.batch.advantages)
        return [values[flows > 0].sum().item(), values[flows < 0].sum().item()]


class Terms(NamedTuple):
    """
    What the loss asks for with some advantages, per unit step of SGD.

    Args:
        balance (`str`):
            Estimator that balanced the advantages, or `"none"`.
        reference (`str`):
            Estimator whose prediction the parts are about: the one that balances, `"exact"` for the plain update.
        advantages (`torch.Tensor` of shape `(B, T)` or `(B, 1)`):
            A'.
        gradient (`Params`):
            G.
        flows (`dict[str, torch.Tensor]`):
            c·A'·s by estimator, each of shape `(B, T)`: the estimator that balances, or all for the plain update.
        own, same_context (`torch.Tensor` of shape `(B, T)`):
            From [`own_effects`].
        gain (`float`):
            κ, the slope of `own` on the flows of `reference`.
    """

    balance: str
    reference: str
    advantages: torch.Tensor
    gradient: Params
    flows: dict[str, torch.Tensor]
    own: torch.Tensor
    same_context: torch.Tensor
    gain: float


def start_of(policy: Policy, params: Params, batch: Batch) -> Start:
    """All that [`measure`] computes once per batch."""
    logits = policy(params, batch.rows)  # (B, T, V)
    return Start(
        policy=policy,
        params=params,
        batch=batch,
        pi=logits.softmax(-1),
        entropies=token_entropies(policy, params, batch.rows),
        sensitivities=sensitivities(logits, batch.tokens),
        mean_gradient=entropy_gradient(policy, params, batch, batch.rows),
        own_response=own_logit_response(policy, params, batch),
        within_prompt=batch.weights * prompt_response(policy, params, batch),
    )


def terms_of(start: Start, balance: str, advantages: torch.Tensor) -> Terms:
    """All that [`measure`] computes once per balance."""
    own, same_context = own_effects(start.batch, start.pi, start.own_response, advantages)
    estimators = FLOW_ESTIMATORS if balance == "none" else (balance,)
    flows = {estimator: start.token_flows(estimator, advantages) for estimator in estimators}
    reference = "exact" if balance == "none" else balance
    return Terms(
        balance=balance,
        reference=reference,
        advantages=advantages,
        gradient=policy_gradient(start.policy, start.params, start.batch, advantages),
        flows=flows,
        own=own,
        same_context=same_context,
        gain=slope(flows[reference][start.moved].numpy(), own[start.moved].numpy()),
    )


def first_order_parts(start: Start, terms: Terms, update: Update, parametric: float) -> dict[str, float]:
    """Of what the parametric prediction for one update consists: [`PARTS`] without the last."""
    mean = start.batch.mean
    token_wise = terms.gain * mean(terms.flows[terms.reference]).item()
    own, same_context = mean(terms.own).item(), mean(terms.same_context).item()
    within_prompt = (start.within_prompt * terms.advantages).sum().item()
    along_gradient = dot(start.mean_gradient, terms.gradient).item() * update.rate
    preconditioned = dot(start.mean_gradient, update.preconditioned).item()
    return {
        "token-wise": token_wise * update.rate,
        "unequal gain": (own - token_wise) * update.rate,
        "same context": same_context * update.rate,
        "same prompt": (within_prompt - own - same_context) * update.rate,
        "other prompts": along_gradient - within_prompt * update.rate,
        "preconditioning": preconditioned - along_gradient,
        "memory": parametric - preconditioned,
    }


def take_steps(start: Start, terms: Terms, optimizer: str, update: Update, sizes: Iterable[float]) -> list[dict]:
    """Records of one update, taken in several sizes."""
    batch, moved = start.batch, start.moved
    parametric_tokens = entropy_response(start.policy, start.params, batch.rows, update.step)  # (B, T)
    parametric = batch.mean(parametric_tokens).item()
    influences = start.influences(terms.advantages, scaled(start.mean_gradient, update.rates))  # (B, T)
    sides = start.sides(terms.reference, influences)
    influence = {
        estimator: merits((update.rate * flows / batch.mask.sum())[moved], influences[moved])
        for estimator, flows in terms.flows.items()
    }
    parts = first_order_parts(start, terms, update, parametric)
    by_position = {**terms.flows, "own": terms.own}  # predictions that see each token's own position alone
    steps = []
    for size in sizes:
        stepped = {name: value + size * update.step[name] for name, value in start.params.items()}
        change = token_entropies(start.policy, stepped, batch.rows) - start.entropies  # (B, T)
        measured = batch.mean(change).item()
        rate = size * update.rate
        tokens = {name: rate * values for name, values in by_position.items()}  # each (B, T)
        tokens["parametric"] = size * parametric_tokens
        steps.append(
            {
                "balance": terms.balance,
                "optimizer": optimizer,
                "size": size,
                "rate": rate,
                "norm": size * dot(update.step, update.step).sqrt().item(),
                "gain": terms.gain,
                "measured": measured,
                "predicted": {
                    **{name: rate * batch.mean(values).item() for name, values in by_position.items()},
                    "parametric": size * parametric,
                },
                "parametric_sides": [size * side for side in sides],
                "influence": influence,
                "parts": {
                    **{name: size * value for name, value in parts.items()},
                    "second order": measured - size * parametric,
                },
                "tokens": {name: merits(values[moved], change[moved]) for name, values in tokens.items()},
            }
        )
    return steps


def measure(
    policy: Policy,
    params: Params,
    batch: Batch,
    make_updates: dict[str, Callable[[Params], Update]],
    sizes: Iterable[float],
    max_coefficient: float,
    adamw_balances: Iterable[str] = FLOW_ESTIMATORS,
) -> dict[str, Any]:
    """
    Predict and measure the steps of one batch.

    Args:
        policy, params, batch:
            The policy, its parameters and its rollouts.
        make_updates (`dict[str, Callable]`):
            The update of each optimizer, from the gradient G.
        sizes (`Iterable[float]`):
            Step sizes, as multiples of the update.
        max_coefficient (`float`):
            λ_max.
        adamw_balances (`Iterable[str]`):
            Estimators whose balanced update is taken with optimizers other than `"sgd"`, too.

    Returns:
        `dict[str, Any]`: `"flows"` by estimator, and a list `"steps"`, one entry per balance, optimizer and size.
    """
    start = start_of(policy, params, batch)
    influences = start.influences(batch.advantages, start.mean_gradient)  # (B, T)
    token_flows = {estimator: start.token_flows(estimator, batch.advantages) for estimator in FLOW_ESTIMATORS}
    entropy = batch.mean(start.entropies)
    flows: dict[str, dict] = {}
    balanced = {"none": batch.advantages}
    for estimator, values in token_flows.items():
        increase, decrease = values.clamp(min=0).sum(), -values.clamp(max=0).sum()
        coefficient = flow_coefficient(increase, decrease, entropy, 1.0, max_coefficient)
        balanced[estimator] = balance_advantages(batch.advantages, start.sensitivities[estimator], coefficient)
        raised, lowered = start.sides(estimator, influences)
        flows[estimator] = {
            "increase": increase.item(),
            "decrease": decrease.item(),
            "coefficient": coefficient.item(),
            "parametric_increase_side": raised,
            "parametric_decrease_side": lowered,
            # The λ at which the parametric flow vanishes, the tokens split as the estimator splits them
            "parametric_coefficient": -(raised + lowered) / (raised - lowered),
        }
    steps = []
    for balance, advantages in balanced.items():
        terms = terms_of(start, balance, advantages)
        for optimizer, make_update in make_updates.items():
            if optimizer == "sgd" or balance in ("none", *adamw_balances):
                steps += take_steps(start, terms, optimizer, make_update(terms.gradient), sizes)
    exact, moved = token_flows["exact"], start.moved
    return {
        "entropy": entropy.item(),
        "trained_tokens": int(batch.mask.sum()),
        "contexts": len(batch.contexts[batch.mask > 0].unique()),
        "estimators_by_token": {e: merits(values[moved], exact[moved]) for e, values in token_flows.items()},
        "flows": flows,
        "steps": steps,
    }
