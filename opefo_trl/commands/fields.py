"""The fields of `opefo train`, read from the sources of their classes, since importing them takes seconds."""

import ast
import difflib
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Field:
    """
    One option.

    Args:
        name (`str`):
            Without dashes.
        default (`str`):
            Source code of the default. Empty if the field has none.
        help (`str`):
            What it is for.
        section (`str`):
            Key of [`SECTIONS`].
    """

    name: str
    default: str
    help: str
    section: str


# Modules and classes of the command's options. A class comes after its base classes
CLASSES = (
    ("transformers.training_args", "TrainingArguments"),
    ("trl.trainer.base_config", "_BaseConfig"),
    ("trl.trainer.grpo_config", "GRPOConfig"),
    ("opefo_trl.config", "OPEFOConfig"),
    ("trl.scripts.utils", "ScriptArguments"),
    ("trl.scripts.grpo", "GRPOScriptArguments"),
    ("trl.scripts.utils", "DatasetMixtureConfig"),
    ("trl.trainer.model_config", "ModelConfig"),
    ("opefo_trl.commands.arguments", "OPEFOScriptArguments"),
)
SECTIONS = {
    "flow": "The method: balance and entropy target",
    "data": "Datasets, columns, prompts",
    "reward": "Reward functions",
    "rollouts": "Sampling of completions",
    "model": "Model, LoRA, quantization",
    "loss": "GRPO's loss and advantages",
    "steps": "Steps, batch, learning rate, optimizer, seed",
    "vllm": "Faster generation: vLLM, continuous batching",
    "logs": "Logging, checkpoints, evaluation, the hub",
    "system": "Precision, memory, hardware, everything else",
}
# The section of a field: by its name, else by the comment above its group, else by its class
SECTION_OF_NAME = (
    ("reward_", "reward"),
    ("math_reward_", "reward"),
    ("scale_rewards", "reward"),
    ("multi_objective", "reward"),
    ("dataset_", "data"),
    ("shuffle_dataset", "data"),
    ("max_tool_calling_iterations", "rollouts"),
    ("resume_from_checkpoint", "logs"),
    ("ignore_bias_buffers", "system"),
    ("save_on_interrupt", "logs"),
    ("dry_run", "steps"),
    ("use_vllm", "vllm"),
    ("vllm_", "vllm"),
)
SECTION_OF_HEADING = {
    "Parameters that control the model and reference model": "model",
    "Parameters that control the data preprocessing": "rollouts",
    "Parameters that control generation": "rollouts",
    "Parameters that control generation acceleration powered by vLLM": "vllm",
    "Parameters that control generation acceleration powered by transformers continuous batching": "vllm",
    "Parameters that control the training": "loss",
    "Parameters that control the logging": "logs",
    "Output": "logs",
    "Training Duration and Batch Size": "steps",
    "Learning Rate & Scheduler": "steps",
    "Optimizer": "steps",
    "Regularization & Training Stability": "steps",
    "Reproducibility": "steps",
    "Logging & Monitoring": "logs",
    "Log Levels": "logs",
    "Experiment Tracking": "logs",
    "Evaluation": "logs",
    "Metrics": "logs",
    "Checkpointing & Saving": "logs",
    "Hub Integration": "logs",
    "Best Model Tracking": "logs",
    "Resuming Training": "logs",
}
SECTION_OF_CLASS = {
    "OPEFOConfig": "flow",
    "ScriptArguments": "data",
    "GRPOScriptArguments": "data",
    "DatasetMixtureConfig": "data",
    "ModelConfig": "model",
    "OPEFOScriptArguments": "data",
}
WIDTH = 110


def source_of(module: str) -> Path:
    """The file of a module, found without importing the packages around it."""
    package, *parts = module.split(".")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"There is no package {package}.")
    return Path(spec.submodule_search_locations[0], *parts).with_suffix(".py")


@cache
def read_fields() -> tuple[Field, ...]:
    """
    All fields, each once.

    Raises:
        `LookupError` or `OSError`: if a class is not where this code expects it (in other package versions).
    """
    found: dict[str, Field] = {}
    for module, name in CLASSES:
        text = source_of(module).read_text(encoding="utf-8")
        classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef) and node.name == name]
        if not classes:
            raise LookupError(f"{module} has no class {name}.")
        lines = text.splitlines()
        line, heading = classes[0].lineno, ""
        for statement in classes[0].body:
            for comment in lines[line : statement.lineno]:
                words = comment.strip(" #-")
                if words in SECTION_OF_HEADING or comment.lstrip().startswith("# ---"):
                    heading = words
            line = statement.end_lineno or line
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                if "ClassVar" not in ast.unparse(statement.annotation) and not statement.target.id.startswith("_"):
                    field = _field(statement, _section(statement.target.id, heading, name))
                    # If a class only changes a default, the field stays in its section
                    earlier = found.get(field.name)
                    found[field.name] = replace(field, section=earlier.section) if earlier else field
    return tuple(found.values())


def _section(name: str, heading: str, class_name: str) -> str:
    for start, section in SECTION_OF_NAME:
        if name.startswith(start):
            return section
    return SECTION_OF_HEADING.get(heading) or SECTION_OF_CLASS.get(class_name, "system")


