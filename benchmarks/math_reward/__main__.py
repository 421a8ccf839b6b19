"""A hundred ordinary and a hundred hostile answers through `math_reward`, with the time they take.

    python -m benchmarks.math_reward

Ordinary answers are numbers, fractions, sets, tuples, intervals, polynomials and words, right and wrong by turns.
Hostile ones try to hold the reader up: towers of powers, factorials, nested brackets, expansions, 100 kB of braces.
"""

import os
import platform
import threading
import time
from importlib.metadata import version

from opefo_trl.grading.grader import CPU_SECONDS, WALL_SECONDS, shared_grader
from opefo_trl.grading.rewards import math_reward


def ordinary_answers() -> list[tuple[str, str, float]]:
    """Gold, completion and the reward it deserves."""
    right, wrong = [], []
    for i in range(2, 9):
        right += [
            (f"{i}", rf"\boxed{{{i}.0}}"),
            (rf"\frac{{{i}}}{{{i + 1}}}", rf"\boxed{{\dfrac{{{2 * i}}}{{{2 * i + 2}}}}}"),
            (f"{i}, {i + 1}", rf"\boxed{{{i + 1}, {i}}}"),
            (f"({i}, {i + 1})", rf"\boxed{{\left( {i}, {i + 1} \right)}}"),
            (f"[0, {i})", rf"\boxed{{[0,{i})}}"),
            (f"x^2 + {i}x", rf"\boxed{{x(x + {i})}}"),
            (rf"{i}\sqrt{{2}}", rf"\boxed{{\sqrt{{{2 * i * i}}}}}"),
            (f"{i}500", rf"Not \boxed{{1}} but \boxed{{{i}{{,}}500}}"),
        ]
        wrong += [
            (f"{i}", rf"\boxed{{{i + 1}}}"),
            (rf"\frac{{{i}}}{{{i + 1}}}", rf"\boxed{{\frac{{{i + 1}}}{{{i}}}}}"),
            (f"{i}, {i + 1}", rf"\boxed{{{i}}}"),
            (f"({i}, {i + 1})", rf"\boxed{{({i + 1}, {i})}}"),
            (f"[0, {i})", rf"\boxed{{(0, {i})}}"),
            (f"x^2 + {i}x", rf"\boxed{{x^2 - {i}x}}"),
            (rf"\text{{{'abcdefgh'[i - 1]}}}", rf"\boxed{{\text{{{'stuvwxyz'[i - 1]}}}}}"),
            (f"{i}", f"The answer is {i}."),
        ]
    return [(*pair, 1.0) for pair in right[:50]] + [(*pair, 0.0) for pair in wrong[:50]]


def hostile_answers() -> list[str]:
    return [
        *(rf"\boxed{{{base}^{{9^{{9^9}}}}}}" for base in range(2, 22)),
        *(rf"\boxed{{{n}^{{{n}^{{{n}}}}}!}}" for n in range(7, 17)),
        *(rf"\boxed{{{'(' * depth}}}" for depth in range(300, 400, 10)),
        *(r"\boxed{" + "{" * depth + "}" * depth + "}" for depth in range(200, 300, 10)),
        *(rf"\boxed{{{'x^' * depth}x}}" for depth in range(200, 300, 10)),
        *(rf"\boxed{{(1+x)^{{{power}}}}}" for power in range(5000, 15000, 1000)),
        *(r"\boxed{" + r"\frac{" * depth + "1" + "}{2}" * depth + "}" for depth in range(60, 90, 3)),
        *("{" * size for size in range(100_000, 110_000, 1000)),
        *(r"\boxed{" * size for size in range(15_000, 20_000, 1000)),
        *(r"\boxed{" + "{" * size + "1" + "}" * (size + 1) for size in range(50_000, 55_000, 1000)),
    ]


def main() -> None:
    shared_grader().grade([("1", "1")])  # the workers' start is paid once per run
    ordinary = ordinary_answers()
    golds, completions, rewards = (list(column) for column in zip(*ordinary, strict=True))
    began = time.perf_counter()
    assert math_reward(completions, golds) == rewards, "an ordinary answer is misjudged"
    ordinary_seconds = time.perf_counter() - began

    hostile = hostile_answers()
    began = time.perf_counter()
    # Outside the main thread, where math-verify's own time limits do not work
    thread = threading.Thread(target=lambda: outcome.extend(math_reward(hostile, ["5"] * len(hostile))))
    outcome: list[float | None] = []
    thread.start()
    thread.join()
    hostile_seconds = time.perf_counter() - began
    assert outcome == [0.0] * len(hostile), "a hostile answer is worth something"

    workers = shared_grader().num_workers
    print(f"{len(ordinary)} ordinary answers: {ordinary_seconds:.2f} s, all judged right")
    print(f"{len(hostile)} hostile answers: {hostile_seconds:.1f} s, all worth 0")
    print(
        f"{workers} workers on {os.cpu_count()} cores; limits per answer: {CPU_SECONDS} s of processor, "
        f"{WALL_SECONDS} s of wall time; Python {platform.python_version()}, math-verify {version('math-verify')}"
    )


if __name__ == "__main__":
    main()
