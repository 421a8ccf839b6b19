"""The method: from hidden states to the entropy flow of each token, and from the flows to balanced advantages."""

from .mathematics import (
    balance_advantages,
    balance_coefficient,
    entropy_sensitivity,
    flow_coefficient,
    paper_sensitivity,
    sampled_sensitivity,
)


__all__ = [
    "balance_advantages",
    "balance_coefficient",
    "entropy_sensitivity",
    "flow_coefficient",
    "paper_sensitivity",
    "sampled_sensitivity",
]
