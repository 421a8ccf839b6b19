"""The difference of two evaluations of the same problems, with its interval."""

import json
from pathlib import Path

from .results import describe_silence
from .scores import paired_difference


def compare(first: Path, second: Path) -> str:
    """
    Difference of two evaluations as a Markdown table.

    Raises:
        `ValueError`: if a result cannot be read, or they do not hold the same problems.
    """
    results = []
    for folder in (first, second):
        path = folder / "results.json" if folder.is_dir() else folder
        try:
            results.append(json.loads(path.read_text())["benchmarks"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a result of `opefo evaluate`: {error}") from error
    names = [name for name in results[0] if name in results[1]]
    if not names:
        raise ValueError(f"{first} and {second} have no benchmark in common.")
    shares: list[list[list[float]]] = [[], []]
    silence: list[str] = []
    for name in names:
        problems = [result[name]["problems"] for result in results]
        if [p["problem"] for p in problems[0]] != [p["problem"] for p in problems[1]]:
            raise ValueError(
                f"{first} and {second} hold different problems of {name}: evaluate both on the same file."
            )
        for path, of in zip((first, second), problems, strict=True):
            if (sentence := describe_silence(f"{name} in {path}", of)) is not None:
                silence.append(sentence)
        for mine, theirs in zip(shares, problems, strict=True):
            mine.append([sum(problem["correct"]) / len(problem["correct"]) for problem in theirs])
    lines = [
        f"| benchmark | {first} | {second} | difference of avg@k, points | 95 % interval |",
        "| --- | --- | --- | --- | --- |",
    ]
    selections = [[number] for number in range(len(names))] + ([list(range(len(names)))] if len(names) > 1 else [])
    for selection in selections:
        a, b = ([of[number] for number in selection] for of in shares)
        difference, low, high = paired_difference(a, b)
        averages = [100 * sum(sum(x) / len(x) for x in side) / len(side) for side in (a, b)]
        lines.append(
            f"| {names[selection[0]] if len(selection) == 1 else 'average'} | {averages[0]:.1f} | {averages[1]:.1f} | "
            f"{100 * difference:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} |"
        )
    return "\n".join([*lines, *(f"\n{sentence}" for sentence in silence)])
