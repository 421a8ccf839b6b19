"""What `opefo train` prints on the terminal, and how it exits on an error."""

import os
import sys
import warnings
from typing import NoReturn, TextIO

import torch

from ..guards import RunStopped, describe_failed_reward


PROG = "opefo train"


def say(message: str, file: TextIO | None = None) -> None:
    """Print on the main process alone."""
    if os.environ.get("RANK", "0") == "0":
        print(message, file=file)


def quiet() -> None:
    """Silence warnings that a user cannot act on, about calls between libraries and about their device."""
    libraries = r"(transformers|trl|peft|accelerate|datasets|torch|huggingface_hub)(\.|$)"
    warnings.filterwarnings("ignore", category=FutureWarning, module=libraries)
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it found no accelerator


def one_line(text: Exception | str) -> str:
    return " ".join(str(text).split())


def describe_failure(error: Exception, step: int) -> str | None:
    """Message for an exception that ended the training. `None` for a bug, whose traceback is shown."""
    if isinstance(error, RunStopped):
        return one_line(error)
    if (sentence := describe_failed_reward(error, step)) is not None:
        return one_line(sentence)
    # A hub or a tracker that does not answer
    return f"{type(error).__name__} at step {step}: {one_line(error)}" if isinstance(error, OSError) else None


def fail(error: Exception) -> NoReturn:
    """Print the error on stderr in one line, and exit with code 2."""
    say(f"{PROG}: error: {one_line(error)}", file=sys.stderr)
    sys.exit(2)
