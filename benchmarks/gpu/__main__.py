"""What only a GPU can show, in one command of some minutes, each part kept as soon as it is done.

    python -m benchmarks.gpu --minutes 9        # needs `python -m examples.smollm2.prepare` first, for the training

Writes `accuracy.jsonl`, `cost.jsonl`, `training.jsonl`, `report.md` and `training.png` to `--output`. A part whose
file is there is not repeated, so the command can be given again until all is done. On a CPU it does the same in
miniature.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.cost import projection, step
from benchmarks.cost.__main__ import report as report_cost
from benchmarks.cost.measure import describe
from benchmarks.gpu import accuracy
from benchmarks.gpu.training import ARMS, LAST_STEPS
from benchmarks.gpu.training import run as run_training
from benchmarks.markdown import table
from benchmarks.study.records import read_records
from opefo_trl.plotting.drawing import draw
from opefo_trl.plotting.runs import read_run


STEPS = 300  # of a training, at most
MINIATURE_STEPS = 2


def complete(path: Path, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The records of a part, from its file if that is there."""
    if not path.exists():
        text = "".join(json.dumps(record) + "\n" for record in make())
        path.write_text(text)
    return read_records(path)


def describe_accuracy(records: list[dict[str, Any]]) -> str:
    rows = [
        [record["case"]["dtype"], name, *(f"{errors[field]:.1e}" for field in record["largest"])]
        for record in records
        for name, errors in record["errors"].items()
    ]
    case = records[0]["case"]
    return (
        f"## Measuring pass against float64\n\nLargest absolute errors over {case['tokens']} tokens, vocabulary "
        f"{case['vocabulary']:,}.\n\n" + table(["dtype", "pass", "ln p", "H", "s"], rows)
    )


def describe_training(records: list[dict[str, Any]]) -> str:
    rows = []
    for record in records:
        scores = [f"{record['test'][key]:.3f}" for key in ("pass@1", "pass@8")]
        if record["arm"] == "base":
            rows.append(["base model", "", "", "", "", "", *scores, ""])
            continue
        entropy, reward = record["curves"]["entropy"], record["curves"]["reward"]
        rows.append(
            [
                ARMS[record["arm"]].label,
                str(record["seed"]),
                str(record["steps"]),
                f"{entropy[0]:.3f}",
                f"{mean(entropy[-LAST_STEPS:]):.3f}",
                f"{mean(reward[:LAST_STEPS]):.3f} → {mean(reward[-LAST_STEPS:]):.3f}",
                *scores,
                f"{record['seconds'] / record['steps']:.2f}",
            ]
        )
    head = ["arm", "seed", "steps", "entropy, start", "end", "reward", "pass@1", "pass@8", "seconds a step"]
    return (
        f"## Training SmolLM2 on sums\n\nAt the end: means over the last {LAST_STEPS} steps. pass@1 and pass@8: "
        "problems that were not trained on, temperature 1.\n\n" + table(head, rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Measures and trains what only a GPU can show, part by part."
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="time for all parts (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="`cuda` or `cpu`")
    parser.add_argument(
        "--data", type=Path, default=Path("outputs/smollm2"), help="folder that `examples.smollm2.prepare` wrote"
    )
    parser.add_argument("--model", type=Path, help="model to train (default: the folder `base` of --data)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="seeds of the trainings")
    parser.add_argument("--steps", type=int, help=f"most steps of a training (default: {STEPS}, on a CPU 2)")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"), help="folder (default: %(default)s)")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    device = torch.device(options.device)
    quick = device.type != "cuda"
    base = options.model or options.data / "base"
    if not (base / "config.json").is_file() or not (options.data / "data" / "train.jsonl").is_file():
        sys.exit(
            f"The model {base} or the problems in {options.data}/data are missing: run `python -m "
            f"examples.smollm2.prepare --output {options.data}` first, or name folders with --model and --data."
        )
    if find_spec("reasoning_gym") is None:
        sys.exit("The problems need reasoning-gym, an extra of the project: run `pip install -e '.[reasoning-gym]'`.")
    options.output.mkdir(parents=True, exist_ok=True)
    about = describe(device)
    parts = [f"# On {about['device']}\n\n{', '.join(f'{name} {value}' for name, value in about.items())}."]

    def write() -> None:
        (options.output / "report.md").write_text("\n\n".join(parts) + "\n")

    parts.append(describe_accuracy(complete(options.output / "accuracy.jsonl", lambda: accuracy.run(device, quick))))
    write()
    costs = complete(options.output / "cost.jsonl", lambda: [*projection.run(device, quick), *step.run(device, quick)])
    parts.append(f"## Cost\n\n{report_cost(costs)}")
    write()
    steps = options.steps or (MINIATURE_STEPS if quick else STEPS)
    records = run_training(options.data, base, options.output, device, options.seeds, steps, deadline)
    parts.append(describe_training(records))
    write()
    trained = [record for record in records if record["arm"] != "base"]
    groups = {
        arm.label: [
            read_run(options.output / f"{record['arm']}-seed{record['seed']}")
            for record in trained
            if record["arm"] == name
        ]
        for name, arm in ARMS.items()
    }
    draw({label: runs for label, runs in groups.items() if runs}, options.output / "training.png")
    print((options.output / "report.md").read_text())


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:  # a line of records that was cut off
        sys.exit(str(error))
