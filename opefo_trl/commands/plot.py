"""`opefo plot`: draws the curves of one or more runs, and says what is wrong with them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..plotting.diagnosis import find_troubles
from ..plotting.drawing import draw
from ..plotting.runs import TRAINER_STATE, group_by_seed, read_run


PROG = "opefo plot"
ENDINGS = (".png", ".svg")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Draw entropy, reward, flows, λ and lengths of one or many runs, and say what is wrong with them. "
        "Runs in one folder whose names differ only in a trailing `-seed<N>`, `_seed<N>` or `-s<N>`, or that are "
        "folders `seed<N>`, become one line: their mean, in a band of ± one standard deviation, at the steps that all "
        "of them logged.",
    )
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help=f"the `output_dir` of a run, one of its checkpoints, or a {TRAINER_STATE} (in a folder, the newest)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("entropy_flow.png"),
        metavar="FILE",
        help="picture to write, .png or .svg (default: %(default)s); an existing file is replaced",
    )
    return parser


def plot(paths: Sequence[Path], out: Path) -> list[str]:
    """
    Read runs, draw them, and judge them.

    Args:
        paths (`Sequence[Path]`):
            Runs as [`read_run`] takes them. A run that is given twice counts once.
        out (`Path`):
            File to write.

    Returns:
        `list[str]`: lines for the user, warnings first.

    Raises:
        `ValueError`: if something is missing or broken; then nothing is written.
    """
    if out.suffix.lower() not in ENDINGS:
        raise ValueError(f"`--out` {out} must end with {' or '.join(ENDINGS)}.")
    runs = {path.resolve(): read_run(path) for path in paths}
    groups = group_by_seed(runs)
    try:
        draw(groups, out)
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error.strerror}.") from error
    lines = ", ".join(f"{label} ({len(runs)} seeds)" if len(runs) > 1 else label for label, runs in groups.items())
    return [
        *(f"Warning: {run.name}: {trouble}" for run in runs.values() for trouble in find_troubles(run).values()),
        f"Wrote {out}: {lines}.",
    ]


def main(args: list[str] | None = None) -> int:
    parser = make_parser()
    options = parser.parse_args(args)
    try:
        lines = plot(options.runs, options.out)
    except ValueError as error:
        parser.exit(2, f"{PROG}: error: {' '.join(str(error).split())}\n")
    print("\n".join(lines))
    return 0
