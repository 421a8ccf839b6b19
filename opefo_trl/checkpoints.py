"""Complete checkpoints and exact resumption, for any TRL trainer."""

import functools
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.logging import get_logger
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from .identity import completions_per_step, differences, fingerprint, settings_of
from .writing import is_from_network, writing


if TYPE_CHECKING:
    from transformers import Trainer as Base
else:
    Base = object  # what the mixin is mixed with

logger = get_logger(__name__)

STATE_FILE = "entropy_flow_state.json"
UNFINISHED = "unfinished"  # folder for the final model until it is moved into place
# What a checkpoint holds in addition to the model
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


def resume_point(training_args: TrainingArguments) -> tuple[str | None, list[str]]:
    """
    The checkpoint to resume from: the one that `resume_from_checkpoint` names, else the last complete one in
    `output_dir`, else none. `resume_from_checkpoint: false` starts a new run.

    Returns:
        `tuple[str | None, list[str]]`: the checkpoint, and a sentence for each later one that is incomplete.

    Raises:
        `ValueError`: if the named checkpoint does not exist or is incomplete.
    """
    named = str(training_args.resume_from_checkpoint)
    if named.lower() == "false":
        return None, []
    if named.lower() in ("none", "true"):
        return last_whole_checkpoint(str(training_args.output_dir))
    if not os.path.isdir(named):
        raise ValueError(f"Checkpoint {named} does not exist: check `resume_from_checkpoint`.")
    if fault := find_fault(Path(named)):
        raise ValueError(f"Checkpoint {named} is incomplete ({fault}): name another in `resume_from_checkpoint`.")
    return named, []


def last_whole_checkpoint(output_dir: str) -> tuple[str | None, list[str]]:
    """
    The last complete checkpoint in a folder, and a sentence for each later, incomplete one. A checkpoint is incomplete
    if the run was killed while it wrote it, or the disk was full.
    """
    passed_over: list[str] = []
    for checkpoint in reversed(sort_checkpoints(output_dir)):
        fault = find_fault(Path(checkpoint))
        if fault is None:
            return checkpoint, passed_over
        passed_over.append(f"Skipping {checkpoint}, which is incomplete: {fault}.")
    return None, passed_over


def find_fault(checkpoint: Path) -> str | None:
    """
    What is missing or broken in a checkpoint, or `None`.

    The trainer's own state is written last, after all processes have written their files. The sizes of all other files
    are written just before it (see [`write_state`]). A checkpoint of another trainer has no sizes: only its state is
    checked.
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


def set_aside(output_dir: str) -> str | None:
    """
    Move the checkpoints of an earlier run into a separate folder, so that they are not mistaken for those of the new
    run.

    Returns:
        `str` or `None`: the folder, if there was anything to move.
    """
    checkpoints = sort_checkpoints(output_dir)
    if not checkpoints:
        return None
    number = 1 + max(
        (int(path.name[8:]) for path in Path(output_dir).glob("earlier-*") if path.name[8:].isdigit()), default=0
    )
    folder = Path(output_dir) / f"earlier-{number}"
    folder.mkdir()
    for checkpoint in checkpoints:
        Path(checkpoint).rename(folder / Path(checkpoint).name)
    return str(folder)


def is_finished(checkpoint: str, training_args: TrainingArguments) -> bool:
    """Whether nothing is left to train. `Trainer.train` would still take one step, and change the saved model."""
    state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
    if training_args.max_steps > 0:
        return state.global_step >= training_args.max_steps
    return (state.epoch or 0.0) >= training_args.num_train_epochs


def is_saved(checkpoint: str, output_dir: str) -> bool:
    """Whether the model of a run that ended with this checkpoint is completely saved in `output_dir`."""
    try:
        saved = TrainerState.load_from_json(os.path.join(output_dir, TRAINER_STATE_NAME))
    except (OSError, ValueError, TypeError):
        return False
    return saved.global_step == TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME)).global_step


def copy_model(checkpoint: str, output_dir: str) -> None:
    """Save the final model of a run that was killed after its last checkpoint, from that checkpoint."""
    unfinished = Path(output_dir) / UNFINISHED
    unfinished.mkdir(exist_ok=True)
    for path in Path(checkpoint).iterdir():
        if path.is_file() and not any(path.match(pattern) for pattern in TRAINING_FILES):
            shutil.copy(path, unfinished)
    move_up(unfinished)
    shutil.copy(Path(checkpoint) / TRAINER_STATE_NAME, output_dir)


def move_up(folder: Path) -> None:
    """Move the files of a folder into its parent folder, each atomically, and remove the folder."""
    for path in folder.iterdir():
        path.replace(folder.parent / path.name)
    folder.rmdir()


def write_state(checkpoint: Path, state: dict[str, Any]) -> None:
    """Save `state`, which must be JSON, and the sizes in bytes of all other files in the checkpoint so far."""
    paths = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != STATE_FILE]
    sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in paths}
    (checkpoint / STATE_FILE).write_text(json.dumps({**state, "files": sizes}))


def read_state(checkpoint: str, name: str) -> Any:
    """
    Part of the state that [`write_state`] saved.

    Raises:
        `ValueError`: if the checkpoint does not hold it.
    """
    path = Path(checkpoint) / STATE_FILE
    try:
        return json.loads(path.read_text())[name]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} does not hold `{name}`, which these settings need: resume from a checkpoint of a run with the "
            "same settings, or change them."
        ) from error


def changes_since(checkpoint: str, identity: dict[str, Any]) -> list[str]:
    """The settings that differ between a run and a checkpoint's. Empty if the checkpoint has no settings."""
    try:
        before = read_state(checkpoint, "identity")
    except ValueError:  # from an earlier version, or of another trainer
        return []
    return differences(before, identity)