def _field(statement: ast.AnnAssign, section: str) -> Field:
    name, default, text = ast.unparse(statement.target), "", ""
    value = statement.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "dataclasses.field"):
        for keyword in value.keywords:
            if keyword.arg == "default":
                default = ast.unparse(keyword.value)
            elif keyword.arg == "default_factory":
                default = f"{ast.unparse(keyword.value)}()"
            elif keyword.arg == "metadata" and isinstance(keyword.value, ast.Dict):
                for key, part in zip(keyword.value.keys, keyword.value.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "help":
                        text = _text(part)
    elif value is not None:
        default = ast.unparse(value)
    return Field(name, default, " ".join(text.split()), section)


def _text(node: ast.AST) -> str:
    """The text of a string, of concatenated strings, or of an f-string."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "…" if isinstance(node, ast.FormattedValue) else ""


@cache
def launch_options() -> frozenset[str]:
    """The options of `accelerate launch`, and `accelerate_config`."""
    tree = ast.parse(source_of("accelerate.commands.launch").read_text(encoding="utf-8"))
    names = {"accelerate_config"}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            flags = [str(word.value) for word in call.args if isinstance(word, ast.Constant)]
            names |= {flag.removeprefix("--").replace("-", "_") for flag in flags if flag.startswith("--")}
            targets = [word.value for word in call.keywords if word.arg == "dest"]
            names |= {str(target.value) for target in targets if isinstance(target, ast.Constant)}
    return frozenset(names)


def read_config(path: str) -> dict[str, Any]:
    """
    Raises:
        `ValueError`: if a YAML file cannot be read, or holds no `key: value` lines.
    """
    try:
        config = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Config file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"Config file {path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"Config file {path} must hold `key: value` lines, but it holds {config!r}.")
    return config


def suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean `{close[0]}`?" if close else "remove it or correct its name."


def check_names(args: list[str]) -> None:
    """
    Check the option names on the command line and in its YAML file.

    Args:
        args (`list[str]`):
            Words of the command line.

    Raises:
        `ValueError`: for the first unknown name, and if the file cannot be read.
    """
    options = [word for word in args if word.startswith("--")]
    pairs = zip(args, [*args[1:], ""], strict=False)  # no words, no pairs
    given = [word.partition("=")[2] or value for word, value in pairs if word.split("=")[0] == "--config"]
    path = given[-1] if given else None
    keys = read_config(path) if path else {}
    try:
        fields = [field.name for field in read_fields()]
    except (LookupError, OSError, SyntaxError, ImportError):
        return  # other package versions; the parser itself checks later
    known = {*fields, *(f"no_{name}" for name in fields), *launch_options(), "config", "help", "env"}
    for option in options:
        name = option.removeprefix("--").split("=")[0].replace("-", "_")
        if name not in known:
            raise ValueError(f"Unknown option `{option}`: {suggest(name, [*fields, *launch_options()])}")
    for key in keys:
        if key not in known:
            raise ValueError(
                f"Unknown key `{key}` in config file {path}: {suggest(key, [*fields, *launch_options()])}"
            )


def format_help(prog: str, topic: str = "") -> str:
    """
    Help on some of the fields.

    Args:
        prog (`str`):
            Name of the command.
        topic (`str`, *optional*):
            A key of [`SECTIONS`], `"all"`, or a part of the names to show. If it is empty, the method's fields and the
            names of all others are shown.

    Raises:
        `ValueError`: if nothing has the topic in its name.
    """
    fields = read_fields()
    if topic == "all" or topic in SECTIONS:
        return "\n\n".join(_describe_section(key) for key in SECTIONS if topic in ("all", key))
    if topic:
        shown = [field for field in fields if topic.lower() in field.name]
        if not shown:
            raise ValueError(
                f"No section is called `{topic}`, and no field has it in its name: use one of {', '.join(SECTIONS)}, "
                "`all`, or a part of a name."
            )
        return "\n".join(line for field in shown for line in _describe(field))
    lines = [
        f"usage: {prog} --config FILE.yaml [--accelerate_config NAME_OR_FILE] [--FIELD VALUE ...]",
        f"       {prog} --help [SECTION | all | PART_OF_A_NAME]",
        "",
        *textwrap.wrap(
            "Train with OPEFO, as `trl grpo` trains with GRPO. FIELD is any field below or any option of `accelerate "
            "launch`; the command line overrides the file. `env:` in the file sets environment variables.",
            WIDTH,
        ),
        "",
        _describe_section("flow"),
        "",
        f"All other fields by section. `{prog} --help data` describes a section, `{prog} --help entropy` all fields",
        "with `entropy` in their name.",
    ]
    for key, title in SECTIONS.items():
        names = [field.name for field in fields if field.section == key]
        if key != "flow":
            lines += ["", f"{key}: {title}"]
            lines += textwrap.wrap(" ".join(names), WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def _describe_section(key: str) -> str:
    fields = [field for field in read_fields() if field.section == key]
    return "\n".join([f"{key}: {SECTIONS[key]}", *(line for field in fields for line in _describe(field))])


def _describe(field: Field) -> list[str]:
    default = f" (default: {field.default})" if field.default else ""
    return [
        f"  --{field.name}{default}",
        *textwrap.wrap(field.help, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6),
    ]
