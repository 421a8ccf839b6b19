"""Compares math answers in child processes. A pathological answer can only kill such a child.

A short text such as `9^{9^{9^9}}` can keep SymPy busy forever, and math-verify's time limits need the main thread. So
each worker is a separate process, `python -m opefo_trl.grading.grader`, which imports neither torch nor the user's
script. It lets a child process compare. The kernel ends a child that takes too long, and the worker forks another.
"""

import json
import logging
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection

from .equality import equal, is_text_alone
from .policy import DEFAULT_POLICY, Policy


# Per answer. An ordinary one takes milliseconds. CPU time does not depend on what else the machine does
CPU_SECONDS = 1.0
WALL_SECONDS = 5.0
MEMORY_BYTES = 2 * 1024**3
# A child that has grown to this size, by a leak or by one large answer, is replaced before the next answer
KEPT_BYTES = 1024**3
MAX_WORKERS = 8
# Formulas of most kinds. The parser caches the grammar that it has seen, and every child inherits the cache
_WARMING_UP = (
    r"-\frac{3x^2+1}{2}, \sqrt[3]{2}(x-1)\sin(2x), e^{-x}+\log_2 x, (-\infty,3]\cup[4,5), a_1+|b|!, 2.5\cdot 3"
)


class Grader:
    """
    Compares answers with golds in worker processes.

    No answer takes more than `CPU_SECONDS` of CPU time and `WALL_SECONDS` of a worker (twice that if the gold itself
    is pathological). This holds in any thread.

    Args:
        num_workers (`int`, *optional*):
            Defaults to this process's share of the machine's cores, at most `MAX_WORKERS`.
    """

    def __init__(self, num_workers: int | None = None):
        if num_workers is None:
            processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            num_workers = min(MAX_WORKERS, max(1, (os.cpu_count() or 1) // processes_here))
        self.num_workers = num_workers
        self._idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="math-grader")
        for _ in range(num_workers):
            self._idle.put(_start_worker())

    def grade(self, pairs: Iterable[tuple[str, str | None]], policy: Policy = DEFAULT_POLICY) -> list[float | None]:
        """
        Args:
            pairs (`Iterable[tuple[str, str | None]]`):
                Gold and answer, each LaTeX without its box. `None` if there is no answer.
            policy (`Policy`, *optional*):
                Options of the math reward.

        Returns:
            `list[float | None]`: 1.0 if they are equal. 0.0 if they are not, and if the answer is `None` or cannot be
            read. `None` if there is no gold, or it takes too long to read.

        Raises:
            `RuntimeError`: if the workers cannot run at all.
        """
        return [None if reply is None else reply["reward"] for reply in self._replies(pairs, policy)]

    def text_alone(self, golds: Iterable[str]) -> list[bool]:
        """
        Whether only the same spelling can equal a gold (see [`~equality.is_text_alone`]).

        Args:
            golds (`Iterable[str]`):
                LaTeX without its box.

        Returns:
            `list[bool]`: `True` also where a gold takes too long to read.

        Raises:
            `RuntimeError`: if the workers cannot run at all.
        """
        pairs = [(gold, None) for gold in golds]
        return [reply is None or reply["is_text_alone"] for reply in self._replies(pairs, DEFAULT_POLICY)]

    def _replies(self, pairs: Iterable[tuple[str, str | None]], policy: Policy) -> list[dict | None]:
        requests = [json.dumps([gold, answer, asdict(policy)]) for gold, answer in pairs]
        different = list(dict.fromkeys(requests))  # the completions of a group often agree
        replies = dict(zip(different, self._threads.map(self._ask, different), strict=True))
        return [replies[request] for request in requests]

    def _ask(self, request: str) -> dict | None:
        worker = self._idle.get()
        try:
            for _ in range(2):  # someone may have killed the worker since its last answer
                try:
                    worker.stdin.write(request + "\n")  # type: ignore[union-attr]
                    worker.stdin.flush()  # type: ignore[union-attr]
                    if reply := worker.stdout.readline():  # type: ignore[union-attr]
                        return json.loads(reply)
                except BrokenPipeError:
                    pass
                worker.kill()
                worker = _start_worker()
            raise RuntimeError(
                "The processes that compare math answers exit at once: run `python -m opefo_trl.grading.grader` to "
                "see why."
            )
        finally:
            self._idle.put(worker)


@cache
def shared_grader() -> Grader:
    """The pool of this process, started on first use."""
    return Grader()


def _start_worker() -> subprocess.Popen[str]:
    # The worker ends by itself when this process is gone, since its stdin is closed
    return subprocess.Popen(
        [sys.executable, "-m", "opefo_trl.grading.grader"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def serve() -> None:
    """Main loop of a worker: answer each line of stdin, a request as JSON, with a line on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training handles Ctrl-C, and this worker ends with it
    logging.disable()  # math-verify's warnings print the whole text
    is_text_alone(_WARMING_UP)  # imports SymPy and the parser once, not in every child
    replies = sys.stdout
    sys.stdout = sys.stderr
    reader = _Reader()
    for line in sys.stdin:
        print(json.dumps(reader.reply(*json.loads(line))), file=replies, flush=True)


class _Reader:
    """Compares in a child process, and forks another one when an answer has killed it."""

    def __init__(self) -> None:
        self._fork()

    def _fork(self) -> None:
        fork = get_context("fork")
        self._connection, far_end = fork.Pipe()
        self._child = fork.Process(target=_reply_to_all, args=(far_end, self._connection), daemon=True)
        self._child.start()
        far_end.close()

    def reply(self, gold: str, answer: str | None, policy: dict) -> dict | None:
        try:
            return self._ask(gold, answer, policy)
        except TimeoutError:
            pass
        try:  # Was it the gold or the answer? If the gold alone is read in time, it was the answer
            return self._ask(gold, None, policy)
        except TimeoutError:
            return None

    def _ask(self, gold: str, answer: str | None, policy: dict) -> dict | None:
        """The child's reply. Raises `TimeoutError` if the pair kills it."""
        for _ in range(2):  # it may have died earlier; only if its timer ended it, this pair is surely the cause
            try:
                self._connection.send_bytes(json.dumps((gold, answer, policy)).encode())  # `send` would pickle
                return json.loads(self._connection.recv_bytes())
            except (EOFError, ConnectionError):
                self._connection.close()
                self._child.join()
                exitcode = self._child.exitcode
                self._fork()
            if exitcode in (-signal.SIGPROF, -signal.SIGALRM):
                break
        raise TimeoutError


def _reply_to_all(requests: Connection, workers_end: Connection) -> None:
    import resource  # like `fork`, not available on every system

    workers_end.close()  # so that this process sees the end of a worker that is killed
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # No handler: the kernel itself ends the process, whatever it is busy with
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while True:
        try:
            gold, answer, policy = json.loads(requests.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        reply = _reply(gold, answer, Policy(**policy))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        requests.send_bytes(json.dumps(reply).encode())
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > KEPT_BYTES:
            return


def _reply(gold: str, answer: str | None, policy: Policy) -> dict | None:
    if not gold:
        return None
    try:
        if answer is None:
            return {"reward": 0.0, "is_text_alone": is_text_alone(gold)}
        return {"reward": float(equal(gold, answer, policy))}
    except Exception:  # SymPy raises all kinds
        return {"reward": 0.0, "is_text_alone": True}


if __name__ == "__main__":
    try:
        serve()
    except BrokenPipeError:  # the training was killed while it waited for this reply
        os._exit(1)