class FastForwardSampler(TrainerCallback):
    """
    Makes a resumed run see the same prompts as an uninterrupted one. TRL's sampler draws one shuffle per epoch from a
    generator that checkpoints do not save. On resumption, the shuffles of the finished epochs are drawn first.

    Attributes:
        sampler (`torch.utils.data.Sampler`, *optional*):
            Sampler of the training dataset. A streamed dataset has none.
    """

    sampler: Sampler | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if self.sampler is not None:
            for _ in range(int(state.epoch)):
                next(iter(self.sampler))


class WholeCheckpoints(Base):
    """
    Mixin for a trainer of TRL: `class Mine(WholeCheckpoints, SFTTrainer)`.

    If a run ends while it writes a checkpoint, that checkpoint is recognized as incomplete. A resumed run ends with
    the same weights as an uninterrupted one, also after several epochs. `train(resume_from_checkpoint=True)` resumes
    from the last complete checkpoint. A subclass with its own state overrides [`WholeCheckpoints.extra_state`] and
    [`WholeCheckpoints.load_extra_state`].
    """

    def __init__(self, *trl_args: Any, **trl_kwargs: Any):
        super().__init__(*trl_args, **trl_kwargs)
        self._fast_forward = FastForwardSampler()
        self.add_callback(self._fast_forward)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """The settings that determine the result of this run. `opefo train` stores those of its command here."""
        settings = settings_of([self.args])
        settings["completions_per_step"] = completions_per_step(self.args)
        settings["dataset"] = fingerprint(self.train_dataset)
        return settings

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint stores in addition to the trainer's own state. Must be JSON."""
        return {}

    def load_extra_state(self, checkpoint: str) -> None:
        """Restore what [`WholeCheckpoints.extra_state`] returned when the checkpoint was written."""

    # A resumed run also continues the order of the prompts
    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler | None:
        self._fast_forward.sampler = super()._get_train_sampler(*args, **kwargs)
        return self._fast_forward.sampler

    def train(self, resume_from_checkpoint: str | bool | None = None, *trl_args: Any, **trl_kwargs: Any) -> Any:
        if resume_from_checkpoint is True:
            output_dir = str(self.args.output_dir)
            resume_from_checkpoint, passed_over = last_whole_checkpoint(output_dir)
            for sentence in passed_over:
                logger.warning(sentence)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"There is no complete checkpoint in {output_dir}: set `resume_from_checkpoint=False` to start "
                    "a new run."
                )
        if resume_from_checkpoint and (changed := changes_since(str(resume_from_checkpoint), self.identity)):
            logger.warning(f"Checkpoint {resume_from_checkpoint} belongs to another run: {'; '.join(changed)}.")
        return super().train(resume_from_checkpoint, *trl_args, **trl_kwargs)

    # A tied weight is saved under its other name, so it is not missing
    def _issue_warnings_after_load(self, load_result: Any) -> None:
        model: Any = self.model
        is_tied = model.config.get_text_config().tie_word_embeddings
        tied = (model._tied_weights_keys or {}) if is_tied else {}
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    # Do not stop if the hub does not answer: the checkpoint is on the disk
    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        try:
            super()._push_from_checkpoint(checkpoint_folder)
        except Exception as error:
            if not is_from_network(error):
                raise
            logger.warning(
                f"Checkpoint {checkpoint_folder} could not be pushed to the hub ({type(error).__name__}: {error}). "
                "The run continues, and the next checkpoint tries again."
            )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        consequence = ", and start again. The run resumes from the previous checkpoint."
        with writing(f"Checkpoint {folder} could not be written", consequence):
            if self.args.should_save:
                # The trainer's state is written last, so its presence marks a complete checkpoint. Remove an old one
                (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)

    # Only the trainer's own state is written after this
    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_state(Path(output_dir), {**self.extra_state(), "identity": self.identity})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.load_extra_state(checkpoint)

    def save_final_model(self) -> None:
        """
        Save the model to `output_dir`: write it to a temporary folder, then move it into place file by file.

        Raises:
            `RunStopped`: if it cannot be written.
        """
        output_dir = str(self.args.output_dir)
        unfinished = Path(output_dir) / UNFINISHED
        consequence = f". The last checkpoint in {output_dir} also holds the model."
        with writing(f"The model could not be saved to {output_dir}", consequence):
            self.save_model(str(unfinished))
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                move_up(unfinished)
            self.save_state()  # written last, it marks the model as complete
