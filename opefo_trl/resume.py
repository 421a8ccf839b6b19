"""Going on from a checkpoint: which one, whether anything is left to do, and what TRL's own state leaves out."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import sort_checkpoints

from .config import OPEFOConfig


STATE_FILE = "entropy_flow_state.json"
UNFINISHED = "unfinished"  # folder that the final model is written to before it takes its place
# What a checkpoint holds beside the model
TRAINING_FILES = (
    "optimizer*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    TRAINER_STATE_NAME,
    STATE_FILE,
    "entropy_ctrl_state.json",
    "latest",
    "zero_to_fp32.py",
)


def resume_point(training_args: OPEFOConfig) -> tuple[str | None, list[str]]:
    """
    The checkpoint to go on from: the one that is named, else the last whole one in `output_dir`, else none.
    `resume_from_checkpoint: false` starts anew.

    Returns:
        `tuple[str | None, list[str]]`: the checkpoint, and a sentence for each later one that is not whole.

    Raises:
        `ValueError`: if the one that is named does not exist or is not whole.
    """
    named = str(training_args.resume_from_checkpoint)
    if named.lower() == "false":
        return None, []
    if named.lower() in ("none", "true"):
        return last_whole_checkpoint(str(training_args.output_dir))
    if not os.path.isdir(named):
        raise ValueError(f"Checkpoint {named} does not exist: check `resume_from_checkpoint`.")
    if fault := find_fault(Path(named)):
        raise ValueError(f"Checkpoint {named} is not whole ({fault}): name another in `resume_from_checkpoint`.")
    return named, []


def last_whole_checkpoint(output_dir: str) -> tuple[str | None, list[str]]:
    """
    Of the checkpoints in a folder the last that is whole, and a sentence for each later one, which is not: the run
    was killed while it wrote, or the disk was full.
    """
    passed_over: list[str] = []
    for checkpoint in reversed(sort_checkpoints(output_dir)):
        fault = find_fault(Path(checkpoint))
        if fault is None:
            return checkpoint, passed_over
        passed_over.append(f"Passing over {checkpoint}, which is not whole: {fault}.")
    return None, passed_over


def find_fault(checkpoint: Path) -> str | None:
    """
    What is wrong with a checkpoint, or `None`.

    The trainer's own state is written last, once all processes have written theirs, and the sizes of all other files
    just before it (see [`write_state`]; a checkpoint of another trainer has none, and its state alone is looked at).
    """
    try:
        TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    except (OSError, ValueError, TypeError):
        return f"{TRAINER_STATE_NAME} is missing or broken"
    if not (checkpoint / STATE_FILE).exists():
        return None
    try:
        sizes = dict(json.loads((checkpoint / STATE_FILE).read_text())["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return f"{STATE_FILE} is broken"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
    return None


def is_finished(checkpoint: str, training_args: OPEFOConfig) -> bool:
    """Whether nothing is left to train: `Trainer.train` would take one step more, and change the saved model."""
    state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
    if training_args.max_steps > 0:
        return state.global_step >= training_args.max_steps
    return (state.epoch or 0.0) >= training_args.num_train_epochs


def is_saved(checkpoint: str, output_dir: str) -> bool:
    """Whether the model of a run that ended with this checkpoint has been saved in `output_dir`, whole."""
    try:
        saved = TrainerState.load_from_json(os.path.join(output_dir, TRAINER_STATE_NAME))
    except (OSError, ValueError, TypeError):
        return False
    return saved.global_step == TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME)).global_step


def copy_model(checkpoint: str, output_dir: str) -> None:
    """Save the model of a run that was killed after its last checkpoint, from there."""
    unfinished = Path(output_dir) / UNFINISHED
    unfinished.mkdir(exist_ok=True)
    for path in Path(checkpoint).iterdir():
        if path.is_file() and not any(path.match(pattern) for pattern in TRAINING_FILES):
            shutil.copy(path, unfinished)
    move_up(unfinished)
    shutil.copy(Path(checkpoint) / TRAINER_STATE_NAME, output_dir)


def move_up(folder: Path) -> None:
    """Move what a folder holds into the one above, file by file at once, and remove it."""
    for path in folder.iterdir():
        path.replace(folder.parent / path.name)
    folder.rmdir()


def write_state(checkpoint: Path, state: dict[str, Any]) -> None:
    """Keep `state`, which must be JSON, and the sizes in bytes of all other files that the checkpoint holds so far."""
    paths = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != STATE_FILE]
    sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in paths}
    (checkpoint / STATE_FILE).write_text(json.dumps({**state, "files": sizes}))


def read_entropy_target(checkpoint: str) -> float | None:
    """
    The entropy target that the first batch set, in nats; `None` if no batch had set it yet.

    Raises:
        `ValueError`: if the checkpoint has none.
    """
    path = Path(checkpoint) / STATE_FILE
    try:
        return json.loads(path.read_text())["entropy_target"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"`flow_entropy_target_ratio` needs the first batch's entropy, but {path} has none or is missing: resume "
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
