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

from opefo_trl import train


# Functions of the trainer by what they do; a moment belongs to the innermost one that is running
PHASES = {
    "rollout": "_generate_single_turn",
    "reward": "_calculate_rewards",
    "measuring": "_measure",
    "between accumulation steps": "training_step",
    "checkpoint": "_save_checkpoint",
    "end": "save_final_model",
}
NAMES = {function: phase for phase, function in PHASES.items()}
MOMENTS = "moments.txt"
LOOK_EVERY = 2e-4  # seconds


def running(thread: int) -> str:
    """Phase that a thread is in; between two of them, `"elsewhere"`."""
    frame = sys._current_frames()[thread]
    while frame is not None:
        if frame.f_code.co_name in NAMES:
            return NAMES[frame.f_code.co_name]
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


def kill(phase: str, entry: int, delay: float, main_thread: int) -> None:
    """Wait for the moment, and end the process without a chance to clean up."""
    entries, before = 0, "elsewhere"
    while entries < entry:
        now = running(main_thread)
        entries += now == phase != before
        before = now
        time.sleep(LOOK_EVERY)
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
        moment = (phase, int(entry), float(delay), threading.get_ident())
        threading.Thread(target=kill, args=moment, daemon=True).start()
    train.main(arguments)


if __name__ == "__main__":
    main()
