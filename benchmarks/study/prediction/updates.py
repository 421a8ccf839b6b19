"""One step of SGD or AdamW from a gradient, and what AdamW's is made of."""

from typing import NamedTuple

import torch

from benchmarks.study.prediction.flows import Params


class Update(NamedTuple):
    """
    One step of the optimizer at its learning rate, and how it came about.

    Args:
        step (`Params`):
            Δθ.
        preconditioned (`Params`):
            What it would be if the optimizer had seen nothing but this batch: D·G, D the step size of each parameter.
            Of SGD the same as `step`.
        rate (`float`):
            η of the part of `preconditioned` that lies along the gradient G. Of SGD its learning rate.
        rates (`Params` or `float`):
            D.
    """

    step: Params
    preconditioned: Params
    rate: float
    rates: Params | float


def dot(a: Params, b: Params) -> torch.Tensor:
    """⟨a, b⟩ over all parameters, 0-d."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def scaled(params: Params, factor: Params | float) -> Params:
    """Every tensor times one number, or times the tensor of its name."""
    return {name: value * (factor[name] if isinstance(factor, dict) else factor) for name, value in params.items()}


def sgd_update(gradient: Params, learning_rate: float) -> Update:
    """The step of plain SGD up the gradient."""
    step = scaled(gradient, learning_rate)
    return Update(step, step, learning_rate, learning_rate)


def adamw_update(params: Params, gradient: Params, state: dict[str, dict], settings: dict, max_norm: float) -> Update:
    """
    The step that torch's AdamW takes from its state, and what it is made of.

    Args:
        params, gradient (`Params`):
            θ and G, the direction of ascent.
        state (`dict[str, dict]`):
            AdamW's state of each parameter before the step, empty before the first.
        settings (`dict`):
            Arguments of [`~torch.optim.AdamW`].
        max_norm (`float`):
            Gradients longer than this are cut to it, as [`~transformers.Trainer`] does. D contains the cut.
    """
    cut = min(1.0, max_norm / dot(gradient, gradient).sqrt().item())
    copies = {name: value.clone().requires_grad_() for name, value in params.items()}
    for name, copy in copies.items():
        copy.grad = -cut * gradient[name]
    optimizer = torch.optim.AdamW(copies.values(), **settings)
    for name, copy in copies.items():
        optimizer.state[copy] = {key: value.clone().to(copy) for key, value in state.get(name, {}).items()}
    optimizer.step()
    rates = {}
    for name, copy in copies.items():
        after = optimizer.state[copy]
        second_moment = after["exp_avg_sq"] / (1 - settings["betas"][1] ** after["step"])
        rates[name] = cut * settings["lr"] / (second_moment.sqrt() + settings["eps"])
    preconditioned = scaled(gradient, rates)
    return Update(
        step={name: copy.detach() - params[name] for name, copy in copies.items()},
        preconditioned=preconditioned,
        rate=(dot(preconditioned, gradient) / dot(gradient, gradient)).item(),
        rates=rates,
    )
