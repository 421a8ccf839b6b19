"""The panels of a run's picture, and the logged metrics that each one draws."""

from typing import NamedTuple


class Panel(NamedTuple):
    """
    One panel of the picture.

    Args:
        title (`str`):
            What is drawn.
        unit (`str`):
            Unit of the vertical axis.
        metrics (`tuple[str, ...]`):
            Names in the log: the first one drawn solid, the second dashed.
        from_zero (`bool`, *optional*, defaults to `False`):
            Whether the axis starts at 0.
    """

    title: str
    unit: str
    metrics: tuple[str, ...]
    from_zero: bool = False


ENTROPY = Panel("Entropy", "nats per token", ("entropy",), from_zero=True)
REWARD = Panel("Reward", "mean", ("reward",))
FLOW = Panel(
    "Entropy flow: increasing, decreasing (dashed)",
    "nats per unit step",
    ("entropy_flow/increase", "entropy_flow/decrease"),
    from_zero=True,
)
COEFFICIENT = Panel("Balance coefficient λ", "λ", ("entropy_flow/coefficient",))
LENGTH = Panel("Length of completions", "tokens, mean", ("completions/mean_length",))
CLIPPED = Panel("Completions cut off", "share", ("completions/clipped_ratio",), from_zero=True)
PANELS = (ENTROPY, REWARD, FLOW, COEFFICIENT, LENGTH, CLIPPED)
DRAWN = {metric for panel in PANELS for metric in panel.metrics}
TARGET = "entropy_flow/target"
