"""What `opefo train` runs in each process: parser, data, rewards and trainer put together.

To start it by hand: `accelerate launch -m opefo_trl.commands.train --config FILE.yaml`.
"""

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from trl import DatasetMixtureConfig, ModelConfig

from ..checkpoints import (
    changes_since,
    copy_model,
    is_finished,
    is_saved,
    last_whole_checkpoint,
    read_state,
    resume_point,
    set_aside,
)
from ..config import OPEFOConfig
from ..data.prompts import render
from ..identity import completions_per_step, fingerprint, model_fingerprint, settings_of
from .arguments import OPEFOScriptArguments, parse, wants_cpu
from .interrupts import EXIT_CODE, SaveOnInterrupt
from .lock import hold
from .messages import PROG, describe_failure, fail, quiet, say
from .parts import missing_parts
from .preparation import chat_template_kwargs, check_output_dir, prepare


def identity_of(
    script_args: OPEFOScriptArguments,
    training_args: OPEFOConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
    train_dataset: Any,
) -> dict[str, Any]:
    """The settings of a command that determine the result of its run, as JSON."""
    settings = settings_of([dataset_args, model_args, training_args, script_args])
    settings["model_name_or_path"] = model_fingerprint(cast(str, model_args.model_name_or_path))
    settings["completions_per_step"] = completions_per_step(training_args)
    settings["dataset"] = fingerprint(train_dataset)
    return settings


