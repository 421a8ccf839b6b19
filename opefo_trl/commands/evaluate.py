"""`opefo evaluate`: scores a model on math benchmarks, with the prompt template and the verifier of training."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any
from zlib import crc32

from ..data.prompts import TEMPLATES
from ..evaluation.comparison import compare
from ..evaluation.completions import draw, settings_of
from ..evaluation.math_benchmarks import BENCHMARKS, load_benchmark
from ..evaluation.results import format_scores, score
from ..grading.golds import describe_text_golds
from ..grading.policy import Policy


PROG = "opefo evaluate"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage=f"{PROG} --model MODEL --output DIR [options]\n       {PROG} --compare DIR DIR",
        description="Draw k answers to each problem of math benchmarks and score them. Running the same command "
        "again continues an interrupted evaluation.",
    )
    parser.add_argument("--model", help="folder or hub name of a model, or of a LoRA adapter")
    parser.add_argument(
        "--benchmarks",
        nargs="+",
        default=list(BENCHMARKS),
        metavar="NAME[=FILE]",
        help=f"{', '.join(BENCHMARKS)} (default: all), from the hub or from a local file; with a file, any name",
    )
    parser.add_argument(
        "--k", nargs="+", type=int, default=[1], help="samples per problem: one number, or one per benchmark"
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
    parser.add_argument("--num_processes", type=int, default=1, help="GPUs, each with its own model (default: 1)")
    parser.add_argument("--math_reward_tolerance", type=float, default=0.0, help="as in training (default: 0)")
    parser.add_argument("--math_reward_units", default="optional", help="as in training: optional or required")
    parser.add_argument("--math_reward_several_golds", default="all", help="as in training: all or any")
    parser.add_argument("--compare", nargs=2, type=Path, metavar="DIR", help="two evaluations of the same problems")
    return parser


def check(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """
    Check and complete the arguments, and save them beside the completions.

    Returns:
        `dict[str, list[dict[str, Any]]]`: the problems of each benchmark.

    Raises:
        `ValueError`: if something is missing, does not fit, or differs from the settings of the completions in the
            folder.
    """
    from ..evaluation.sampling import load_tokenizer, pick_backend

    if args.model is None or args.output is None:
        raise ValueError("Both `--model` and `--output` are needed, or `--compare` with two folders.")
    if len(args.k) == 1:
        args.k = args.k * len(args.benchmarks)
    if len(args.k) != len(args.benchmarks):
        raise ValueError(
            f"`--k` holds {len(args.k)} numbers for {len(args.benchmarks)} benchmarks: give one, or one per benchmark."
        )
    names = [spec.partition("=")[0] for spec in args.benchmarks]
    if len(set(names)) < len(names):
        raise ValueError("`--benchmarks` names a benchmark twice.")
    if min([*args.k, args.max_tokens, args.num_processes]) < 1 or args.temperature < 0 or not 0 < args.top_p <= 1:
        raise ValueError(
            "`--k`, `--max_tokens` and `--num_processes` must be at least 1, `--temperature` at least 0, and "
            "`--top_p` in (0, 1]."
        )
    Policy.from_options(args)
    args.backend = pick_backend(args.backend)
    args.batch_size = args.batch_size or (1024 if args.backend == "vllm" else 64)
    if args.batch_size < 1:
        raise ValueError("`--batch_size` must be at least 1.")
    # Completions belong to the content of a benchmark, not to its file name
    benchmarks = dict(map(load_benchmark, args.benchmarks))
    args.problems = {name: crc32(json.dumps(problems).encode()) for name, problems in benchmarks.items()}
    load_tokenizer(args.model)  # fails now instead of later in every process
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
                f"{args.output} holds completions that were drawn with other settings ({', '.join(changed)}): use "
                "another folder for `--output`, or the previous settings."
            )
    kept.write_text(json.dumps(settings, indent=1))
    return benchmarks


def launch(args: argparse.Namespace) -> None:
    """Draw in several processes, through accelerate. Raises `ValueError` if one of them fails."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    words = ["--num_processes", str(args.num_processes), "--multi_gpu", "--module", "opefo_trl.commands.evaluate"]
    try:
        launch_command(launch_command_parser().parse_args([*words, str(args.output)]))
    except ChildFailedError as error:
        raise ValueError(
            f"Process {error.get_first_failure()[0]} failed (see above). Run the same command again to continue."
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
        for name, problems in benchmarks.items():
            print(f"{name}: {describe_text_golds([problem['gold'] for problem in problems])}")
        results = score(args, benchmarks)
    except (ValueError, OSError) as error:
        print(f"{PROG}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{PROG}: interrupted. Run the same command again to continue.", file=sys.stderr)
        return 130
    print(f"\n{format_scores(results)}\n\nWritten to {args.output / 'results.json'} and completions.parquet.")
    return 0


if __name__ == "__main__":  # one of several processes
    folder = Path(sys.argv[1])
    kept_args = argparse.Namespace(**json.loads((folder / "settings.json").read_text()), output=folder)
    draw(kept_args, dict(map(load_benchmark, kept_args.benchmarks)))
