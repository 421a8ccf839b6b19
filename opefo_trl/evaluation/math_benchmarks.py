"""The problems of the math benchmarks of `opefo evaluate`, from the hub or from a file."""

from typing import Any

from datasets import load_dataset

from ..data.datasets import load_splits
from ..grading.answers import gold_answer


# On the hub, each with a split `test`
BENCHMARKS = {
    "aime24": "math-ai/aime24",
    "aime25": "math-ai/aime25",
    "amc23": "math-ai/amc23",
    "math500": "math-ai/math500",
    "minerva": "math-ai/minervamath",
    "olympiadbench": "math-ai/olympiadbench",
}
# Names of the columns of a problem and of its answer in published datasets; the first that exists is used
PROBLEM_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "solution")


def load_benchmark(spec: str) -> tuple[str, list[dict[str, Any]]]:
    """
    Read a benchmark.

    Args:
        spec (`str`):
            One of `BENCHMARKS`, or `NAME=FILE`.

    Returns:
        `tuple[str, list[dict[str, Any]]]`: its name, and its problems with `problem`, `gold` and `tolerance`
        (OlympiadBench allows some answers to be off by an absolute error).

    Raises:
        `ValueError`: if there is no such benchmark, or its file has no problems or no answers.
    """
    name, _, file = spec.partition("=")
    if not file and name not in BENCHMARKS:
        raise ValueError(
            f"Benchmark {name!r} is unknown: use {', '.join(BENCHMARKS)}, or `{name}=FILE.jsonl` for your own."
        )
    if file:
        splits = load_splits(file)
        rows = list(splits[next(iter(splits))])
    else:
        try:
            rows = list(load_dataset(BENCHMARKS[name], split="test"))
        except Exception as error:  # `datasets` raises many kinds of exceptions
            reason = " ".join(str(error).split())
            raise ValueError(
                f"Benchmark {name} could not be loaded from {BENCHMARKS[name]} ({reason}): give a file, "
                f"`{name}=FILE.jsonl`."
            ) from error
    problems = []
    for number, row in enumerate(rows):
        problem = next((row[column] for column in PROBLEM_COLUMNS if row.get(column) is not None), None)
        gold = next((row[column] for column in ANSWER_COLUMNS if row.get(column) is not None), None)
        if problem is None or gold is None:
            raise ValueError(
                f"Row {number} of benchmark {name} has no problem ({', '.join(PROBLEM_COLUMNS)}) or no answer "
                f"({', '.join(ANSWER_COLUMNS)}): its columns are {', '.join(row)}."
            )
        answer = gold_answer(gold)
        if answer is None:
            raise ValueError(f"Row {number} of benchmark {name} has an answer that cannot be read: {gold!r}.")
        problems.append({"problem": problem, "gold": answer, "tolerance": row.get("error")})
    return name, problems
