r"""Changes one thing in published golds, and prints the pairs that still count as equal, for a person to check.

    python -m benchmarks.math_reward.changed FILE.jsonl...           # one digit, sign, letter or unit changed
    python -m benchmarks.math_reward.changed FILE.jsonl... --pairs   # golds that differ from each other in a character

A line holds `gold`, `answer` or `final_answer`. Not all that is printed is a fault: `-0` is 0, and `x=0` has the
solutions of `-x=0`.
"""

import argparse
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from opefo_trl.grading.answers import gold_answer
from opefo_trl.grading.policy import DEFAULT_POLICY

from .verdicts import by_math_reward, by_math_verify


COLUMNS = ("gold", "answer", "final_answer")
MAX_LENGTH = 300
# The letters of commands and environments, and how the columns of a table are aligned, are no variables
NOT_LETTERS = re.compile(r"\\(?:begin|end)\{[^{}]*\}(?:\{[lcr|]*\})?|\\[A-Za-z]+|[A-Za-z]{2,}")
UNIT = re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*[a-z]{2,}[^{}]*)\}")


def read_golds(paths: list[Path]) -> list[str]:
    golds = set()
    for path in paths:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            gold = gold_answer(next((row[column] for column in COLUMNS if column in row), None))
            if gold is not None and len(gold) <= MAX_LENGTH:
                golds.add(gold)
    return sorted(golds)


def changed(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """A gold with one digit, one sign, one letter and one unit changed, each with its kind."""
    digits = [match.start() for match in re.finditer(r"\d", gold)]
    if digits:
        place = rng.choice(digits)
        yield "digit", gold[:place] + rng.choice([d for d in "123456789" if d != gold[place]]) + gold[place + 1 :]
    signs = [match.start() for match in re.finditer(r"[+-]", gold)]
    if signs:
        place = rng.choice(signs)
        yield "sign", gold[:place] + ("-" if gold[place] == "+" else "+") + gold[place + 1 :]
    else:
        yield "sign", f"-{gold}"
    bare = NOT_LETTERS.sub(lambda match: " " * len(match[0]), gold)
    letters = [match.start() for match in re.finditer(r"[A-Za-z]", bare)]
    if letters:
        place = rng.choice(letters)
        yield "letter", gold[:place] + rng.choice([c for c in "wquvk" if c != gold[place]]) + gold[place + 1 :]
    units = list(UNIT.finditer(gold))
    if units:
        unit = rng.choice(units)
        yield "unit", f"{gold[: unit.start(1)]} zzz{gold[unit.end(1) :]}"


def neighbours(golds: list[str]) -> list[tuple[str, str]]:
    """Golds that become each other when one character is replaced, left out or put in."""
    with_gap = defaultdict(set)
    for gold in golds:
        for place in range(len(gold) + 1):
            with_gap[gold[:place], gold[place:]].add(gold)
            with_gap[gold[:place], gold[place + 1 :]].add(gold)
    return sorted({(a, b) for near in with_gap.values() for a in near for b in near if a < b})


def main() -> None:
    parser = argparse.ArgumentParser(description="Find changed golds that `math_reward` takes for equal.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--pairs", action="store_true", help="pairs of golds instead of changes")
    parser.add_argument("--math_verify", action="store_true", help="math-verify by itself instead of `math_reward`")
    parser.add_argument("--limit", type=int, help="golds, or pairs, drawn at random (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    golds = read_golds(arguments.files)
    if arguments.pairs:
        cases = [("pair", *pair) for pair in neighbours(golds)]
        cases = rng.sample(cases, min(arguments.limit or len(cases), len(cases)))
    else:
        golds = rng.sample(golds, min(arguments.limit or len(golds), len(golds)))
        cases = [(kind, gold, other) for gold in golds for kind, other in changed(gold, rng)]
    pairs: list[tuple[str, str | None]] = [(gold, other) for _, gold, other in cases]
    rewards = by_math_verify(pairs) if arguments.math_verify else by_math_reward(pairs, DEFAULT_POLICY)
    equal: Counter[str] = Counter()
    for (kind, gold, other), reward in zip(cases, rewards, strict=True):
        if reward == 1.0:
            equal[kind] += 1
            print(f"{kind}: {gold!r} / {other!r}")
    for kind, count in Counter(kind for kind, *_ in cases).items():
        print(f"{kind}: {equal[kind]:,} of {count:,} are equal (seed {arguments.seed})")


if __name__ == "__main__":
    main()
