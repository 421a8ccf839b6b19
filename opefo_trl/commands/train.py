"""What `opefo train` runs in each process: parser, data, rewards and trainer put together.

By hand: `accelerate launch -m opefo_trl.commands.train --config FILE.yaml`.
"""

import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from transformers import AutoTokenizer
from trl import DatasetMixtureConfig, ModelConfig, get_peft_config, get_quantization_config

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
from ..data.datasets import keep_rows, load_splits, pick_split
from ..data.prompts import check_bos, drop_long_prompts, render, to_prompts
from ..grading.policy import Policy
from ..identity import completions_per_step, fingerprint, model_fingerprint, settings_of
from .arguments import OPEFOScriptArguments, parse, wants_cpu
from .interrupts import EXIT_CODE, SaveOnInterrupt
from .lock import hold
from .messages import PROG, describe_failure, fail, quiet, say
from .parts import missing_parts


def check_output_dir(output_dir: str) -> None:
    """
    Write a byte there, or where the folder will be made, and leave nothing behind.

    Raises:
        `ValueError`: if that fails.
    """
    path = Path(output_dir).absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
    except OSError as error:
        raise ValueError(f"`output_dir` {output_dir} cannot be written to: {error.strerror}.") from error


def load_tokenizer(model_args: ModelConfig, training_args: OPEFOConfig) -> Any:
    """
    Raises:
        `ValueError`: if the model comes with none.
    """
    try:
        return AutoTokenizer.from_pretrained(
            model_args.model_name_or_path,
            revision=model_args.model_revision,
            trust_remote_code=training_args.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        name = str(model_args.model_name_or_path)
        if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
            raise ValueError(f"`model_name_or_path` {name} is neither a folder nor a name on the hub.") from error
        raise ValueError(f"The tokenizer of `model_name_or_path` {name} cannot be loaded: {error}") from error


def chat_template_kwargs(training_args: OPEFOConfig) -> dict[str, Any]:
    return cast(dict, training_args.chat_template_kwargs or {})


def prepare(
    script_args: OPEFOScriptArguments,
    training_args: OPEFOConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
) -> dict[str, Any]:
    """
    Load data and rewards and check them, before any model is loaded.

    Returns:
        `dict[str, Any]`: arguments of [`OPEFOTrainer`].

    Raises:
        `ValueError`: if something is missing or does not fit, naming the field to change.
    """
    from trl import get_dataset

    from ..grading.rewards import check_reward, load_reward

    if model_args.model_name_or_path is None:
        raise ValueError("No model: set `model_name_or_path` to a folder or a name on the hub.")
    if not script_args.reward_funcs and not script_args.reward_model_name_or_path:
        raise ValueError("No reward: set `reward_funcs` to names or dotted paths, or `reward_model_name_or_path`.")
    if dataset_args.datasets and script_args.dataset_name:
        raise ValueError("Both `datasets` and `dataset_name` are set: remove one.")
    if not dataset_args.datasets and not script_args.dataset_name:
        raise ValueError("No dataset: set `dataset_name` to a file, a folder or a name on the hub.")

    max_completion_length = cast(int, training_args.max_completion_length)
    policy = Policy.from_options(script_args)
    rewards: list[Any] = [load_reward(name, max_completion_length, policy) for name in script_args.reward_funcs or []]
    name = script_args.dataset_name or "mixture"
    if dataset_args.datasets:
        splits = get_dataset(dataset_args)
    else:
        splits = load_splits(name, script_args.dataset_config, script_args.dataset_streaming)

    def prompts(split_field: str) -> Any:
        rows = pick_split(splits, getattr(script_args, split_field), split_field, name)
        if script_args.dataset_filter:
            rows = keep_rows(rows, cast(dict, script_args.dataset_filter), name)
        rows = to_prompts(
            rows,
            name,
            prompt_column=script_args.dataset_prompt_column,
            solution_column=script_args.dataset_solution_column,
            prompt_template=script_args.prompt_template,
            system_prompt=script_args.system_prompt,
            conversational=script_args.conversational,
        )
        if script_args.dataset_max_prompt_length is None:
            return rows
        return drop_long_prompts(
            rows,
            load_tokenizer(model_args, training_args),
            script_args.dataset_max_prompt_length,
            name,
            **chat_template_kwargs(training_args),
        )

    train_dataset = prompts("dataset_train_split")
    first = next(iter(train_dataset))
    for reward in rewards:
        check_reward(reward, first)
    tokenizer = load_tokenizer(model_args, training_args)
    if isinstance(first["prompt"], str):  # a chat template has its own
        check_bos(first["prompt"], tokenizer)
    if script_args.reward_model_name_or_path:
        rewards.insert(0, script_args.reward_model_name_or_path)
    if training_args.reward_weights is not None and len(training_args.reward_weights) != len(rewards):
        raise ValueError(
            f"`reward_weights` holds {len(training_args.reward_weights)} weights for {len(rewards)} rewards: give one "
            "for each."
        )
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        "use_safetensors": True,
        **cast(dict, training_args.model_init_kwargs or {}),
    }
    return {
        "model": model_args.model_name_or_path,
        "reward_funcs": rewards,
        "args": training_args,
        "train_dataset": train_dataset,
        "eval_dataset": prompts("dataset_test_split") if training_args.eval_strategy != "no" else None,
        "quantization_config": get_quantization_config(model_args),
        "peft_config": get_peft_config(model_args),
    }


