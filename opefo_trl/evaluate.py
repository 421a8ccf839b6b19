"""`opefo evaluate`: a model on math benchmarks, with the template and the verifier of the training.

What is drawn is kept batch by batch in `completions-*.jsonl`, so that an interrupted evaluation goes on where it
stopped; the scores are made from these files alone.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zlib import crc32

from datasets import Dataset, load_dataset
from tqdm.auto import tqdm

from .answers import completion_answer, gold_answer
from .data import load_splits
from .grader import shared_grader
from .prompts import TEMPLATES, prompt_ids, render, to_prompts
from .scores import average, paired_difference, summarize


PROG = "opefo evaluate"
# On the hub, each with a split `test`
BENCHMARKS = {
    "aime24": "math-ai/aime24",
    "aime25": "math-ai/aime25",
    "amc23": "math-ai/amc23",
    "math500": "math-ai/math500",
    "minerva": "math-ai/minervamath",
    "olympiadbench": "math-ai/olympiadbench",
}
# The columns of a problem and of its answer, by the names that they are published under; the first that is there
PROBLEM_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "solution")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage=f"{PROG} --model MODEL --output DIR [options]\n       {PROG} --compare DIR DIR",
        description="Draw k answers to each problem of math benchmarks and score them. Given again, the same command "
        "goes on where it was interrupted.",
    )
    parser.add_argument("--model", help="folder or hub name of a model, or of a LoRA adapter")
    parser.add_argument(
        "--benchmarks",
        nargs="+",
        default=list(BENCHMARKS),
        metavar="NAME[=FILE]",
        help=f"of {', '.join(BENCHMARKS)} (default: all), from the hub or from a local file; any name with a file",
    )
    parser.add_argument(
        "--k", nargs="+", type=int, default=[1], help="samples per problem: one number, or one for each"
    )
    parser.add_argument("--output", type=Path, help="folder for completions and results")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: 1.0)")
    parser.add_argument("--top_p", type=float, default=0.7, help="default: 0.7, the paper's")
    parser.add_argument("--max_tokens", type=int, default=3000, help="per completion (default: 3000)")
    parser.add_argument("--prompt_template", help=f"as in training: {', '.join(TEMPLATES)} or a text with {{prompt}}")
    parser.add_argument("--system_prompt", help="as in training")
    parser.add_argument("--conversational", action="store_true", help="as in training")
    parser.add_argument("--backend", choices=["auto", "vllm", "transformers"], default="auto")
    parser.add_argument("--batch_size", type=int, help="completions at once (default: 64, with vLLM 1024)")
    parser.add_argument("--dtype", default="auto", help="of the weights (default: auto)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_processes", type=int, default=1, help="GPUs, each with a model of its own (default: 1)")
    parser.add_argument("--compare", nargs=2, type=Path, metavar="DIR", help="two evaluations of the same problems")
    return parser


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
            f"Benchmark {name!r} is unknown: use {', '.join(BENCHMARKS)}, or `{name}=FILE.jsonl` for one of your own."
        )
    if file:
        splits = load_splits(file)
        rows = list(splits[next(iter(splits))])
    else:
        try:
            rows = list(load_dataset(BENCHMARKS[name], split="test"))
        except Exception as error:  # `datasets` raises many kinds
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


def make_batches(num_problems: int, k: int, batch_size: int) -> list[list[int]]:
    """Problem numbers that are drawn together, the same however the evaluation is interrupted and spread."""
    size = max(1, batch_size // k)
    return [list(range(start, min(start + size, num_problems))) for start in range(0, num_problems, size)]


def read_batches(output: Path) -> Iterator[dict[str, Any]]:
    """The batches that are drawn. A line cut off by an interruption is left out, and drawn again."""
    for path in sorted(output.glob("completions-*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                pass


def draw(args: argparse.Namespace, benchmarks: dict[str, list[dict[str, Any]]]) -> None:
    """Draw this process's share of the completions that are still missing."""
    from .sampling import Sampling, TransformersSampler, VLLMSampler

    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    drawn = {(batch["benchmark"], batch["problems"][0]) for batch in read_batches(args.output)}
    batches = []
    for (name, problems), k in zip(benchmarks.items(), args.k, strict=True):
        prompts = to_prompts(
            Dataset.from_dict({"prompt": [problem["problem"] for problem in problems]}),
            name,
            prompt_template=args.prompt_template,
            system_prompt=args.system_prompt,
            conversational=args.conversational,
        )["prompt"][:]
        for numbers in make_batches(len(problems), k, args.batch_size):
            batches.append((name, k, numbers, [prompts[number] for number in numbers]))
    # Shared out before the drawn ones are left out, since the other processes may already be drawing
    missing = [batch for batch in batches[rank::world_size] if (batch[0], batch[2][0]) not in drawn]
    if not missing:
        return
    how = Sampling(args.temperature, args.top_p, args.max_tokens)
    if args.backend == "vllm":
        sampler: Any = VLLMSampler(args.model, how, args.dtype)
    else:
        sampler = TransformersSampler(args.model, how, args.dtype, args.batch_size)
    path = args.output / f"completions-{rank}.jsonl"
    kept = path.read_text() if path.exists() else ""
    if not kept.endswith("\n"):
        path.write_text(kept[: kept.rfind("\n") + 1])
    with path.open("a") as file:
        for name, k, numbers, prompts in tqdm(missing, desc="Drawing", unit="batch", disable=rank != 0):
            seed = crc32(f"{args.seed} {name} {numbers[0]}".encode())
            samples = sampler.draw([prompt_ids(prompt, sampler.tokenizer) for prompt in prompts], k, seed)
            batch = {
                "benchmark": name,
                "problems": numbers,
                "prompts": [render(prompt, sampler.tokenizer) for prompt in prompts],
                "samples": samples,
            }
            file.write(json.dumps(batch) + "\n")
            file.flush()


