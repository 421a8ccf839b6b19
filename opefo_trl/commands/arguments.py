"""The options of `opefo train`, from its command line and from a YAML file."""

import argparse
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.commands.launch import launch_command_parser
from trl import DatasetMixtureConfig, ModelConfig, TrlParser
from trl.scripts.grpo import GRPOScriptArguments

from ..config import OPEFOConfig
from ..data.prompts import TEMPLATES
from ..grading.policy import Policy
from .fields import read_config, suggest
from .messages import PROG


# transformers' default of `output_dir`
UNNAMED = "trainer_output"


@dataclass
class OPEFOScriptArguments(GRPOScriptArguments):
    """
    Arguments of `opefo train` in addition to the configurations of trainer and model.

    Args:
        dataset_filter (`dict[str, Any]` or `str`, *optional*):
            Column names with the value or values that a row must have. JSON on the command line.
        dataset_prompt_column (`str`, *optional*, defaults to `"prompt"`):
            Column with a problem text or with chat messages; `a.b` is field `b` of column `a`.
        dataset_solution_column (`str`, *optional*):
            Column with the gold answer, in any supported answer format. Reward functions get it as `solution`.
        dataset_max_prompt_length (`int`, *optional*):
            Maximum prompt length in tokens. Rows with a longer prompt are left out.
        prompt_template (`str`, *optional*):
            `"qwen_math"`, `"qwen_math_chat"`, or a text with `{prompt}` where the problem goes.
        system_prompt (`str`, *optional*):
            System message to put first. Makes a text prompt conversational.
        conversational (`bool`, *optional*, defaults to `False`):
            Whether to turn a text prompt into a user message, so that the model's chat template is applied.
        math_reward_tolerance (`float`, *optional*, defaults to `0.0`):
            Relative distance up to which `math_reward` treats two numbers as equal, for example 0.01.
        math_reward_units (`str`, *optional*, defaults to `"optional"`):
            With `"required"`, the answer must have the same unit as the gold, or no unit if the gold has none.
        math_reward_several_golds (`str`, *optional*, defaults to `"all"`):
            With `"any"`, one of several gold answers is enough for `math_reward`.
        save_on_interrupt (`bool`, *optional*, defaults to `False`):
            Whether Ctrl-C finishes the step and saves a checkpoint before the run stops. Off by default: a step may
            take minutes, and someone who presses Ctrl-C wants the command to end.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to check the run without training.
    """

    dataset_filter: dict | str | None = field(
        default=None,
        metadata={"help": "Column names with the value or values that a row must have. JSON on the command line."},
    )
    dataset_prompt_column: str = field(
        default="prompt",
        metadata={"help": "Column with a problem text or with chat messages; `a.b` is field `b` of column `a`."},
    )
    dataset_solution_column: str | None = field(
        default=None,
        metadata={
            "help": "Column with the gold answer, in any supported format. Reward functions get it as `solution`."
        },
    )
    dataset_max_prompt_length: int | None = field(
        default=None, metadata={"help": "Maximum prompt length in tokens. Rows with a longer prompt are left out."}
    )
    prompt_template: str | None = field(
        default=None,
        metadata={"help": f"One of {', '.join(TEMPLATES)}, or a text with {{prompt}} where the problem goes."},
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message to put first. Makes a text prompt conversational."}
    )
    conversational: bool = field(
        default=False,
        metadata={"help": "Turn a text prompt into a user message, so that the model's chat template is applied."},
    )
    math_reward_tolerance: float = field(
        default=0.0,
        metadata={"help": "Relative distance up to which `math_reward` treats two numbers as equal, such as 0.01."},
    )
    math_reward_units: str = field(
        default="optional",
        metadata={
            "help": "With 'required', the answer must have the same unit as the gold, or no unit if it has none."
        },
    )
    math_reward_several_golds: str = field(
        default="all", metadata={"help": "With 'any', one of several gold answers is enough for `math_reward`."}
    )
    save_on_interrupt: bool = field(
        default=False,
        metadata={"help": "On Ctrl-C, finish the step and save a checkpoint. A second Ctrl-C stops the run at once."},
    )
    dry_run: bool = field(default=False, metadata={"help": "Check the run without training."})

    def __post_init__(self):
        Policy.from_options(self)
        if isinstance(self.dataset_filter, str):
            try:
                self.dataset_filter = json.loads(self.dataset_filter)
            except ValueError:
                pass
        if not isinstance(self.dataset_filter, dict | None):
            raise ValueError(
                "`dataset_filter` must be a JSON object of column names and values, such as "
                f'\'{{"level": ["Level 4", "Level 5"]}}\', but it is {self.dataset_filter!r}.'
            )


