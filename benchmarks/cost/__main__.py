"""What OPEFO costs beside GRPO, as ratios from one run: measuring pass, optimizer step, growth, the kernel's code.

    python -m benchmarks.cost                       # everything, on the GPU if there is one, else on the CPU
    python -m benchmarks.cost --only projection --quick

Appends one JSON line per measurement to `--output`, draws a picture beside it, and prints tables last. Nothing else
should run meanwhile.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks.cost import growth, kernel_code, picture, projection, step
from benchmarks.cost.measure import describe
from benchmarks.markdown import table


# Name of a part: what makes its records
PARTS = {
    "projection": projection.run,
    "step": step.run,
    "growth": growth.run,
    "kernel_code": lambda device, quick: kernel_code.run(),
}
HOP_SECONDS = 10e-6  # a small message between two nodes; assumed, to be replaced by one's own network's


def milliseconds(seconds: list[float]) -> str:
    low, middle, high = (1000 * value for value in seconds)
    return f"{middle:.4g} ({low:.4g} to {high:.4g})"


def report(records: list[dict[str, Any]]) -> str:
    """
    Writes the tables of a run.

    Args:
        records (`list[dict]`):
            What the parts returned.

    Returns:
        `str`: Markdown, one table per benchmark that is among them.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_name.setdefault(record["benchmark"], []).append(record)
    parts = []
    if "projection" in by_name:
        rows = []
        for record in by_name["projection"]:
            case, floor = record["case"], record["floor"]
            rows.append(
                [
                    f"{case['shape']}, {case['tokens']:,} tokens",
                    record["arm"],
                    milliseconds(record["seconds"]),
                    f"{record['time_ratio']:.3f}",
                    f"{record['peak_bytes'] / 1e6:,.1f}",
                    f"{record['memory_ratio']:.3f}",
                    f"{record['seconds'][1] / max(floor['products_seconds'], floor['bytes_seconds']):.2f}",
                ]
            )
        head = ["shape", "pass", "ms, p50 (p20 to p80)", "time / TRL", "peak, MB", "memory / TRL", "time / floor"]
        parts.append(f"Measuring pass, vocabulary {projection.VOCABULARY:,}\n\n{table(head, rows)}")
    if "step" in by_name:
        rows = [
            [
                record["case"]["training"],
                "TRL's own" if record["case"]["trl_pass"] else "added",
                record["case"]["generation"],
                record["arm"],
                milliseconds(record["seconds"]),
                f"{record['time_ratio']:.3f}",
                f"{record['memory_ratio']:.3f}",
            ]
            for record in by_name["step"]
        ]
        head = ["training", "pass over the rollouts", "generation", "arm", "ms, p50 (p20 to p80)", "time / GRPO"]
        parts.append(f"Optimizer step\n\n{table([*head, 'memory / GRPO'], rows)}")
    if "growth" in by_name:
        rows = [
            [
                f"{record['case']['tokens']:,}",
                f"{record['case']['vocabulary']:,}",
                milliseconds(record["seconds"]),
                f"{record['nanoseconds_per_logit']:.3g}",
                f"{record['peak_bytes'] / 1e6:,.1f}",
            ]
            for record in by_name["growth"]
        ]
        head = ["tokens", "vocabulary", "ms, p50 (p20 to p80)", "ns per logit", "peak, MB"]
        parts.append(f"Growth of the measuring pass\n\n{table(head, rows)}")
    if "ranks" in by_name:
        rows = [
            [
                f"{record['case']['ranks']}",
                f"{record['case']['bytes']}",
                milliseconds(record["seconds"]),
                "measured, gloo",
            ]
            for record in by_name["ranks"]
        ]
        for ranks in (8, 64, 1024):
            seconds = growth.on_paper(ranks, HOP_SECONDS)
            rows.append(
                [
                    f"{ranks}",
                    f"{4 * growth.NUM_SUMS}",
                    f"{1000 * seconds:.4g}",
                    f"on paper, {HOP_SECONDS * 1e6:.0f} µs a hop",
                ]
            )
        parts.append(f"The one reduction\n\n{table(['processes', 'bytes', 'ms', 'how'], rows)}")
    if "kernel_code" in by_name:
        head = ["registers", "local_bytes", "instructions", "shuffles", "barriers"]
        rows = [
            [record["case"]["gpu"], record["arm"], *(str(record[name]) for name in head)]
            for record in by_name["kernel_code"]
        ]
        title = f"Machine code of the fold, executed per thread for {kernel_code.BLOCK} logits"
        parts.append(f"{title}\n\n{table(['GPU', 'kernel', *(name.replace('_', ' ') for name in head)], rows)}")
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what OPEFO costs beside GRPO, as ratios from one run.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="`cuda` or `cpu`")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: does it run at all")
    parser.add_argument("--output", type=Path, default=Path("outputs/cost.jsonl"), help="file to append records to")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    about = describe(device) | {"time": time.strftime("%Y-%m-%d %H:%M:%S")}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    records = []
    for name in tqdm(arguments.only, "Parts"):
        made = PARTS[name](device, arguments.quick)
        with arguments.output.open("a") as file:  # a part that is done is kept whatever happens to the next
            file.writelines(json.dumps(record | {"about": about}) + "\n" for record in made)
        records += made
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"\n{report(records)}")
    if {"projection", "step"} <= set(arguments.only):
        picture.draw(records, arguments.output.with_suffix(".png"))
        print(f"\nDrew {arguments.output.with_suffix('.png')}.")


if __name__ == "__main__":
    main()
