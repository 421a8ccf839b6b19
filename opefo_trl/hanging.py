"""Names a reward function that has been running for long, and the line it stands on."""

import asyncio
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from accelerate.logging import get_logger
from trl.trainer.utils import get_callable_name


logger = get_logger(__name__)


def code_of(function: Callable[..., Any]) -> CodeType | None:
    """
    Code of a function, a method, a partial function or an object with `__call__`, without decorators; `None` where it
    is not Python's.
    """
    if isinstance(function, functools.partial):
        return code_of(function.func)
    plain = inspect.unwrap(function)
    if not inspect.isroutine(plain):
        plain = type(plain).__call__
    return plain.__code__ if inspect.isfunction(plain) or inspect.ismethod(plain) else None


class SlowReward:
    """
    Warns the first time that a reward function takes long, while it is still running. The function is not stopped.

    Args:
        function (`Callable`):
            The reward function.
        seconds (`float`):
            Seconds from its start to the warning. Infinity: no warning.
    """

    def __init__(self, function: Callable[..., Any], seconds: float):
        self.function = function
        self.seconds = seconds
        self.was_named = False

    @contextmanager
    def watch(self) -> Iterator[None]:
        """A block that calls or awaits the function."""
        thread = threading.get_ident()
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no event loop: the function is called, not awaited
            task = None
        timer = threading.Timer(min(self.seconds, threading.TIMEOUT_MAX), self._name, (thread, task))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _name(self, thread: int, task: asyncio.Task[Any] | None) -> None:
        if self.was_named:
            return
        self.was_named = True
        frames = awaiting_frames(task) if task else calling_frames(sys._current_frames().get(thread))
        logger.warning(
            f"Reward function `{get_callable_name(self.function)}` has been running for {self.seconds:g} seconds"
            f"{describe_place(frames, self.function)}. The training waits for it (`reward_warn_seconds` sets when "
            "this is said).",
            main_process_only=False,
        )


def calling_frames(frame: FrameType | None) -> list[FrameType]:
    """A frame and those that called it, the innermost first."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def awaiting_frames(task: asyncio.Task[Any]) -> list[FrameType]:
    """Frames of a task and of the coroutines that it waits for, the innermost first."""
    frames = []
    coroutine: Any = task.get_coro()
    while inspect.iscoroutine(coroutine):
        if coroutine.cr_frame is not None:
            frames.append(coroutine.cr_frame)
        coroutine = coroutine.cr_await
    return frames[::-1]


def describe_place(frames: list[FrameType], function: Callable[..., Any]) -> str:
    """Where the function stands: the innermost line of its own file. Empty if no frame belongs to that file."""
    code = code_of(function)
    for frame in frames:
        if code is not None and frame.f_code.co_filename == code.co_filename:
            return f" and stands in {frame.f_code.co_name} ({frame.f_code.co_filename}, line {frame.f_lineno})"
    return ""