def identity_of(
    script_args: OPEFOScriptArguments,
    training_args: OPEFOConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
    train_dataset: Any,
) -> dict[str, Any]:
    """The settings of a command that make the result of its run, as JSON."""
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
    All that can be looked at before a model is loaded and a folder is made.

    Returns:
        `tuple[dict[str, Any], dict[str, Any]]`: arguments of [`OPEFOTrainer`], and the settings of the run.

    Raises:
        `ValueError`: if something is missing or does not fit, naming the field to change.
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
            raise ValueError(
                "`--dry_run` starts no process: use `opefo train --dry_run` instead of `accelerate launch`."
            )
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
        return None, [*sentences, *([f"The checkpoints of the run before are now in {folder}."] if folder else [])]
    check_identity(checkpoint, identity)  # once more: another process may have held the folder until now
    if training_args.flow_entropy_target_ratio is not None:
        read_state(checkpoint, "entropy_target")  # raises now what would end the training later
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
    """A sentence if rows have no gold answer."""
    column = script_args.dataset_solution_column
    if column is None or script_args.dataset_streaming:
        return []
    missing = train_dataset["solution"][:].count(None)
    if not missing:
        return []
    return [
        f"{missing} of {len(train_dataset)} rows have no gold answer in column {column!r}: no reward is given there."
    ]


def hub_name(dataset_name: str | None) -> str | None:
    """The name of a dataset for a link to the hub; none for a file or a folder."""
    return None if dataset_name is None or Path(dataset_name).exists() else dataset_name


def run(trainer: Any, checkpoint: str | None, script_args: OPEFOScriptArguments) -> None:
    """Train, save and push; end the process with a sentence if something goes wrong."""
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
        # PEFT has written a blank card
        name = Path(str(args.output_dir)).name
        trainer.create_model_card(model_name=name, dataset_name=hub_name(script_args.dataset_name))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        last, _ = last_whole_checkpoint(str(args.output_dir))
        options = " without `resume_from_checkpoint`" if args.resume_from_checkpoint else ""
        advice = (
            f"To continue from {last}, run the same command{options}."
            if last
            else "No checkpoint was saved, so that the same command starts from the beginning."
        )
        say(f"\n{PROG}: interrupted at step {trainer.state.global_step}. {advice}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(EXIT_CODE)  # the threads of reward functions would be waited for
    except Exception as error:
        if (reason := describe_failure(error, trainer.state.global_step)) is None:
            raise
        # From whichever process it happened in
        print(f"{PROG}: error: {reason}", file=sys.stderr)
        sys.exit(2)
    say(f"Model saved to {args.output_dir}.")
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=hub_name(script_args.dataset_name))
    # Finish the trackers and leave the process group
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
