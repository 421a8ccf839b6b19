"""What `opefo train` runs in each process: parser, data, rewards and trainer put together.

By hand: `accelerate launch -m opefo_trl.train --config FILE.yaml`.
"""

import argparse
import difflib
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

import yaml
from accelerate.commands.launch import launch_command_parser
from transformers import AutoTokenizer
from trl import DatasetMixtureConfig, ModelConfig, TrlParser, get_peft_config, get_quantization_config
from trl.scripts.grpo import GRPOScriptArguments

from .config import OPEFOConfig
from .data import keep_rows, load_splits, pick_split
from .prompts import TEMPLATES, drop_long_prompts, render, to_prompts
from .resume import UNFINISHED, copy_model, is_finished, is_saved, move_up, read_entropy_target, resume_point


if TYPE_CHECKING:
    from .trainer import OPEFOTrainer


PROG = "opefo train"


@dataclass
class OPEFOScriptArguments(GRPOScriptArguments):
    """
    Arguments of `opefo train` beside the configurations of trainer and model.

    Args:
        dataset_filter (`dict[str, Any]` or `str`, *optional*):
            Column names with the value or the values that a row must have, on the command line as JSON.
        dataset_prompt_column (`str`, *optional*, defaults to `"prompt"`):
            Column with a problem text or with chat messages; `a.b` is field `b` of column `a`.
        dataset_solution_column (`str`, *optional*):
            Column with the gold answer, in any published spelling; reward functions get it as `solution`.
        dataset_max_prompt_length (`int`, *optional*):
            In tokens; rows with a longer prompt are left out.
        prompt_template (`str`, *optional*):
            `"qwen_math"`, `"qwen_math_chat"`, or a text with `{prompt}` where the problem goes.
        system_prompt (`str`, *optional*):
            System message to put first; makes a text prompt conversational.
        conversational (`bool`, *optional*, defaults to `False`):
            Whether to turn a text prompt into a user message, so that the model's chat template is applied.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to check everything and train nothing.
    """

    dataset_filter: dict | str | None = field(
        default=None,
        metadata={"help": "Column names with the value or values that a row must have, on the command line as JSON."},
    )
    dataset_prompt_column: str = field(
        default="prompt",
        metadata={"help": "Column with a problem text or with chat messages; `a.b` is field `b` of column `a`."},
    )
    dataset_solution_column: str | None = field(
        default=None,
        metadata={
            "help": "Column with the gold answer, in any published spelling; reward functions get it as `solution`."
        },
    )
    dataset_max_prompt_length: int | None = field(
        default=None, metadata={"help": "In tokens; rows with a longer prompt are left out."}
    )
    prompt_template: str | None = field(
        default=None,
        metadata={"help": f"One of {', '.join(TEMPLATES)}, or a text with {{prompt}} where the problem goes."},
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message to put first; makes a text prompt conversational."}
    )
    conversational: bool = field(
        default=False,
        metadata={"help": "Turn a text prompt into a user message, so that the model's chat template is applied."},
    )
    dry_run: bool = field(default=False, metadata={"help": "Check everything and train nothing."})

    def __post_init__(self):
        if isinstance(self.dataset_filter, str):
            try:
                self.dataset_filter = json.loads(self.dataset_filter)
            except ValueError:
                pass
        if not isinstance(self.dataset_filter, dict | None):
            raise ValueError(
                "`dataset_filter` must be JSON of column names with values, as in "
                f'\'{{"level": ["Level 4", "Level 5"]}}\', but it is {self.dataset_filter!r}.'
            )


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


def save_final_model(trainer: "OPEFOTrainer", output_dir: str) -> None:
    """
    Save the model whole or not at all: what is in the folder already stays until all of the new is written.

    Raises:
        `RunStopped`: if it cannot be written.
    """
    from .trainer import RunStopped

    unfinished = Path(output_dir) / UNFINISHED
    try:
        trainer.save_model(str(unfinished))
        trainer.accelerator.wait_for_everyone()
        if trainer.args.should_save:
            move_up(unfinished)
        trainer.save_state()  # last, it tells that the model is there
    except Exception as error:  # each library has its own for a full disk
        raise RunStopped(
            f"The model could not be saved to {output_dir} ({error}): free some space; the last checkpoint in "
            f"{output_dir} holds it, too."
        ) from error


