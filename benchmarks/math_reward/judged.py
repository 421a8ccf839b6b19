"""Counts how often `math_reward` agrees with published judgements, and lists the disagreements.

    python -m benchmarks.math_reward.judged FILE.jsonl...
    python -m benchmarks.math_reward.judged FILE.jsonl... --list           # each disagreement
    python -m benchmarks.math_reward.judged FILE.jsonl... --math_verify    # math-verify by itself

A line holds `gold`, `completion` or `answer` (without its box), and `reward`, `judged` or `expected`, 1 or 0; where it
has a `kind`, the table has a line for each.
"""

import argparse
import json
import platform
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from opefo_trl.grading.answers import completion_answer, gold_answer
from opefo_trl.grading.policy import Policy

from .verdicts import by_math_reward, by_math_verify


JUDGEMENTS = ("reward", "judged", "expected")


def read_judged(path: Path) -> list[dict[str, Any]]:
    """
    Rows with `gold`, `answer`, `judged` and `kind`.

    Raises:
        `ValueError`: if a line has no gold, no answer or no judgement.
    """
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        row = json.loads(line)
        judged = next((row[name] for name in JUDGEMENTS if name in row), None)
        if "gold" not in row or not {"completion", "answer"} & row.keys() or judged is None:
            raise ValueError(f"{path}, line {number}, has no `gold`, no `completion` or `answer`, or no judgement.")
        answer = gold_answer(row["answer"]) if "answer" in row else completion_answer(row["completion"])
        kind = row.get("kind", path.stem)
        rows.append({"gold": gold_answer(row["gold"]) or "", "answer": answer, "judged": float(judged), "kind": kind})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare `math_reward` with published judgements.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--math_verify", action="store_true", help="math-verify by itself instead of `math_reward`")
    parser.add_argument("--list", action="store_true", help="print each disagreement")
    parser.add_argument("--tolerance", type=float, default=0.0, help="as in `get_math_reward` (default: 0)")
    arguments = parser.parse_args()
    rows = [row for path in arguments.files for row in read_judged(path)]
    pairs = [(row["gold"], row["answer"]) for row in rows]
    began = time.perf_counter()
    rewards = by_math_verify(pairs) if arguments.math_verify else by_math_reward(pairs, Policy(arguments.tolerance))
    seconds = time.perf_counter() - began
    table: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for row, reward in zip(rows, rewards, strict=True):
        is_right = row["judged"] == 1.0
        counts = table[row["kind"]]
        counts[0 if is_right else 2] += 1
        if (reward == 1.0) != is_right:
            counts[1 if is_right else 3] += 1
            if arguments.list:
                print(f"{row['kind']}: {reward}, judged {row['judged']}: {row['gold']!r} / {row['answer']!r}")
    print("| kind | judged right | of these missed | judged wrong | of these rewarded |")
    print("| --- | --- | --- | --- | --- |")
    for kind, counts in sorted(table.items()):
        print(f"| {kind} | {counts[0]:,} | {counts[1]:,} | {counts[2]:,} | {counts[3]:,} |")
    right, missed, wrong, rewarded = (sum(column) for column in zip(*table.values(), strict=True))
    print(f"| all | {right:,} | {missed:,} | {wrong:,} | {rewarded:,} |")
    agreed = 1 - (missed + rewarded) / len(rows)
    print(
        f"\n{len(rows):,} pairs in {seconds:.0f} s, agreement {agreed:.2%}; Python {platform.python_version()}, "
        f"math-verify {version('math-verify')}"
    )


if __name__ == "__main__":
    main()
