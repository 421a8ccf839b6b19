"""The Countdown example: its parser on honest and hostile text, its puzzles, its tokenizer, its recipes."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
import yaml
from datasets import load_dataset
from transformers import AutoTokenizer

from examples.countdown.countdown import countdown_reward, evaluate, generate_puzzles, is_solution
from examples.countdown.prepare import build_model, build_tokenizer, prepare, split_puzzles, write_puzzles
from opefo_trl.commands import train


EXAMPLE = Path(__file__).parents[2] / "examples" / "countdown"


@pytest.mark.parametrize(
    ("expression", "value", "numbers"),
    [
        ("7", 7, [7]),
        ("7+7+3+4", 21, [7, 7, 3, 4]),
        ("2+3*4", 14, [2, 3, 4]),
        ("(2+3)*4", 20, [2, 3, 4]),
        ("9-5-3", 1, [9, 5, 3]),
        ("9-(5-3)", 7, [9, 5, 3]),
        ("2*3*4-25", -1, [2, 3, 4, 25]),
        ("((((8))))", 8, [8]),
        ("12*10", 120, [12, 10]),
    ],
)
def test_evaluate(expression, value, numbers):
    assert evaluate(expression) == (value, numbers)


HOSTILE = [
    "",
    " ",
    "3+",
    "+3",
    "-3",
    "3--3",
    "3 + 4",
    "(3+4",
    "3+4)",
    ")(",
    "()",
    "3(4)",
    "8/2",
    "9**9**9",
    "9^9",
    "3.5+3.5",
    "07",
    "00",
    "1e9",
    "0x10",
    "٣+٤",
    "７＋７",
    "²",
    "3+4=7",
    "__import__('os').system('true')",
    "lambda:0",
    "\x00",
    "7\n",
    "(" * 100_000,
    "(" * 50_000 + "7" + ")" * 50_000,
    "9" * 100_000,
    "9*" * 50_000 + "9",
]


@pytest.mark.parametrize("text", HOSTILE, ids=[f"{i}: {ascii(text[:12])}" for i, text in enumerate(HOSTILE)])
def test_hostile_text_is_wrong_and_never_raises(text):
    assert not is_solution(text, [7], 7)
    assert countdown_reward([text], numbers=[[7]], target=[7]) == [0.0]


def test_reward():
    completions = ["7+7+3+4", "(3+4)*7-7", "3*7", "7+7+7", "4*7-7", "4+3+(7+7)"]
    columns = {"numbers": [[3, 4, 7, 7]] * 6, "target": [21] * 6, "prompts": ["3 4 7 7>21="] * 6}
    # right; wrong value; numbers missing; a number too often; a number missing; right in another order
    assert countdown_reward(completions, **columns) == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_generated_puzzles_are_solved_by_their_solutions():
    puzzles = list(islice(generate_puzzles(0), 2000))
    assert all(is_solution(puzzle.solution, list(puzzle.numbers), puzzle.target) for puzzle in puzzles)
    assert {len(puzzle.numbers) for puzzle in puzzles} == {5}
    assert all(1 <= puzzle.target <= 50 for puzzle in puzzles)
    numbers = " ".join(map(str, puzzles[0].numbers))
    assert puzzles[0].prompt == f"{numbers}>{puzzles[0].target}="


def test_puzzles_are_seeded():
    first, again, other = (list(islice(generate_puzzles(seed), 50)) for seed in (3, 3, 4))
    assert first == again != other


def test_train_and_test_are_disjoint_and_load(tmp_path):
    train_puzzles, test_puzzles = split_puzzles(generate_puzzles(0), 300, 100, seed=0)
    assert (len(train_puzzles), len(test_puzzles)) == (300, 100)
    assert not {puzzle.prompt for puzzle in train_puzzles} & {puzzle.prompt for puzzle in test_puzzles}
    write_puzzles(train_puzzles, tmp_path / "train.jsonl")
    write_puzzles(test_puzzles, tmp_path / "test.jsonl")
    splits = load_dataset(str(tmp_path))
    assert splits["test"]["prompt"][:] == [puzzle.prompt for puzzle in test_puzzles]
    assert splits["train"][0]["numbers"] == list(train_puzzles[0].numbers)


def test_tokenizer_round_trip(tmp_path):
    build_tokenizer().save_pretrained(tmp_path)
    build_model(build_tokenizer()).save_pretrained(tmp_path)  # AutoTokenizer asks the model's config
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "3 4 7 10>21=(3+4)*7-10"
    ids = tokenizer(text)["input_ids"]
    assert len(tokenizer) == 21 and len(ids) == len(text)
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    padded = tokenizer(["1 2>3=", "1>1="], padding=True, return_tensors="pt")
    assert torch.equal(padded["attention_mask"], torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]))


def test_model():
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    assert model.num_parameters() == pytest.approx(0.8e6, rel=0.02)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<eos>")
    assert model.generation_config.pad_token_id == tokenizer.convert_tokens_to_ids("<pad>")


def test_prepared_folder_is_used_again(tmp_path, capsys):
    (tmp_path / "prepared.json").write_text(json.dumps({"sft_steps": 3, "seed": 5, "sizes": [5], "train_puzzles": 64}))
    prepare(tmp_path, sft_steps=3, seed=5)
    assert capsys.readouterr().out == f"Using the puzzles and the base model that are in {tmp_path}.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["prepared.json"]


@pytest.mark.parametrize("arm", ["grpo", "opefo", "opefo_target"])
def test_recipes_parse_and_their_arithmetic_is_right(arm):
    path = EXAMPLE / f"{arm}.yaml"
    _, training_args, _, _ = train.parse(["--config", str(path)])
    assert training_args.is_on_policy and training_args.strict_on_policy
    processes, per_device, accumulation = 1, training_args.per_device_train_batch_size, 1
    completions = processes * per_device * training_args.gradient_accumulation_steps
    prompts = completions // training_args.num_generations
    comment = (
        f"{processes} process × {per_device} completions × {accumulation} accumulation step = {prompts} prompts × "
        f"{training_args.num_generations} completions = {completions} completions per optimizer step"
    )
    assert comment in path.read_text() and training_args.gradient_accumulation_steps == accumulation


def test_recipes_differ_in_the_method_alone():
    grpo, opefo, target = (
        yaml.safe_load((EXAMPLE / f"{arm}.yaml").read_text()) for arm in ("grpo", "opefo", "opefo_target")
    )
    method = {"flow_strength", "flow_entropy_target", "output_dir"}
    shared = [{key: value for key, value in recipe.items() if key not in method} for recipe in (grpo, opefo, target)]
    assert shared[0] == shared[1] == shared[2]
    assert (grpo["flow_strength"], opefo["flow_strength"], target["flow_strength"]) == (0.0, 1.0, 1.0)
