"""Logs of runs as a trainer keeps them, for the tests."""

import json


def entries(steps=40, **metrics):
    """One entry per step; each metric a number or a function of the share of the steps that are done."""
    shares = [index / (steps - 1) for index in range(steps)]
    return [
        {
            "step": index + 1,
            **{name.replace("__", "/"): at(share) if callable(at) else at for name, at in metrics.items()},
        }
        for index, share in enumerate(shares)
    ]


HEALTHY = {
    "entropy": lambda share: 0.6 - 0.2 * share,
    "reward": lambda share: share,
    "frac_reward_zero_std": 0.3,
    "completions__mean_length": 200.0,
    "completions__clipped_ratio": 0.05,
    "entropy_flow__increase": 0.010,
    "entropy_flow__decrease": 0.012,
    "entropy_flow__coefficient": lambda share: 0.1 + 0.05 * share,
}
PLAIN = {name: value for name, value in HEALTHY.items() if not name.startswith("entropy_flow")}


def write(folder, log):
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": len(log), "log_history": log}))
    return folder