def make_parser(config_class: type[OPEFOConfig] = OPEFOConfig) -> TrlParser:
    parser = TrlParser(
        (OPEFOScriptArguments, config_class, ModelConfig, DatasetMixtureConfig),  # type: ignore[arg-type]
        prog=PROG,
        usage=f"{PROG} --config FILE.yaml [--accelerate_config NAME_OR_FILE] [--FIELD VALUE ...]",
        description="Train with OPEFO, as `trl grpo` trains with GRPO. FIELD is any field below or any option of "
        "`accelerate launch`; the command line overrides the file.",
    )
    parser.add_argument("--config", help="YAML file with values of the fields below, and of variables, under `env:`.")
    return parser


def launch_actions() -> dict[str, argparse.Action]:
    """Options of `accelerate launch` by name, and `accelerate_config` for one of TRL's packaged files."""
    actions = {action.dest: action for action in launch_command_parser()._actions if action.option_strings}
    actions["accelerate_config"] = argparse.Action(["--accelerate_config"], "accelerate_config")
    return actions


def apply_config_file(parser: TrlParser, path: str | None) -> dict[str, Any]:
    """
    Make the values of a YAML file the parser's defaults, set the environment variables in `env`, and return the
    options in the file that are for `accelerate launch`.

    Raises:
        `ValueError`: if the file cannot be read or holds an unknown key.
    """
    if path is None:
        return {}
    config = read_config(path)
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


def check_options(left: list[str], parser: TrlParser, known: Iterable[str] = ()) -> None:
    """Raise a `ValueError` for the first word that the parser left over, unless it is an option in `known`."""
    fields = [action.dest for action in parser._actions]
    options = [word for word in left if word.startswith("--")]
    for option in options:
        name = option.removeprefix("--").split("=")[0].replace("-", "_")
        if name not in known:
            raise ValueError(f"Unknown option `{option}`: {suggest(name, [*fields, *known])}")
    if left and not options:
        raise ValueError(f"Unexpected argument `{left[0]}`: a value must follow an option, as in `--FIELD VALUE`.")


def without(words: list[str], left: list[str]) -> list[str]:
    """`words` without those in `left`, which are in the same order."""
    remaining = iter([*left, None])
    next_left = next(remaining)
    kept = []
    for word in words:
        if word == next_left:
            next_left = next(remaining)
        else:
            kept.append(word)
    return kept


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
    if not torch.accelerator.is_available():
        # transformers would stop at the first setting that needs a GPU, before anything else is checked
        args = [*args, "--use_cpu", "true"]
    *parsed, _, left = parser.parse_args_into_dataclasses(args, return_remaining_strings=True)
    check_options(left, parser)
    script_args, training_args, model_args, dataset_args = parsed
    if training_args.output_dir == UNNAMED:
        training_args.output_dir = default_output_dir(script_args, training_args, model_args)
    return script_args, training_args, model_args, dataset_args


def wants_cpu(args: list[str]) -> bool:
    """Whether the user set `use_cpu`, on the command line or in the file."""
    parser = make_parser()
    apply_config_file(parser, parser.parse_known_args(args)[0].config)
    return bool(parser.parse_known_args(args)[0].use_cpu)


def default_output_dir(script_args: OPEFOScriptArguments, training_args: OPEFOConfig, model_args: ModelConfig) -> str:
    """A folder for each model, dataset and method, so that two runs do not share one by accident."""
    named = (model_args.model_name_or_path or "model", script_args.dataset_name or "mixture")
    model, dataset = (Path(name).name or "here" for name in named)
    steers = (
        training_args.flow_strength or training_args.flow_entropy_target or training_args.flow_entropy_target_ratio
    )
    return f"outputs/{model}-{Path(dataset).stem}-{'opefo' if steers else 'grpo'}"
