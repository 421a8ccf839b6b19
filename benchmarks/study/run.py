"""One run of the study: trains one arm with one seed, tests it, and prints its record as one line of JSON.

    python -m benchmarks.study.run --task countdown --arm grpo --seed 1 --learning_rate 1e-4 --steps 300 \
        --split test --folder outputs/study/countdown
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.study.arms import Arm, find_arm
from benchmarks.study.tasks import BATCH_SIZE, TASKS, Task, read_problems
from opefo_trl import OPEFOConfig
from opefo_trl.evaluation.sampling import Sampling, TransformersSampler


TEST_BATCH_SIZE = 1600  # completions at once
PACKAGES = ("opefo_trl", "trl", "transformers", "torch")
CURVES = {
    "entropy": "entropy",
    "reward": "reward",
    "entropy_flow/coefficient": "coefficient",
    "frac_reward_zero_std": "without_variance",  # share of the groups
    "completions/mean_length": "length",  # tokens
}


class Draw(NamedTuple):
    """How the answers of a test are drawn; `samples` per problem."""

    temperature: float
    top_p: float
    samples: int


HOT, NUCLEUS, COLD = Draw(1.0, 1.0, 64), Draw(1.0, 0.7, 16), Draw(0.3, 1.0, 16)
# Learning rates are chosen by the sampling of the paper
TESTS = {"test": {"hot": HOT, "nucleus": NUCLEUS, "cold": COLD}, "validation": {"nucleus": NUCLEUS}}


class Arguments(NamedTuple):
    """What a record follows from; `steps` in rollout batches, `split` names the problems of its test."""

    task: str
    arm: str
    seed: int
    learning_rate: float
    steps: int
    split: str


def make_config(task: Task, arm: Arm, arguments: Arguments, output_dir: str) -> OPEFOConfig:
    """Settings of one run. With several updates a rollout batch is split in as many parts, each trained on once."""
    settings: dict[str, Any] = {
        "output_dir": output_dir,
        "seed": arguments.seed,
        "learning_rate": arguments.learning_rate,
        "max_steps": arguments.steps * arm.updates,
        "per_device_train_batch_size": BATCH_SIZE // arm.updates,
        "steps_per_generation": arm.updates,
        "gradient_accumulation_steps": 1,
        "num_generations": 8,
        "temperature": 1.0,
        "lr_scheduler_type": "constant",
        "beta": 0.0,
        "logging_steps": arm.updates,  # one entry, of means, per rollout batch
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
    }
    return OPEFOConfig(**{**settings, **task.settings, **arm.settings})


def train(task: Task, arm: Arm, arguments: Arguments, folder: Path, model_dir: str) -> dict[str, Any]:
    """Train, save to `model_dir`, and return the part of the record that is about the training."""
    base = folder / "base"
    rule = {} if arm.make_rule is None else {"rule": arm.make_rule(arguments.seed)}
    trainer = arm.trainer(
        AutoModelForCausalLM.from_pretrained(base, dtype="float32"),
        task.reward,
        make_config(task, arm, arguments, model_dir),
        train_dataset=Dataset.from_list(read_problems(folder, "train")),
        processing_class=AutoTokenizer.from_pretrained(base),
        **rule,
    )
    trainer.train()
    trainer.save_model()
    *history, total = trainer.state.log_history
    curves = {name: [float(f"{entry[key]:.4g}") for entry in history] for key, name in CURVES.items()}
    changed = [entry["changed_share"] for entry in history if "changed_share" in entry]
    return {
        "curves": curves,
        "changed_share": sum(changed) / len(changed) if changed else None,
        "train_seconds": total["train_runtime"],
    }


def test(task: Task, model_dir: str, problems: list[dict[str, Any]], how: Draw, seed: int) -> dict[str, Any]:
    """
    Returns:
        `dict[str, Any]`: `samples` per problem; of each problem the number of right answers `correct`; means over the
        problems of the numbers of different answers `distinct` and of different right ones `distinct_correct`.
    """
    sampling = Sampling(how.temperature, how.top_p, task.settings["max_completion_length"])
    sampler = TransformersSampler(model_dir, sampling, "float32", TEST_BATCH_SIZE)
    prompts = [sampler.tokenizer(problem["prompt"])["input_ids"] for problem in problems]
    correct, distinct, distinct_correct = [], 0, 0
    num_samples = min(how.samples, task.samples)
    for problem, samples in zip(problems, sampler.draw(prompts, num_samples, seed), strict=True):
        answers = [sample.text for sample in samples]
        rewards = task.reward(answers, **{name: [value] * len(answers) for name, value in problem.items()})
        right = [answer for answer, reward in zip(answers, rewards, strict=True) if reward == 1.0]
        correct.append(len(right))
        distinct += len(set(answers))
        distinct_correct += len(set(right))
    return {
        "samples": num_samples,
        "correct": correct,
        "distinct": distinct / len(problems),
        "distinct_correct": distinct_correct / len(problems),
    }


def run(arguments: Arguments, folder: Path) -> dict[str, Any]:
    """
    Train and test.

    Args:
        arguments ([`Arguments`]):
            What to run.
        folder (`Path`):
            Where the task is prepared.

    Returns:
        `dict[str, Any]`: the record, all of it JSON. Seconds are of the wall.
    """
    task = TASKS[arguments.task]
    arm = find_arm(task, arguments.arm)
    record: dict[str, Any] = {
        **arguments._asdict(),
        "updates": arm.updates,
        "entropy_target": arm.entropy_target,
        "versions": {name: version(name) for name in PACKAGES},
    }
    with tempfile.TemporaryDirectory() as model_dir:
        if arm.updates:
            record |= train(task, arm, arguments, folder, model_dir)
        problems = read_problems(folder, arguments.split)
        began = time.perf_counter()
        tested = model_dir if arm.updates else str(folder / "base")
        record["tests"] = {
            name: test(task, tested, problems, how, arguments.seed) for name, how in TESTS[arguments.split].items()
        }
        record["test_seconds"] = round(time.perf_counter() - began, 2)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains and tests one arm with one seed, and prints the record.")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--learning_rate", type=float, required=True)
    parser.add_argument("--steps", type=int, required=True, help="rollout batches")
    parser.add_argument("--split", choices=TESTS, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the task is prepared")
    options = vars(parser.parse_args())
    folder = options.pop("folder")
    with contextlib.redirect_stdout(sys.stderr):  # what the trainer prints is not the record
        record = run(Arguments(**options), folder)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
