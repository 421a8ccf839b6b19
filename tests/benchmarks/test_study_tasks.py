"""benchmarks/study/tasks.py: the problems of each task, and their rewards."""

import json
import re
from itertools import islice

import pytest

from benchmarks.study import tasks
from benchmarks.study.tasks import (
    HARD_SIZES,
    PRODUCT_SHARE,
    make_product_puzzles,
    make_sums,
    needs_product,
    read_problems,
    sum_reward,
)
from examples.countdown.countdown import Puzzle, generate_puzzles, is_solution


def test_validation_and_test_are_apart(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text("".join(f'{{"prompt": "{i}"}}\n' for i in range(500)))
    parts = [{row["prompt"] for row in read_problems(tmp_path, split)} for split in ("validation", "test")]
    assert [len(part) for part in parts] == [200, 200] and not parts[0] & parts[1]
    with pytest.raises(ValueError, match="train.jsonl is missing"):
        read_problems(tmp_path, "train")


@pytest.mark.slow  # needs an extra
def test_sums_count_exact_answers_alone():
    entry = json.dumps({"question": "", "answer": "12", "metadata": {"source_dataset": "chain_sum"}})
    assert sum_reward(["12", "121", "-12", ""], [entry] * 4) == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.slow  # needs an extra
def test_sums_are_lines_of_three_or_four_digits():
    rows = make_sums(50, seed=0)
    assert {len(row["prompt"]) for row in rows} == {6, 8}
    for row in rows:
        assert re.fullmatch(r"\d([+-]\d){2,3}=", row["prompt"])
        assert sum_reward([str(eval(row["prompt"][:-1]))], [row["entry"]]) == [1.0]


def test_hard_puzzles_are_longer():
    puzzles = list(islice(generate_puzzles(0, sizes=HARD_SIZES), 20))
    assert {len(puzzle.numbers) for puzzle in puzzles} == {5}
    assert all(is_solution(puzzle.solution, list(puzzle.numbers), puzzle.target) for puzzle in puzzles)


@pytest.mark.parametrize(
    "numbers, target, needed",
    [
        ((2, 3), 6, True),
        ((2, 3), 5, False),
        ((2, 3), 1, False),  # 3-2
        ((2, 2, 2), 8, True),
        ((1, 2, 4), 1, False),  # 4-2-1
        ((1, 2, 4), 2, True),  # sums are odd
        ((3, 3), 0, False),
        ((1, 1), -2, True),  # no number is negative by itself
    ],
)
def test_who_needs_a_product(numbers, target, needed):
    assert needs_product(Puzzle(numbers, target, "")) == needed


def test_every_second_puzzle_needs_a_product_and_few_are_taught(monkeypatch):
    monkeypatch.setattr(tasks, "PRODUCT_POOL", 8000)
    monkeypatch.setattr(tasks, "PRODUCT_TRAIN_PUZZLES", 100)
    train, test, examples = make_product_puzzles(seed=0)
    assert [len(train), len(test)] == [100, 400]
    for puzzles in (train, test):
        assert [needs_product(puzzle) for puzzle in puzzles] == [False, True] * (len(puzzles) // 2)
    held_out = {puzzle.prompt for puzzle in test}
    assert not held_out & {puzzle.prompt for puzzle in [*train, *examples]}
    share = sum("*" in example.solution for example in examples) / len(examples)
    assert share == pytest.approx(PRODUCT_SHARE, abs=0.003)
