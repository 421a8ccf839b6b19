"""Hostile texts through the readers of answers, the reward and the Countdown parser, guided by what code they reach.

    pip install -e '.[fuzz]'
    python -m benchmarks.reliability.fuzz                        # a million texts
    python -m benchmarks.reliability.fuzz --seconds 20 --seed 3  # so long per target

Each target is a property of `properties.py` in a process of its own, fed by atheris (libFuzzer), which starts from the
texts in `tests/corpus`, mutates them, splices in fragments of LaTeX and expressions, and keeps what runs new code. A
find, one text for each kind of failure, is a file in `--finds`, and the exit code is then 1. A text that takes longer
than `TIMEOUT` seconds or more than `MEMORY` megabytes, or that ends the process, is a find too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm.auto import tqdm


# Texts for each target, of a million and a bit: in proportion to what one takes
INPUTS = {
    "completion": 400_000,
    "gold": 300_000,
    "countdown": 300_000,
    "growth": 8_000,
    "memory": 2_000,
    "reward": 3_000,
    "changed": 20_000,
}
CORPUS = Path(__file__).parents[2] / "tests" / "corpus"
MAX_LENGTH = {"countdown": 80, "growth": 40, "memory": 40, "reward": 400}  # bytes; 4,096 for the others
TIMEOUT = 30
MEMORY = 4096


def write_dictionary(fragments: list[str], path: Path) -> None:
    """Write fragments in libFuzzer's format, for it to splice in."""
    entries = ("".join(f"\\x{byte:02x}" for byte in fragment.encode()) for fragment in dict.fromkeys(fragments))
    path.write_text("".join(f'"{entry}"\n' for entry in entries))


def fuzz(target: str, inputs: int | None, seconds: float | None, seed: int, finds: Path) -> None:
    """
    Feed one target until so many texts or seconds are spent, and end the process: exit code 1 if there is a find.

    Raises:
        `ImportError`: if atheris is not installed.
    """
    try:
        import atheris
    except ImportError as error:
        raise ImportError(
            f"atheris cannot be imported ({error}): install it with `pip install -e '.[fuzz]'`."
        ) from error
    with atheris.instrument_imports(
        include=["opefo_trl.grading.answers", "opefo_trl.grading.latex", "examples.countdown.countdown"]
    ):
        from benchmarks.reliability import properties
    check = getattr(properties, f"check_{target}")
    finds.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory()
    dictionary, kept = Path(scratch.name) / "dictionary", Path(scratch.name) / "kept"
    kept.mkdir()  # where libFuzzer puts what ran new code
    is_countdown = target == "countdown"
    write_dictionary(properties.COUNTDOWN_FRAGMENTS if is_countdown else properties.FRAGMENTS, dictionary)
    found: set[str] = set()
    began = time.perf_counter()
    progress = tqdm(total=inputs, desc=target, unit=" texts", mininterval=1.0)

    def feed(data: bytes) -> None:
        try:
            check(data.decode(errors="replace"))
        except Exception as error:
            kind = f"{type(error).__name__}: {str(error).split(':')[0]}"
            if kind not in found:
                (finds / f"{target}-{len(found)}.txt").write_bytes(data)
                found.add(kind)
                progress.write(f"{target}: {data!r}: {type(error).__name__}: {error}")
        progress.update()
        spent = time.perf_counter() - began
        if progress.n == inputs or (seconds is not None and spent > seconds):
            progress.close()
            print(f"{target}: {progress.n:,} texts, {spent:.0f} s, seed {seed}, {len(found)} finds", flush=True)
            scratch.cleanup()
            os._exit(1 if found else 0)  # libFuzzer knows no other end within a run

    options = {
        "seed": seed + 1,  # 0 means a random one
        "dict": dictionary,
        "max_len": MAX_LENGTH.get(target, 4096),
        "timeout": TIMEOUT,
        "rss_limit_mb": MEMORY,
        "artifact_prefix": f"{finds}/{target}-",
    }
    atheris.Setup(
        [sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(kept), str(CORPUS)], feed
    )
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description="Feeds hostile texts to the readers of answers and to the reward.")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--inputs", type=int, help="texts per target (default: a million, shared out by their cost)")
    budget.add_argument("--seconds", type=float, help="seconds per target instead")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations")
    parser.add_argument("--targets", nargs="+", choices=INPUTS, default=list(INPUTS), help="default: all")
    parser.add_argument("--finds", type=Path, default=Path("outputs/fuzz"), help="folder for the finds")
    arguments = parser.parse_args()
    if len(arguments.targets) == 1:
        target = arguments.targets[0]
        inputs = None if arguments.seconds else arguments.inputs or INPUTS[target]
        try:
            fuzz(target, inputs, arguments.seconds, arguments.seed, arguments.finds)
        except ImportError as error:
            parser.error(str(error))
        return 1  # libFuzzer gave up before the budget was spent
    # libFuzzer ends its process, so each target has one; the last `--targets` counts
    command = [sys.executable, "-m", "benchmarks.reliability.fuzz", *sys.argv[1:], "--targets"]
    codes = [subprocess.run([*command, target]).returncode for target in arguments.targets]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
