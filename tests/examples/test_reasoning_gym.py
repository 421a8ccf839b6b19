"""The reasoning-gym example: reward on honest and hostile text, rows, refusals."""

import ast
import inspect
import json
import sys

import pytest
from datasets import load_dataset

from opefo_trl.grading.rewards import load_reward


reasoning_gym = pytest.importorskip("reasoning_gym")

from examples.reasoning_gym import prepare  # noqa: E402
from examples.reasoning_gym import reward as rewards  # noqa: E402


pytestmark = pytest.mark.slow  # needs the extra
REWARD = "examples.reasoning_gym.reward.reasoning_gym_reward"


def make_entry(task="chain_sum", seed=0, **options):
    return reasoning_gym.create_dataset(task, seed=seed, size=1, **options)[0]


def reward_of(completion, entry):
    (value,) = rewards.reasoning_gym_reward([completion], entry=[json.dumps(entry)], prompts=["?"], task=["chain_sum"])
    return value


def test_reward():
    entry = {**make_entry(), "answer": "42"}
    values = {
        "<answer>42</answer>": 1.0,
        "so it is\n<answer>\n 42.0 \n</answer> indeed": 1.0,
        "<answer>41</answer>": 0.0,
        "<answer>7</answer> no, <answer>42</answer>": 1.0,
        "<answer>42</answer> no, <answer>7</answer>": 0.0,
        "<answer>7 <answer>42</answer>": 1.0,
        "<answer>42 apples</answer>": 2 / 9,  # the verifier's own partial credit
        "42": 0.0,
        "<answer>42": 0.0,
        "42</answer>": 0.0,
        "</answer>42<answer>": 0.0,
        "<answer></answer>": 0.0,
        "": 0.0,
    }
    assert {text: reward_of(text, entry) for text in values} == values
    messages = {text: reward_of([{"role": "assistant", "content": text}], entry) for text in values}
    assert messages == values


def test_each_entry_goes_to_its_own_verifier():
    entries = [make_entry("chain_sum"), make_entry("word_sorting"), make_entry("family_relationships")]
    texts = [f"<answer>{entry['answer']}</answer>" for entry in entries]
    lines = [json.dumps(entry) for entry in entries]
    assert rewards.reasoning_gym_reward(texts, entry=lines) == [1.0, 1.0, 1.0]
    assert rewards.reasoning_gym_reward(texts, entry=[lines[0], lines[0], lines[0]]) == [1.0, 0.0, 0.0]
    assert rewards.get_verifier("chain_sum") is rewards.get_verifier("chain_sum")


def test_what_a_verifier_does_wrong_stays_with_it(monkeypatch):
    entry = make_entry()
    for value, expected in ((1 / 3, 1 / 3), (7.0, 1.0), (-1.0, 0.0), (float("nan"), 0.0), (float("inf"), 0.0)):
        monkeypatch.setattr(rewards, "get_verifier", lambda task, value=value: lambda answer, entry: value)
        assert reward_of("<answer>1</answer>", entry) == expected
    monkeypatch.setattr(rewards, "get_verifier", lambda task: lambda answer, entry: {}[answer])
    assert reward_of("<answer>1</answer>", entry) == 0.0


def test_long_answers_are_refused_unread():
    entry = {**make_entry(), "answer": "1"}
    zeros = "0" * (rewards.MAX_ANSWER_LENGTH - 1)
    assert reward_of(f"<answer>{zeros}1</answer>", entry) == 1.0
    assert reward_of(f"<answer>{zeros}01</answer>", entry) == 0.0


HOSTILE = [
    "\x00",
    "²",
    "٣",
    "nan",
    "1e999999999",
    "-1e999999999",
    "1/0",
    "10**10**10",
    "[" * 4000,
    "{}",
    "null",
    "exit()",
]


@pytest.mark.parametrize("task", prepare.TASKS.split(","))
def test_hostile_answers_to_the_default_tasks(task):
    entry = make_entry(task, seed=5)
    # Some verifiers give a little for a letter in its place or a number that is near
    assert all(0.0 <= reward_of(f"<answer>{text}</answer>", entry) < 0.2 for text in HOSTILE)


