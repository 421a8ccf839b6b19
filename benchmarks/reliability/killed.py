"""A training that kills itself: what `kills.py` starts in each process.

    python -m benchmarks.reliability.killed PHASE ENTRY DELAY RANK --config FILE.yaml

Kills process RANK with SIGKILL, DELAY seconds after its main thread has entered PHASE for the ENTRY-th time, and
writes down first where it really was. RANK -1: trains to the end.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from opefo_trl import OPEFOTrainer
from opefo_trl.commands import train


# Where each phase begins; a moment belongs to the innermost one that is running
PHASES: dict[str, tuple[Any, str]] = {
    "rollout": (OPEFOTrainer, "_generate_single_turn"),
    "reward": (OPEFOTrainer, "_calculate_rewards"),
    "measuring": (OPEFOTrainer, "_measure"),
    "between accumulation steps": (OPEFOTrainer, "training_step"),
    "checkpoint": (OPEFOTrainer, "_save_checkpoint"),
    "final save": (OPEFOTrainer, "save_final_model"),
}
NAMES = {function: phase for phase, (_, function) in PHASES.items()}
MOMENTS = "moments.txt"


def signal_entry(phase: str, entry: int) -> threading.Event:
    """An event that is set when a phase is entered for the `entry`-th time."""
    owner, name = PHASES[phase]
    original, entries, entered = getattr(owner, name), 0, threading.Event()

    def watched(*args, **kwargs):
        nonlocal entries
        entries += 1
        if entries == entry:
            entered.set()
        return original(*args, **kwargs)

    setattr(owner, name, watched)
    return entered


def running(thread: int) -> str:
    """Phase that a thread is in; between two of them, `"elsewhere"`."""
    frame = sys._current_frames()[thread]
    while frame is not None:
        if frame.f_code.co_name in NAMES:
            return NAMES[frame.f_code.co_name]
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


def kill(entered: threading.Event, delay: float, main_thread: int) -> None:
    """Wait for the moment, and end the process without a chance to clean up."""
    entered.wait()
    time.sleep(delay)
    with Path(MOMENTS).open("a") as file:
        file.write(f"{running(main_thread)}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    phase, entry, delay, rank, *arguments = sys.argv[1:]
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed

        # Plain gloo: DeepSpeed's own all-reduce for CPU would have to be compiled first
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if rank == os.environ.get("RANK", "0"):
        moment = (signal_entry(phase, int(entry)), float(delay), threading.get_ident())
        threading.Thread(target=kill, args=moment, daemon=True).start()
    train.main(arguments)


if __name__ == "__main__":
    main()
