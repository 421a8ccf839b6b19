"""Writes problems of reasoning-gym as a dataset with the splits train and test.

python -m examples.reasoning_gym.prepare --tasks chain_sum,gcd --rows 2000 --output outputs/reasoning_gym
"""

import argparse
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any


TASKS = "basic_arithmetic,chain_sum,gcd,spell_backward,word_sorting,calendar_arithmetic,family_relationships"
TEST_SHARE = 0.1
# Problems to generate per row, since a task may repeat itself
DRAWS_PER_ROW = 20


def make_rows(task: str, count: int, seed: int, options: Mapping[str, Any]) -> list[dict[str, str]]:
    """
    Generates different problems of one task, in random order.

    Args:
        task (`str`):
            Name of a task of reasoning-gym.
        count (`int`):
            Number of problems.
        seed (`int`):
            Seed of the problems and of their order.
        options (`Mapping[str, Any]`):
            Fields of the task's configuration, such as `max_terms`.

    Returns:
        `list[dict[str, str]]`: rows with the columns `prompt`, `task` and `entry`. `entry` is for
        [`~examples.reasoning_gym.reward.reasoning_gym_reward`].

    Raises:
        `ValueError`: if there is no such task, if it has too few problems, or if its verifier rejects the task's own
        answer after the entry was stored as JSON.
    """
    # Here, so that `main` can say in one sentence that the package is missing
    from examples.reasoning_gym.reward import get_verifier, reasoning_gym, reasoning_gym_reward

    get_verifier(task)
    rows: dict[str, dict[str, str]] = {}
    for entry in reasoning_gym.create_dataset(task, seed=seed, size=DRAWS_PER_ROW * count, **options):
        row = {"prompt": entry["question"], "task": task, "entry": json.dumps(entry)}
        if reasoning_gym_reward([f"<answer>{entry['answer']}</answer>"], [row["entry"]]) != [1.0]:
            raise ValueError(
                f"Task {task!r} cannot be used: its verifier rejects its own answer after storage. Leave it out."
            )
        rows.setdefault(row["prompt"], row)
        if len(rows) == count:
            # A task's few easy problems come first: without the shuffle, the test split would lack them
            return random.Random(seed).sample(list(rows.values()), count)
    raise ValueError(f"Task {task!r} has only {len(rows)} different problems, not {count}: ask for fewer rows.")


def prepare(tasks: Mapping[str, Mapping[str, Any]], rows: int, seed: int, output: Path) -> None:
    """
    Writes `output/train.jsonl`, with `rows` problems in equal shares of the tasks, and `output/test.jsonl`, with a
    tenth as many. No problem is in both, and no two have the same seed.

    Args:
        tasks (`Mapping[str, Mapping[str, Any]]`):
            Names of tasks, each with fields of its configuration, `{}` for the task as it is.
        rows (`int`):
            Number of problems to train on.
        seed (`int`):
            Seed of the problems and of their order.
        output (`Path`):
            Folder to write to.

    Raises:
        `ValueError`: if there are fewer rows than tasks, or if a task cannot be used.
    """
    if rows < len(tasks):
        raise ValueError(f"{rows} rows are too few for {len(tasks)} tasks: ask for at least one per task.")
    train, test = [], []
    for number, (task, options) in enumerate(tasks.items()):
        share = rows // len(tasks) + (number < rows % len(tasks))
        test_share = max(1, round(share * TEST_SHARE))
        made = make_rows(task, share + test_share, seed, options)
        train += made[:share]
        test += made[share:]
    output.mkdir(parents=True, exist_ok=True)
    for name, split in (("train", train), ("test", test)):
        random.Random(seed).shuffle(split)
        (output / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in split))
    print(f"Wrote {len(train)} problems to train on and {len(test)} to test on to {output}.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes problems of reasoning-gym as a dataset.")
    parser.add_argument("--tasks", default=TASKS, help=f"names, separated by commas (defaults to {TASKS})")
    parser.add_argument("--rows", type=int, default=7000, help="problems to train on; a tenth as many to test on")
    parser.add_argument("--seed", type=int, default=0, help="seed of the problems")
    parser.add_argument("--output", type=Path, default=Path("outputs/reasoning_gym"), help="folder to write to")
    args = parser.parse_args()
    try:
        prepare({task: {} for task in args.tasks.split(",")}, args.rows, args.seed, args.output)
    except (ImportError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
