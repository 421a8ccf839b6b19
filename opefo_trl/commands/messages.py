"""What `opefo train` tells on the terminal, and how it ends when something is wrong."""

import os
import sys
from typing import NoReturn, TextIO

from ..guards import RunStopped, describe_failed_reward


PROG = "opefo train"


def say(message: str, file: TextIO | None = None) -> None:
    """Print on the main process alone."""
    if os.environ.get("RANK", "0") == "0":
        print(message, file=file)


def one_line(text: Exception | str) -> str:
    return " ".join(str(text).split())


def describe_failure(error: Exception, step: int) -> str | None:
    """The sentence for an exception that ended the training; `None` for a fault of the program, to be shown whole."""
    if isinstance(error, RunStopped):
        return one_line(error)
    if (sentence := describe_failed_reward(error, step)) is not None:
        return one_line(sentence)
    # A hub or a tracker that does not answer
    return f"{type(error).__name__} at step {step}: {one_line(error)}" if isinstance(error, OSError) else None


def fail(error: Exception) -> NoReturn:
    """Say on stderr, in one line, what is wrong and exit with 2."""
    say(f"{PROG}: error: {one_line(error)}", file=sys.stderr)
    sys.exit(2)