def say(message: str, file: TextIO | None = None) -> None:
    """Print on the main process alone."""
    if os.environ.get("RANK", "0") == "0":
        print(message, file=file)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def fail(error: Exception) -> NoReturn:
    """Say on stderr, in one line, what is wrong and exit with 2."""
    say(f"{PROG}: error: {one_line(error)}", file=sys.stderr)
    sys.exit(2)


def make_parser(config_class: type[OPEFOConfig] = OPEFOConfig) -> TrlParser:
    parser = TrlParser(
        (OPEFOScriptArguments, config_class, ModelConfig, DatasetMixtureConfig),  # type: ignore[arg-type]
        prog=PROG,
        usage=f"{PROG} --config FILE.yaml [--accelerate_config NAME_OR_FILE] [--FIELD VALUE ...]",
        description="Train with OPEFO, as `trl grpo` trains with GRPO. FIELD is any field below or any option of "
        "`accelerate launch`; the command line overrides the file.",
    )
    parser.add_argument("--config", help="YAML file with values for the fields below, and `env:` for variables.")
    return parser


def launch_actions() -> dict[str, argparse.Action]:
    """Options of `accelerate launch` by name, and `accelerate_config`, which names one of TRL's packaged files."""
    actions = {action.dest: action for action in launch_command_parser()._actions if action.option_strings}
    actions["accelerate_config"] = argparse.Action(["--accelerate_config"], "accelerate_config")
    return actions


def apply_config_file(parser: TrlParser, path: str | None) -> dict[str, Any]:
    """
    Make the values of a YAML file the parser's defaults, set the variables in `env`, and return the options that the
    file holds for `accelerate launch`.

    Raises:
        `ValueError`: if the file cannot be read or holds a key that nothing knows.
    """
    if path is None:
        return {}
    try:
        config = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Config file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"Config file {path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"Config file {path} must hold `key: value` lines, but it holds {config!r}.")
    variables = config.pop("env", {})
    if not isinstance(variables, dict):
        raise ValueError(f"`env` in config file {path} must hold `NAME: value` lines, but it holds {variables!r}.")
    os.environ.update({name: str(value) for name, value in variables.items()})
    launch = launch_actions()
    fields = {action.dest for action in parser._actions}
    for key in config:
        if key not in fields and key not in launch:
            raise ValueError(f"Unknown key `{key}` in config file {path}: {suggest(key, [*fields, *launch])}")
    parser.set_defaults_with_config(**{key: value for key, value in config.items() if key in fields})
    return {key: value for key, value in config.items() if key not in fields}


def suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{close[0]}`?" if close else "remove it or correct its name."


def check_options(left: list[str], parser: TrlParser, known: Iterable[str] = ()) -> None:
    """Raise a `ValueError` for the first word that the parser left over, unless it is an option in `known`."""
    fields = [action.dest for action in parser._actions]
    options = [word for word in left if word.startswith("--")]
    for option in options:
        name = option.removeprefix("--").split("=")[0].replace("-", "_")
        if name not in known:
            raise ValueError(f"Unknown option `{option}`: {suggest(name, [*fields, *known])}")
    if left and not options:
        raise ValueError(f"Unexpected argument `{left[0]}`: values belong behind an option, `--FIELD VALUE`.")


def parse(
    args: list[str], config_class: type[OPEFOConfig] = OPEFOConfig
) -> tuple[OPEFOScriptArguments, OPEFOConfig, ModelConfig, DatasetMixtureConfig]:
    """
    Read the command line and the YAML file it names into the four configurations.

    Raises:
        `ValueError`: if a key is unknown or a value contradicts another.
    """
    parser = make_parser(config_class)
    # The file first: its values are defaults that the command line overrides
    apply_config_file(parser, parser.parse_known_args(args)[0].config)
    *parsed, _, left = parser.parse_args_into_dataclasses(args, return_remaining_strings=True)
    check_options(left, parser)
    return tuple(parsed)  # type: ignore[return-value]


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
        raise ValueError(
            f"The tokenizer of `model_name_or_path` {model_args.model_name_or_path} cannot be loaded: {error}"
        ) from error


def chat_template_kwargs(training_args: OPEFOConfig) -> dict[str, Any]:
    return cast(dict, training_args.chat_template_kwargs or {})


def prepare(
    script_args: OPEFOScriptArguments,
    training_args: OPEFOConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
) -> dict[str, Any]:
    """
    Load data and rewards and check them; nothing heavier has happened when this raises.

    Returns:
        `dict[str, Any]`: arguments of [`OPEFOTrainer`].

    Raises:
        `ValueError`: if something is missing or does not fit, naming the field to change.
    """
    from trl import get_dataset

    from .rewards import check_reward, load_reward

    if model_args.model_name_or_path is None:
        raise ValueError("No model: set `model_name_or_path` to a folder or a name on the hub.")
    if not script_args.reward_funcs and not script_args.reward_model_name_or_path:
        raise ValueError("No reward: set `reward_funcs` to names or dotted paths, or `reward_model_name_or_path`.")
    if dataset_args.datasets and script_args.dataset_name:
        raise ValueError("Both `datasets` and `dataset_name` are set: remove one.")
    if not dataset_args.datasets and not script_args.dataset_name:
        raise ValueError("No dataset: set `dataset_name` to a file, a folder or a name on the hub.")

    max_completion_length = cast(int, training_args.max_completion_length)
    rewards: list[Any] = [load_reward(name, max_completion_length) for name in script_args.reward_funcs or []]
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
    for reward in rewards:
        check_reward(reward, next(iter(train_dataset)))
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


def main(args: list[str] | None = None) -> None:
    try:
        script_args, training_args, model_args, dataset_args = parse(sys.argv[1:] if args is None else args)
        if script_args.dry_run:
            raise ValueError(
                "`--dry_run` starts no process: use `opefo train --dry_run` instead of `accelerate launch`."
            )
        checkpoint, passed_over = resume_point(training_args)
        if checkpoint is not None and is_finished(checkpoint, training_args):
            if not is_saved(checkpoint, str(training_args.output_dir)) and training_args.should_save:
                copy_model(checkpoint, str(training_args.output_dir))
            say(
                f"{checkpoint} is the end of this run: raise `max_steps` or `num_train_epochs` to train on, or set "
                "`resume_from_checkpoint: false` to start anew."
            )
            return
        check_output_dir(str(training_args.output_dir))
        trainer_args = prepare(script_args, training_args, model_args, dataset_args)
        from .trainer import OPEFOTrainer, RunStopped

        if checkpoint is not None and training_args.flow_entropy_target_ratio is not None:
            read_entropy_target(checkpoint)  # raises now what would end the training later
        try:
            trainer = OPEFOTrainer(**trainer_args)
        except OSError as error:
            raise ValueError(
                f"`model_name_or_path` {trainer_args['model']} cannot be loaded (weights must be safetensors, unless "
                f"`model_init_kwargs` holds `use_safetensors: false`): {error}"
            ) from error
        first = next(iter(trainer_args["train_dataset"]))["prompt"]
        first = render(first, trainer.processing_class, **chat_template_kwargs(training_args))
    except (ValueError, TypeError, OSError) as error:
        fail(error)

    say(f"First prompt: {first!r}")
    for sentence in passed_over:
        say(sentence)
    if checkpoint is not None:
        say(f"Resuming from {checkpoint}.")
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
        save_final_model(trainer, str(training_args.output_dir))
    except RunStopped as error:
        # From whichever process it happened in
        print(f"{PROG}: error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    say(f"Model saved to {training_args.output_dir}.")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    # Finish the trackers and leave the process group
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
