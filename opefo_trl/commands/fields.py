"""The fields of `opefo train`, read from the sources of their classes, since to import these takes seconds."""

import ast
import difflib
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
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
            Its source; empty if the field has none.
        help (`str`):
            What it is for.
        section (`str`):
            Where `--help` lists it.
    """

    name: str
    default: str
    help: str
    section: str


# Section, module and class, as the command's parser puts them together; a class comes after those that it builds on,
# and the last one that has a field owns it
SECTIONS = (
    ("Training (transformers)", "transformers.training_args", "TrainingArguments"),
    ("Training (TRL)", "trl.trainer.base_config", "_BaseConfig"),
    ("GRPO (TRL)", "trl.trainer.grpo_config", "GRPOConfig"),
    ("OPEFO", "opefo_trl.config", "OPEFOConfig"),
    ("Data and rewards (TRL)", "trl.scripts.utils", "ScriptArguments"),
    ("Data and rewards (TRL)", "trl.scripts.grpo", "GRPOScriptArguments"),
    ("Mixtures of datasets (TRL)", "trl.scripts.utils", "DatasetMixtureConfig"),
    ("Model (TRL)", "trl.trainer.model_config", "ModelConfig"),
    ("Data and rewards", "opefo_trl.commands.arguments", "OPEFOScriptArguments"),
)
SHOWN_FIRST = ("OPEFO", "Data and rewards", "Data and rewards (TRL)", "Model (TRL)", "GRPO (TRL)")
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
        `LookupError` or `OSError`: if a class is not where it was in the versions that this was written for.
    """
    found: dict[str, Field] = {}
    for section, module, name in SECTIONS:
        tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name]
        if not classes:
            raise LookupError(f"{module} has no class {name}.")
        for statement in classes[0].body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                if "ClassVar" not in ast.unparse(statement.annotation) and not statement.target.id.startswith("_"):
                    found[statement.target.id] = _field(statement, section)
    return tuple(found.values())


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
    """The text of a string, of several side by side, and of one with values in it."""
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
    Look at the names on the command line and in the YAML file that it names.

    Args:
        args (`list[str]`):
            Words of the command line.

    Raises:
        `ValueError`: for the first that nothing knows, and if the file cannot be read.
    """
    options = [word for word in args if word.startswith("--")]
    pairs = zip(args, [*args[1:], ""], strict=True)
    given = [word.partition("=")[2] or value for word, value in pairs if word.split("=")[0] == "--config"]
    path = given[-1] if given else None
    keys = read_config(path) if path else {}
    try:
        fields = [field.name for field in read_fields()]
    except (LookupError, OSError, SyntaxError, ImportError):
        return  # other versions; the parser itself looks again
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


def format_help(prog: str) -> str:
    """The fields in sections, the method first."""
    order = [*SHOWN_FIRST, *(section for section, _, _ in SECTIONS if section not in SHOWN_FIRST)]
    lines = [
        f"usage: {prog} --config FILE.yaml [--accelerate_config NAME_OR_FILE] [--FIELD VALUE ...]",
        "",
        *textwrap.wrap(
            "Train with OPEFO, as `trl grpo` trains with GRPO. FIELD is any field below or any option of `accelerate "
            "launch`; the command line overrides the file. `env:` in the file sets variables.",
            WIDTH,
        ),
    ]
    for section in dict.fromkeys(order):
        lines += ["", f"{section}:"]
        for field in read_fields():
            if field.section == section:
                lines.append(f"  --{field.name}" + (f" (default: {field.default})" if field.default else ""))
                lines += textwrap.wrap(field.help, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
