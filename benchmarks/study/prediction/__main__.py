"""Predicted against measured: does the flow of a batch foretell how one optimizer step changes its tokens' entropy?

    python -m benchmarks.study.prediction --output_dir outputs/prediction

Trains GRPO and OPEFO on Countdown, stops at some steps, and takes the batch's update on copies of the policy in
float64: with SGD and with AdamW's own state, in several sizes. `docs/results/prediction/README.md` defines every
quantity. To read: `flows` and `updates` are the mathematics, `decomposition` measures one batch with them, `countdown`
brings real batches, and `records`, `tables` and `pictures` turn what was measured into what is shown.
"""

import argparse
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.study.prediction.countdown import study
from benchmarks.study.prediction.pictures import draw_parts, draw_scatter
from benchmarks.study.prediction.tables import all_tables


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares predicted and measured changes of entropy on Countdown.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/prediction"), help="folder to write to")
    parser.add_argument("--base_dir", type=Path, default=Path("outputs/countdown"), help="puzzles and base model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of the trainings")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[1, 2, 3, 60, 61, 62, 118, 119, 120], help="optimizer steps to measure"
    )
    parser.add_argument(
        "--sizes",
        type=float,
        nargs="+",
        default=[0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
        help="step sizes, as multiples of the trainer's own",
    )
    args = parser.parse_args()
    if 1.0 not in args.sizes:
        parser.error("--sizes must contain 1, the step that the trainer takes, since the tables are about it")
    started = time.monotonic()
    records = study(args.base_dir, args.output_dir, args.seeds, set(args.steps), args.sizes)
    command = shlex.join(["python", "-m", "benchmarks.study.prediction", *sys.argv[1:]])
    packages = ", ".join(f"{name} {version(name)}" for name in ("opefo_trl", "trl", "transformers", "torch"))
    seconds = time.monotonic() - started
    text = f"{all_tables(records)}\nMade by `{command}` in {seconds:.0f} seconds with {packages}."
    (args.output_dir / "tables.md").write_text(text + "\n")
    draw_scatter(records, args.output_dir / "scatter.png")
    draw_parts(records, args.output_dir / "parts.png")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
