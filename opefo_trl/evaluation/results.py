"""Scores the saved completions of an evaluation, and shows the results as a table."""

import argparse
import json
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from datasets import Dataset

from ..grading.answers import completion_answer
from ..grading.grader import shared_grader
from ..grading.policy import Policy
from .completions import read_batches, settings_of
from .scores import average, summarize


def versions() -> dict[str, str]:
    packages = ("opefo_trl", "transformers", "torch", "math-verify")
    return {package: version(package) for package in packages}


def is_right(problem: dict[str, Any], answer: str | None, reward: float | None) -> bool:
    if reward == 1.0 or not problem["tolerance"] or answer is None:
        return reward == 1.0
    try:
        return abs(float(answer.rstrip("\\% ")) - float(problem["gold"])) <= float(problem["tolerance"])
    except ValueError:
        return False


def score(args: argparse.Namespace, benchmarks: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Score all drawn completions, write `results.json` and `completions.parquet`, and return the results."""
    batches = list(read_batches(args.output))
    policy = Policy.from_options(args)
    settings = {**settings_of(args), "math_reward": asdict(policy)}
    results: dict[str, Any] = {"settings": settings, "versions": versions(), "benchmarks": {}}
    table = []
    for name, problems in benchmarks.items():
        samples: dict[int, list[Any]] = {}
        prompts: dict[int, str] = {}
        for batch in batches:
            if batch["benchmark"] == name:
                samples |= dict(zip(batch["problems"], batch["samples"], strict=True))
                prompts |= dict(zip(batch["problems"], batch["prompts"], strict=True))
        all_answers = [[completion_answer(text) for text, _, _ in samples[number]] for number in range(len(problems))]
        pairs = [
            (problem["gold"], answer)
            for problem, answers in zip(problems, all_answers, strict=True)
            for answer in answers
        ]
        rewards = iter(shared_grader().grade(pairs, policy))
        scored = []
        for number, (problem, answers) in enumerate(zip(problems, all_answers, strict=True)):
            scored.append(
                {
                    **problem,
                    "answers": answers,
                    "correct": [is_right(problem, answer, next(rewards)) for answer in answers],
                    "lengths": [length for _, length, _ in samples[number]],
                    "truncated": [truncated for _, _, truncated in samples[number]],
                }
            )
            table += [
                {
                    "benchmark": name,
                    "problem": number,
                    "sample": sample,
                    "prompt": prompts[number],
                    "completion": text,
                    "gold": problem["gold"],
                    "answer": answer,
                    "correct": correct,
                    "length": length,
                    "truncated": truncated,
                }
                for sample, ((text, length, truncated), answer, correct) in enumerate(
                    zip(samples[number], answers, scored[-1]["correct"], strict=True)
                )
            ]
        results["benchmarks"][name] = {"scores": summarize(scored), "problems": scored}
    results["average"] = average([benchmark["scores"] for benchmark in results["benchmarks"].values()])
    Dataset.from_list(table).to_parquet(str(args.output / "completions.parquet"))
    (args.output / "results.json").write_text(json.dumps(results, indent=1))
    return results


def describe_silence(name: str, problems: list[dict[str, Any]]) -> str | None:
    """A warning if no sample of a benchmark gave an answer."""
    if any(answer is not None for problem in problems for answer in problem.get("answers", [""])):
        return None
    truncated = [cut for problem in problems for cut in problem.get("truncated", [])]
    return (
        f"No sample of {name} gave an answer, so its scores mean nothing: check `--prompt_template` and "
        f"`--max_tokens` ({sum(truncated) / max(1, len(truncated)):.0%} of the samples were cut off)."
    )


def format_scores(results: dict[str, Any]) -> str:
    """The scores as a Markdown table, a line per benchmark and one for their average."""
    lines = ["| benchmark | problems | k | avg@k, % | pass@k, % | truncated, % | mean length | distinct, % |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = [(name, benchmark["scores"]) for name, benchmark in results["benchmarks"].items()]
    for name, scores in [*rows, ("average", results["average"])]:
        passes = [key for key in scores if key.startswith("pass@")]
        allowed = ", ".join(f"{key[5:]}: {100 * scores[key]:.1f}" for key in passes)
        lines.append(
            f"| {name} | {scores.get('problems', '')} | {scores.get('k', '')} | {100 * scores['avg@k']:.1f} ± "
            f"{100 * scores['avg@k_se']:.1f} | {allowed} | {100 * scores['truncated']:.1f} | "
            f"{scores['mean_length']:.0f} | {100 * scores['distinct']:.1f} |"
        )
    silence = [describe_silence(name, of["problems"]) for name, of in results["benchmarks"].items()]
    return "\n".join([*lines, *(f"\n{sentence}" for sentence in silence if sentence)])