def test_no_answer_is_ever_run():
    """Every verifier that hands the answer itself to a parser of Python, or to one without bounds, is refused."""
    unsafe = set()
    for task, (dataset, _) in reasoning_gym.factory.DATASETS.items():
        for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(dataset)))):
            if isinstance(node, ast.Call) and any(isinstance(a, ast.Name) and a.id == "answer" for a in node.args):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in ("eval", "exec", "parse_expr", "sympify", "Fraction"):
                    unsafe.add(task)
    assert unsafe == rewards.REFUSED_TASKS - {"game_of_life_halting"}
    entry = make_entry("n_queens")
    with pytest.raises(ValueError, match="Task 'n_queens' is refused"):
        reward_of("<answer>exit()</answer>", entry)


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, options)])
    prepare.main()


def test_rows(tmp_path, monkeypatch):
    run(monkeypatch, "--tasks", "chain_sum,gcd,word_sorting", "--rows", 31, "--seed", 3, "--output", tmp_path / "a")
    run(monkeypatch, "--tasks", "chain_sum,gcd,word_sorting", "--rows", 31, "--seed", 3, "--output", tmp_path / "b")
    run(monkeypatch, "--tasks", "chain_sum,gcd,word_sorting", "--rows", 31, "--seed", 4, "--output", tmp_path / "c")
    first, again, other = ((tmp_path / name / "train.jsonl").read_text() for name in "abc")
    assert first == again != other

    splits = load_dataset(str(tmp_path / "a"))
    rows, test_rows = splits["train"].to_list(), splits["test"].to_list()
    assert [sum(row["task"] == task for row in rows) for task in ("chain_sum", "gcd", "word_sorting")] == [11, 10, 10]
    assert {row["task"] for row in test_rows} == {"chain_sum", "gcd", "word_sorting"} and len(test_rows) == 3
    assert len({row["prompt"] for row in rows + test_rows}) == len(rows) + len(test_rows), "no problem twice"
    entries = [json.loads(row["entry"]) for row in rows]
    assert [entry["question"] for entry in entries] == [row["prompt"] for row in rows]
    texts = [f"<answer>{entry['answer']}</answer>" for entry in entries]
    reward = load_reward(REWARD, 64)
    assert reward(texts, **{name: [row[name] for row in rows] for name in ("task", "entry")}) == [1.0] * len(rows)


def test_options_reach_the_task(tmp_path):
    prepare.prepare({"chain_sum": {"max_terms": 2, "max_digits": 1}}, 150, 0, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    numbers = [json.loads(row["entry"])["metadata"]["expression"].split()[::2] for row in rows]
    assert len(rows) == 150 and all(len(pair) == 2 and max(map(int, pair)) <= 9 for pair in numbers)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tasks", "nope"], "Task 'nope' has no verifier in reasoning-gym: Dataset 'nope' not registered"),
        (["--tasks", "composite"], "Task 'composite' has no verifier in reasoning-gym"),
        (["--tasks", "chain_sum,countdown"], "Task 'countdown' is refused"),
        (["--tasks", "rearc"], "Task 'rearc' cannot be used: its verifier rejects its own answer"),
        (["--tasks", "needle_haystack,gcd", "--rows", "1"], "1 rows are too few for 2 tasks"),
        (["--tasks", "coin_flip"], "Task 'coin_flip' is refused"),
    ],
)
def test_refusals(tmp_path, monkeypatch, capsys, options, sentence):
    with pytest.raises(SystemExit) as exit_info:
        run(monkeypatch, *options, "--output", tmp_path / "data")
    assert exit_info.value.code == 2 and sentence in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "data").exists()


def test_too_few_problems(tmp_path):
    with pytest.raises(ValueError, match="Task 'chain_sum' has only 200 different problems, not 220: ask for fewer"):
        prepare.prepare({"chain_sum": {"max_terms": 2, "max_digits": 1}}, 200, 0, tmp_path)


def test_missing_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.delitem(sys.modules, "examples.reasoning_gym.reward")
    with pytest.raises(SystemExit) as exit_info:
        run(monkeypatch, "--output", tmp_path)
    assert exit_info.value.code == 2
    assert "pip install -e '.[reasoning-gym]'" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(
        ValueError, match=r"cannot be imported .* install it with `pip install -e '\.\[reasoning-gym\]'`"
    ):
        load_reward(REWARD, 64)