def check(
    script_args: OPEFOScriptArguments,
    training_args: OPEFOConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
    wants_cpu: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    All checks that are possible before a model is loaded and a folder is created.

    Returns:
        `tuple[dict[str, Any], dict[str, Any]]`: arguments of [`OPEFOTrainer`], and the settings of the run.

    Raises:
        `ValueError`: if something is missing or does not fit. The message names the field to change.
    """
    trainer_args = prepare(script_args, training_args, model_args, dataset_args)
    if missing := missing_parts(training_args, model_args, wants_cpu):
        raise ValueError(" ".join(missing))
    check_output_dir(str(training_args.output_dir))
    identity = identity_of(script_args, training_args, model_args, dataset_args, trainer_args["train_dataset"])
    checkpoint, _ = resume_point(training_args)
    if checkpoint is not None:
        check_identity(checkpoint, identity)
    return trainer_args, identity


def check_identity(checkpoint: str, identity: dict[str, Any]) -> None:
    """Raise a `ValueError` if a checkpoint belongs to another run."""
    if changed := changes_since(checkpoint, identity):
        raise ValueError(
            f"{checkpoint} belongs to another run: {'; '.join(changed)}. To start a new run in this folder, set "
            "`resume_from_checkpoint: false`, which moves the old checkpoints to `earlier-1/`. Otherwise, restore the "
            "old settings or set another `output_dir`."
        )


def main(args: list[str] | None = None) -> None:
    quiet()
    try:
        args = sys.argv[1:] if args is None else args
        script_args, training_args, model_args, dataset_args = parse(args)
        if script_args.dry_run:
            raise ValueError("`--dry_run` does not work with `accelerate launch`: use `opefo train --dry_run`.")
        trainer_args, identity = check(script_args, training_args, model_args, dataset_args, wants_cpu(args))
        Path(str(training_args.output_dir)).mkdir(parents=True, exist_ok=True)
    except (ValueError, TypeError, OSError) as error:
        fail(error)
    with ExitStack() as stack:
        try:
            if training_args.should_save:
                stack.enter_context(hold(Path(str(training_args.output_dir))))
            start = find_start(training_args, identity)
            if start is None:
                return
            checkpoint, sentences = start
            trainer = make_trainer(trainer_args, identity)
            first = next(iter(trainer_args["train_dataset"]))["prompt"]
            first = render(first, trainer.processing_class, **chat_template_kwargs(training_args))
        except (ValueError, TypeError, OSError) as error:
            fail(error)
        say(f"First prompt: {first!r}")
        for sentence in [*sentences, *describe_golds(script_args, trainer_args["train_dataset"])]:
            say(sentence)
        run(trainer, checkpoint, script_args)


def find_start(training_args: OPEFOConfig, identity: dict[str, Any]) -> tuple[str | None, list[str]] | None:
    """
    Where to start, and the sentences to print.

    Returns:
        `tuple[str | None, list[str]] | None`: the checkpoint to resume from (`None` for a new run) and the sentences.
        `None` instead of both if the run is already finished.

    Raises:
        `ValueError`: if the checkpoint belongs to another run, or is not complete.
    """
    output_dir = str(training_args.output_dir)
    checkpoint, sentences = resume_point(training_args)
    if checkpoint is None:
        folder = set_aside(output_dir) if training_args.should_save else None
        return None, [*sentences, *([f"The checkpoints of the previous run are now in {folder}."] if folder else [])]
    check_identity(checkpoint, identity)  # again, since another process may have held the folder until now
    if training_args.flow_entropy_target_ratio is not None:
        read_state(checkpoint, "entropy_target")  # fails now instead of later in the training
    if is_finished(checkpoint, training_args):
        if not is_saved(checkpoint, output_dir) and training_args.should_save:
            copy_model(checkpoint, output_dir)
        say(
            f"This run is already finished (last checkpoint: {checkpoint}). To train longer, raise `max_steps` or "
            "`num_train_epochs`. To start over, set `resume_from_checkpoint: false`."
        )
        return None
    return checkpoint, [*sentences, f"Resuming from {checkpoint}."]


def make_trainer(trainer_args: dict[str, Any], identity: dict[str, Any]) -> Any:
    """The trainer. Raises `ValueError` if its model cannot be loaded."""
    from ..trainer import OPEFOTrainer

    try:
        trainer = OPEFOTrainer(**trainer_args)
    except OSError as error:
        raise ValueError(
            f"`model_name_or_path` {trainer_args['model']} cannot be loaded (weights must be safetensors, unless "
            f"`model_init_kwargs` holds `use_safetensors: false`): {error}"
        ) from error
    trainer.identity = identity
    return trainer


def describe_golds(script_args: OPEFOScriptArguments, train_dataset: Any) -> list[str]:
    """A warning if rows have no gold answer."""
    column = script_args.dataset_solution_column
    if column is None or script_args.dataset_streaming:
        return []
    missing = train_dataset["solution"][:].count(None)
    if not missing:
        return []
    return [f"{missing} of {len(train_dataset)} rows have no gold answer in column {column!r}. They give no reward."]


def hub_name(dataset_name: str | None) -> str | None:
    """The name of a dataset for a link to the hub; none for a file or a folder."""
    return None if dataset_name is None or Path(dataset_name).exists() else dataset_name


def run(trainer: Any, checkpoint: str | None, script_args: OPEFOScriptArguments) -> None:
    """Train, save and push. On an error, print one line and end the process."""
    args = trainer.args
    # The launcher ignores Ctrl-C, and its child processes inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts = SaveOnInterrupt()
    if script_args.save_on_interrupt:
        trainer.add_callback(interrupts)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
        if interrupts.is_interrupted:
            raise KeyboardInterrupt
        trainer.save_final_model()
        # Replaces the blank card that PEFT has written
        name = Path(str(args.output_dir)).name
        trainer.create_model_card(model_name=name, dataset_name=hub_name(script_args.dataset_name))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        last, _ = last_whole_checkpoint(str(args.output_dir))
        options = " without `resume_from_checkpoint`" if args.resume_from_checkpoint else ""
        advice = (
            f"To continue from {last}, run the same command{options}."
            if last
            else "No checkpoint was saved, so the same command starts from the beginning."
        )
        say(f"\n{PROG}: interrupted at step {trainer.state.global_step}. {advice}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(EXIT_CODE)  # a normal exit would wait for the threads of reward functions
    except Exception as error:
        if (reason := describe_failure(error, trainer.state.global_step)) is None:
            raise
        # Printed by the process that failed, whichever it is
        print(f"{PROG}: error: {reason}", file=sys.stderr)
        sys.exit(2)
    say(f"Model saved to {args.output_dir}.")
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=hub_name(script_args.dataset_name))
    # Finish the trackers and leave the process group
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
