"""Shows the entropy flows of a GRPO training without changing it: OPEFO at strength 0, here on Countdown.

python -m examples.monitor --steps 100
"""

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from datasets import load_dataset
from transformers import PrinterCallback

from examples.countdown.countdown import countdown_reward
from examples.countdown.prepare import SFT_STEPS, prepare
from opefo_trl import OPEFOConfig, OPEFOTrainer


# The settings of your own `GRPOConfig`, unchanged
SETTINGS: dict[str, Any] = {
    "output_dir": "outputs/monitor",
    "per_device_train_batch_size": 64,
    "num_generations": 8,
    "max_completion_length": 20,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}
ROWS = 5


def train(folder: Path, steps: int) -> OPEFOTrainer:
    """Trains the model in `folder/base` on the puzzles in `folder/data` with plain GRPO, and returns the trainer."""
    trainer = OPEFOTrainer(
        str(folder / "base"),
        countdown_reward,
        OPEFOConfig(**SETTINGS, max_steps=steps, flow_strength=0.0),  # the one difference: measure, change nothing
        load_dataset(str(folder / "data"), split="train"),
    )
    trainer.remove_callback(PrinterCallback)  # a table is printed at the end
    trainer.train()
    return trainer


def table(logs: list[dict[str, float]], max_coefficient: float) -> str:
    """
    Writes the flows of a training in a few lines.

    Args:
        logs (`list[dict[str, float]]`):
            What the trainer logged, one dictionary per step.
        max_coefficient (`float`):
            Bound on the λ that the balance would have used.

    Returns:
        `str`: a head, and at most `ROWS` lines, each with the means over as many steps.
    """
    size = -(-len(logs) // ROWS)
    lines = ["    steps  entropy       P       N     net       λ"]
    for start in range(0, len(logs), size):
        part = logs[start : start + size]
        increase, decrease, net = (
            [log[f"entropy_flow/{name}"] for log in part] for name in ("increase", "decrease", "net")
        )
        # The balance is λ = −net, within its bound
        coefficient = [min(max(-value, -max_coefficient), max_coefficient) for value in net]
        lines.append(
            f"{f'{start + 1}-{start + len(part)}':>9}  {mean(log['entropy'] for log in part):7.3f}  "
            f"{mean(increase):6.4f}  {mean(decrease):6.4f}  {mean(net):+.3f}  {mean(coefficient):+.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains GRPO on Countdown and shows its entropy flows.")
    parser.add_argument("--folder", type=Path, default=Path("outputs/countdown"), help="puzzles and base model")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps")
    parser.add_argument("--sft_steps", type=int, default=SFT_STEPS, help="supervised steps that teach the base model")
    arguments = parser.parse_args()
    prepare(arguments.folder, arguments.sft_steps)
    trainer = train(arguments.folder, arguments.steps)
    logs = [log for log in trainer.state.log_history if "entropy" in log]
    print(table(logs, trainer.args.flow_max_coefficient))
    print("This is plain GRPO: P raises entropy, N lowers it, and λ is what OPEFO would have used.")


if __name__ == "__main__":
    main()
