"""The study's tasks: problems, a base model taught on problems of the same kind, a reward, and the size of a run."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, product
from operator import mul
from pathlib import Path
from typing import Any

import torch

from benchmarks.study import maze
from examples.countdown.countdown import Puzzle, countdown_reward, generate_puzzles
from examples.countdown.prepare import SFT_BATCH_SIZE, prepare, split_puzzles, teach, write_puzzles


STEPS = 300  # rollout batches of a run
BATCH_SIZE = 64  # completions of a rollout batch
PROBLEMS = 200  # of the validation and of the test
SFT_STEPS = 900
EASY_SIZES = (3, 4)  # numbers in a puzzle
EASY_TRAIN_PUZZLES = 2000
HARD_SIZES = (5,)
HARD_TRAIN_PUZZLES = 64
PRODUCT_SHARE = 0.03  # of the solutions that the base model of `countdown_products` is taught
PRODUCT_TRAIN_PUZZLES = 2000
PRODUCT_POOL = 200_000  # puzzles drawn to choose them all from
SUM_OPTIONS = {"min_terms": 3, "max_terms": 4, "min_digits": 1, "max_digits": 1}
SUM_PROBLEMS = 20_000  # of some 84,000 that there are
SUM_TRAIN_PROBLEMS = 2000
SUM_SFT_STEPS = 500
MAZE_TRAIN_PROBLEMS = 1000
MAZE_SFT_STEPS = 1000
MAZE_LAYERS = 4

# To train on, to test on, and to teach the base model
Puzzles = tuple[list[Puzzle], list[Puzzle], list[Puzzle]]


@dataclass(frozen=True)
class Task:
    """
    One kind of problem, and what is held constant, counted and reported on it.

    Args:
        title (`str`):
            For the head of the report.
        prepare (`Callable[[Path], None]`):
            Writes into a folder `data/train.jsonl` and `data/test.jsonl` (`prompt` and the reward's columns), the
            latter of at least 2 × [`PROBLEMS`] rows, and the model `base`. Does nothing where that is done.
        reward (`Callable`):
            Reward function for TRL: 1.0 for a right answer.
        entropy_targets (`tuple[float, float]`):
            A low and a high level of entropy, in nats per token. The first is also the level that every rival with a
            target or a threshold of entropy is given.
        level (`float`):
            Training reward to count the steps to.
        settings (`dict[str, Any]`, *optional*):
            Fields of [`~opefo_trl.OPEFOConfig`] that belong to the task.
        samples (`int`, *optional*, defaults to `64`):
            Most answers per problem in a test.
        kinds (`tuple[str, ...]`, *optional*):
            Names of the kinds of problem that `data/test.jsonl` holds in turn, for columns of their own.
    """

    title: str
    prepare: Callable[[Path], None]
    reward: Callable[..., list[float]]
    entropy_targets: tuple[float, float]
    level: float
    settings: dict[str, Any] = field(default_factory=dict)
    samples: int = 64
    kinds: tuple[str, ...] = ()


def read_problems(folder: Path, split: str) -> list[dict[str, Any]]:
    """
    Args:
        folder (`Path`):
            What [`Task.prepare`] has written to.
        split (`str`):
            `"train"`; or `"validation"` or `"test"`, two parts of `test.jsonl`, which the base model was not taught.

    Raises:
        `ValueError`: if the folder is not prepared.
    """
    path = folder / "data" / ("train.jsonl" if split == "train" else "test.jsonl")
    if not path.is_file():
        raise ValueError(f"{path} is missing: `python -m benchmarks.study` prepares the task before it runs it.")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    parts = {"train": rows, "validation": rows[:PROBLEMS], "test": rows[PROBLEMS : 2 * PROBLEMS]}
    return parts[split]


def prepare_countdown(folder: Path) -> None:
    prepare(folder, SFT_STEPS, sizes=EASY_SIZES, train_puzzles=EASY_TRAIN_PUZZLES)


def prepare_puzzles(folder: Path, make_puzzles: Callable[[int], Puzzles], seed: int = 0) -> None:
    """Write the puzzles that `make_puzzles` makes of the seed, and teach a base model its third part."""
    if (folder / "prepared").exists():
        return
    torch.set_num_threads(1)
    train, test, examples = make_puzzles(seed)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    write_puzzles(train, folder / "data" / "train.jsonl")
    write_puzzles(test, folder / "data" / "test.jsonl")
    teach([e.prompt for e in examples], [e.solution for e in examples], folder / "base", seed)
    (folder / "prepared").touch()


def make_hard_puzzles(seed: int) -> Puzzles:
    """Longer puzzles, few of them, so that each is seen many times."""
    puzzles = generate_puzzles(seed, sizes=HARD_SIZES)
    train, test = split_puzzles(puzzles, HARD_TRAIN_PUZZLES, 2 * PROBLEMS, seed)
    held_out = {puzzle.prompt for puzzle in test}
    unseen = (puzzle for puzzle in puzzles if puzzle.prompt not in held_out)
    return train, test, list(islice(unseen, SFT_STEPS * SFT_BATCH_SIZE))


def needs_product(puzzle: Puzzle) -> bool:
    """Whether no expression of `+` and `-` alone solves the puzzle. One number at least, the first, is added."""
    signs = product((1, -1), repeat=len(puzzle.numbers))
    sums = (sum(map(mul, signs_of, puzzle.numbers)) for signs_of in signs if 1 in signs_of)
    return puzzle.target not in sums


def make_product_puzzles(seed: int) -> Puzzles:
    """
    Every second puzzle to train and to test on needs `*`, which the base model hardly ever tries, being taught it by
    [`PRODUCT_SHARE`] of its examples: its rewards come from `+` and `-`.
    """
    puzzles = list(islice(generate_puzzles(seed, EASY_SIZES), PRODUCT_POOL))
    halves = [[puzzle for puzzle in puzzles if needs_product(puzzle) == needed] for needed in (False, True)]
    splits = [split_puzzles(iter(half), PRODUCT_TRAIN_PUZZLES // 2, PROBLEMS, seed) for half in halves]
    train, test = (
        [puzzle for pair in zip(*parts, strict=True) for puzzle in pair] for parts in zip(*splits, strict=True)
    )
    held_out = {puzzle.prompt for puzzle in test}
    unseen = [puzzle for puzzle in puzzles if puzzle.prompt not in held_out]
    sums, products = ([puzzle for puzzle in unseen if ("*" in puzzle.solution) == used] for used in (False, True))
    rng = random.Random(seed)
    examples = [
        rng.choice(products if rng.random() < PRODUCT_SHARE else sums) for _ in range(SFT_STEPS * SFT_BATCH_SIZE)
    ]
    return train, test, examples


def make_sums(count: int, seed: int) -> list[dict[str, str]]:
    """Problems of reasoning-gym's `chain_sum`, each as `5+8-7=`: of its sentence, the part that differs."""
    from examples.reasoning_gym.prepare import make_rows  # reasoning-gym is an extra of the project

    rows = []
    for row in make_rows("chain_sum", count, seed, SUM_OPTIONS):
        _, problem = row["prompt"].rsplit(":", 1)
        rows.append({"prompt": problem.replace(" ", ""), "entry": row["entry"]})
    return rows


def prepare_sums(folder: Path, seed: int = 0) -> None:
    """Sums of three or four digits: one right answer each, so there is no other to explore."""
    if (folder / "prepared").exists():
        return
    torch.set_num_threads(1)
    rows = make_sums(SUM_PROBLEMS, seed)
    test, train = rows[: 2 * PROBLEMS], rows[2 * PROBLEMS : 2 * PROBLEMS + SUM_TRAIN_PROBLEMS]
    examples = random.Random(seed).choices(rows[2 * PROBLEMS :], k=SUM_SFT_STEPS * SFT_BATCH_SIZE)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, part in (("train", train), ("test", test)):
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    solutions = [json.loads(row["entry"])["answer"] for row in examples]
    teach([row["prompt"] for row in examples], solutions, folder / "base", seed)
    (folder / "prepared").touch()


def prepare_maze(folder: Path, seed: int = 0) -> None:
    """Mazes of two kinds in turn; the base model is taught walks with wrong turns."""
    if (folder / "prepared").exists():
        return
    torch.set_num_threads(1)
    mazes = maze.generate_mazes(seed)
    by_kind: list[dict[str, maze.Maze]] = [{}, {}]
    size = (2 * PROBLEMS + MAZE_TRAIN_PROBLEMS) // 2
    while min(map(len, by_kind)) < size:
        for found in by_kind:
            new = next(mazes)
            found.setdefault(new.prompt, new)
    rows = [prompt for pair in zip(*(list(found)[:size] for found in by_kind), strict=True) for prompt in pair]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, part in (("test", rows[: 2 * PROBLEMS]), ("train", rows[2 * PROBLEMS :])):
        lines = (json.dumps({"prompt": prompt, "maze": prompt}) + "\n" for prompt in part)
        (folder / "data" / f"{name}.jsonl").write_text("".join(lines))
    unseen = (new for new in mazes if not any(new.prompt in found for found in by_kind))
    examples = list(islice(unseen, MAZE_SFT_STEPS * SFT_BATCH_SIZE))
    rng = random.Random(seed)
    walks = [maze.draw_walk(rng, example) for example in examples]
    teach([e.prompt for e in examples], walks, folder / "base", seed, maze.SYMBOLS, MAZE_LAYERS)
    (folder / "prepared").touch()


def sum_reward(completions: list[str], entry: list[str], **kwargs) -> list[float]:
    """
    Reward function for [`~trl.GRPOTrainer`]: 1.0 where the verifier of `chain_sum` finds nothing to object to, else
    0.0. The verifier itself gives a part of the reward to a text that contains the answer.
    """
    from examples.reasoning_gym.reward import get_verifier

    verify = get_verifier("chain_sum")
    return [float(verify(text, json.loads(row)) == 1.0) for text, row in zip(completions, entry, strict=True)]


TASKS = {
    "countdown": Task(
        title="Countdown, 3 or 4 numbers",
        prepare=prepare_countdown,
        reward=countdown_reward,
        entropy_targets=(0.45, 0.6),
        level=0.3,
        settings={"max_completion_length": 16},
    ),
    "countdown_hard": Task(
        title=f"Countdown, {HARD_SIZES[0]} numbers, {HARD_TRAIN_PUZZLES} puzzles to train on",
        prepare=partial(prepare_puzzles, make_puzzles=make_hard_puzzles),
        reward=countdown_reward,
        entropy_targets=(0.5, 0.7),
        level=0.25,
        settings={"max_completion_length": 20},
    ),
    "countdown_products": Task(
        title="Countdown, every second puzzle needs a product, which the base model hardly ever tries",
        prepare=partial(prepare_puzzles, make_puzzles=make_product_puzzles),
        reward=countdown_reward,
        entropy_targets=(0.45, 0.55),
        level=0.3,
        settings={"max_completion_length": 16},
        kinds=("sums", "products"),
    ),
    "maze": Task(
        title=f"Mazes of {maze.SIZE} × {maze.SIZE} cells, every second one with a barrier",
        prepare=prepare_maze,
        reward=maze.maze_reward,
        entropy_targets=(0.15, 0.25),
        level=0.6,
        settings={"max_completion_length": 3 * maze.MAX_MOVES + 3},
        samples=16,
        kinds=maze.KINDS,
    ),
    "sums": Task(
        title="Sums of three or four digits (reasoning-gym's chain_sum)",
        prepare=prepare_sums,
        reward=sum_reward,
        entropy_targets=(0.52, 0.54),
        level=0.4,
        settings={"max_completion_length": 5},
    ),
}
