"""Says what is wrong with a run, and which setting to change."""

import math

import numpy as np

from .runs import ANSWERED, Run


EDGE = 20  # "at the start" and "at the end" are means over the first and the last twentieth
COLLAPSED_SHARE, COLLAPSED = 0.2, 0.05  # of the entropy at the start; in nats
EXPLODED_SHARE, EXPLODED = 1.1, 2.0  # as above, but both must be exceeded: a model may start high and stay there
PINNED = 0.05  # a bound on |λ| below this would not matter
PINNED_STEPS = 3  # fewer equal values may be chance
ZERO_STD = 0.7  # share of groups in which all rewards are equal
MOSTLY_CUT = 0.9  # share of completions that reach `max_completion_length`
NOT_LEARNING = {"answers", "rewards"}  # with these troubles nothing is learned


def find_troubles(run: Run) -> dict[str, str]:
    """
    Say what is wrong with a run and which setting to change.

    Args:
        run ([`Run`]):
            The run. Metrics that it did not log are not judged.

    Returns:
        `dict[str, str]`: a message for each kind of trouble; empty for a healthy run.
    """
    found: dict[str, str] = {}

    def edges(metric: str) -> tuple[float, float]:
        """Means at the start and at the end. NaN without values; every comparison with NaN is false."""
        values = run.values(metric)
        width = max(1, len(values) // EDGE)
        return (values[:width].mean(), values[-width:].mean()) if len(values) else (math.nan, math.nan)

    answered = [run.values(metric) for metric in run.history if metric.endswith(ANSWERED)]
    is_dead = bool(answered) and max(values.max() for values in answered) == 0
    if is_dead:
        was_cut = edges("completions/clipped_ratio")[1] > MOSTLY_CUT
        cause = "Raise `max_completion_length`, which cut most of them" if was_cut else "Check `prompt_template`"
        found["answers"] = (
            f"The model is not learning: no completion has given an answer. {cause}, and set `log_completions: true` "
            "to see what the model writes."
        )
    if "reward" in run.broken and not run.history.get("reward"):
        found["rewards"] = (
            "The model is not learning: no completion has received a reward. Either the reward functions returned "
            "None, or the gold answers cannot be read (`opefo train --dry_run` counts those)."
        )
    for metric, steps in run.broken.items():
        count = len(steps) + len(run.history.get(metric, {}))
        where = f"in {len(steps)} of {count} logged steps, first at step {steps[0]}"
        if metric != "reward":
            found[metric] = (
                f"`{metric}` is NaN or infinite {where}; it is not drawn there. Train in bf16 or fp32 instead of "
                "fp16, or lower `learning_rate`."
            )
        elif "rewards" not in found:
            found["reward"] = (
                f"No completion received a reward {where}: the reward functions returned None, or the gold answers "
                "cannot be read."
            )
    start, end = edges("entropy")
    if end < COLLAPSED or end < COLLAPSED_SHARE * start:
        found["collapse"] = (
            f"Entropy collapsed, {start:.2g} → {end:.2g} nats: set `flow_entropy_target` or "
            "`flow_entropy_target_ratio` (if one is set already, raise `flow_max_coefficient`), or lower "
            "`learning_rate`."
        )
    if end > max(EXPLODED, EXPLODED_SHARE * start):
        found["explosion"] = (
            f"Entropy exploded, {start:.2g} → {end:.2g} nats: lower `learning_rate`, or lower "
            "`flow_entropy_target` or `flow_entropy_target_ratio` (if neither is set, set one)."
        )
    magnitudes = np.abs(run.values("entropy_flow/coefficient"))
    last = magnitudes[-(len(magnitudes) // 4) :] if len(magnitudes) >= 4 else magnitudes[:0]
    bound = magnitudes.max(initial=0.0)
    # The logs do not name the bound: a largest value that repeats is one. Means of equal values differ by rounding
    pinned = np.isclose(last, bound, rtol=1e-6, atol=0.0)
    if bound >= PINNED and pinned.sum() >= PINNED_STEPS and pinned.mean() > 0.5:
        found["bound"] = (
            f"λ is pinned at its bound of ±{bound:.2g} in {pinned.mean():.0%} of the last quarter of the run: "
            "raise `flow_max_coefficient`, lower `learning_rate`, or move `flow_entropy_target` (or "
            "`flow_entropy_target_ratio`) closer to the entropy."
        )
    zero_std = edges("frac_reward_zero_std")[1]
    if zero_std > ZERO_STD and not is_dead:
        found["variance"] = (
            f"{zero_std:.0%} of the groups have zero reward variance, so nothing is learned from them (mean reward "
            f"{edges('reward')[1]:.2g}). Use harder data if nearly all answers are right, easier data if nearly none "
            "are, or raise `num_generations` or `temperature`."
        )
    return found