def is_right(problem: dict[str, Any], answer: str | None, reward: float | None) -> bool:
    if reward == 1.0 or not problem["tolerance"] or answer is None:
        return reward == 1.0
    try:
        return abs(float(answer.rstrip("\\% ")) - float(problem["gold"])) <= float(problem["tolerance"])
    except ValueError:
        return False


def score(args: argparse.Namespace, benchmarks: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Score all that is drawn; writes `results.json` and `completions.parquet`, and returns the results."""
    batches = list(read_batches(args.output))
    results: dict[str, Any] = {"settings": settings_of(args), "versions": versions(), "benchmarks": {}}
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
        rewards = iter(shared_grader().grade(pairs))
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
    return "\n".join(lines)


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
            raise ValueError(f"{path} is no result of `{PROG}`: {error}") from error
    names = [name for name in results[0] if name in results[1]]
    if not names:
        raise ValueError(f"{first} and {second} have no benchmark in common.")
    shares: list[list[list[float]]] = [[], []]
    for name in names:
        problems = [result[name]["problems"] for result in results]
        if [p["problem"] for p in problems[0]] != [p["problem"] for p in problems[1]]:
            raise ValueError(
                f"{first} and {second} hold different problems of {name}: evaluate both on the same file."
            )
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
    return "\n".join(lines)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the completions depend on: all but where they are kept and how many processes draw them."""
    return {name: value for name, value in vars(args).items() if name not in ("output", "compare", "num_processes")}


def versions() -> dict[str, str]:
    packages = ("opefo_trl", "transformers", "torch", "math-verify")
    return {package: version(package) for package in packages}


def check(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """
    Complete the arguments, and keep them beside the completions.

    Returns:
        `dict[str, list[dict[str, Any]]]`: the problems of each benchmark.

    Raises:
        `ValueError`: if something is missing, does not fit, or differs from what the folder's completions were drawn
            with.
    """
    from .sampling import load_tokenizer, pick_backend

    if args.model is None or args.output is None:
        raise ValueError("Both `--model` and `--output` are needed, or `--compare` with two folders.")
    if len(args.k) == 1:
        args.k = args.k * len(args.benchmarks)
    if len(args.k) != len(args.benchmarks):
        raise ValueError(
            f"`--k` holds {len(args.k)} numbers for {len(args.benchmarks)} benchmarks: give one, or one each."
        )
    names = [spec.partition("=")[0] for spec in args.benchmarks]
    if len(set(names)) < len(names):
        raise ValueError("`--benchmarks` names a benchmark twice.")
    if min([*args.k, args.max_tokens, args.num_processes]) < 1 or args.temperature < 0 or not 0 < args.top_p <= 1:
        raise ValueError(
            "`--k`, `--max_tokens` and `--num_processes` must be at least 1, `--temperature` at least 0, and "
            "`--top_p` in (0, 1]."
        )
    args.backend = pick_backend(args.backend)
    args.batch_size = args.batch_size or (1024 if args.backend == "vllm" else 64)
    if args.batch_size < 1:
        raise ValueError("`--batch_size` must be at least 1.")
    # Completions belong to the problems as they were, not to the name of a file
    benchmarks = dict(map(load_benchmark, args.benchmarks))
    args.problems = {name: crc32(json.dumps(problems).encode()) for name, problems in benchmarks.items()}
    load_tokenizer(args.model)  # raises now what would end every process later
    args.output.mkdir(parents=True, exist_ok=True)
    kept = args.output / "settings.json"
    settings = json.loads(json.dumps(settings_of(args)))
    if kept.exists():
        try:
            before = json.loads(kept.read_text())
        except ValueError as error:
            raise ValueError(f"{kept} is broken ({error}): use another folder for `--output`.") from error
        changed = [name for name in settings if settings[name] != before.get(name)]
        if changed:
            raise ValueError(
                f"{args.output} holds completions that were drawn otherwise ({', '.join(changed)}): use another "
                "folder for `--output`, or the settings of before."
            )
    kept.write_text(json.dumps(settings, indent=1))
    return benchmarks


def launch(args: argparse.Namespace) -> None:
    """Draw in several processes, through accelerate. Raises `ValueError` if one of them fails."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    words = ["--num_processes", str(args.num_processes), "--multi_gpu", "--module", "opefo_trl.evaluate"]
    try:
        launch_command(launch_command_parser().parse_args([*words, str(args.output)]))
    except ChildFailedError as error:
        raise ValueError(
            f"Process {error.get_first_failure()[0]} failed, see above; the same command goes on where it stopped."
        ) from error


def main(argv: list[str]) -> int:
    args = make_parser().parse_args(argv)
    try:
        if args.compare:
            print(compare(*args.compare))
            return 0
        benchmarks = check(args)
        if args.num_processes == 1:
            draw(args, benchmarks)
        else:
            launch(args)
        results = score(args, benchmarks)
    except (ValueError, OSError) as error:
        print(f"{PROG}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{PROG}: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        return 130
    print(f"\n{format_scores(results)}\n\nWritten to {args.output / 'results.json'} and completions.parquet.")
    return 0


if __name__ == "__main__":  # one of several processes
    folder = Path(sys.argv[1])
    kept_args = argparse.Namespace(**json.loads((folder / "settings.json").read_text()), output=folder)
    draw(kept_args, dict(map(load_benchmark, kept_args.benchmarks)))
