"""Going on from a checkpoint: which one, whether anything is left to do, and what TRL's own state leaves out."""

import json
import os
from pathlib import Path

from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from .config import OPEFOConfig


STATE_FILE = "entropy_flow_state.json"


def resume_point(training_args: OPEFOConfig) -> str | None:
    """
    The checkpoint to go on from: the one that is named, else the last one in `output_dir`, else none.
    `resume_from_checkpoint: false` starts anew.
    """
    named = str(training_args.resume_from_checkpoint)
    output_dir = str(training_args.output_dir)
    if named.lower() == "false":
        return None
    if named.lower() in ("none", "true"):
        return get_last_checkpoint(output_dir) if os.path.isdir(output_dir) else None
    if not os.path.isdir(named):
        raise ValueError(f"Checkpoint {named} does not exist: check `resume_from_checkpoint`.")
    return named


def is_finished(checkpoint: str, training_args: OPEFOConfig) -> bool:
    """Whether nothing is left to train: `Trainer.train` would take one step more, and change the saved model."""
    state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
    if training_args.max_steps > 0:
        return state.global_step >= training_args.max_steps
    return (state.epoch or 0.0) >= training_args.num_train_epochs


def write_entropy_target(checkpoint: Path, entropy_target: float | None) -> None:
    """Keep the entropy target that the first batch set, in nats; `None` if no batch has set it yet."""
    (checkpoint / STATE_FILE).write_text(json.dumps({"entropy_target": entropy_target}))


def read_entropy_target(checkpoint: str) -> float | None:
    """
    The entropy target that [`write_entropy_target`] kept.

    Raises:
        `ValueError`: if the checkpoint has none.
    """
    path = Path(checkpoint) / STATE_FILE
    try:
        return json.loads(path.read_text())["entropy_target"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"`flow_entropy_target_ratio` needs the first batch's entropy, but {path} is missing or broken: resume "
            "from a checkpoint of a run that used it, or set `flow_entropy_target` instead."
        ) from error


class FastForwardSampler(TrainerCallback):
    """
    Makes a resumed run see the prompts that an uninterrupted one sees. TRL's sampler draws one shuffle per epoch from
    a generator that no checkpoint keeps, so on resumption the shuffles of the epochs that are done are drawn first.

    Attributes:
        sampler (`torch.utils.data.Sampler`, *optional*):
            The sampler of the training; a streamed dataset has none.
    """

    sampler: Sampler | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if self.sampler is not None:
            for _ in range(int(state.epoch)):
                next(iter(self.sampler))
