"""Rows from files in every supported form, turned into prompts."""

import json

import pytest
from datasets import Dataset, DatasetDict

from opefo_trl.data import load_splits, pick_split, to_prompts


ROWS = [{"problem": r"What is $\frac{1}{2} + \frac{1}{2}$?", "answer": "1"}, {"problem": "2+2?", "answer": "4"}]


@pytest.fixture
def rows():
    return Dataset.from_list(ROWS)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_files(tmp_path, rows, suffix):
    path = str(tmp_path / f"rows{suffix}")
    {".jsonl": rows.to_json, ".parquet": rows.to_parquet, ".csv": lambda p: rows.to_csv(p, quoting=1)}[suffix](path)
    loaded = load_splits(path)
    assert list(loaded) == ["train"]
    assert [(row["problem"], str(row["answer"])) for row in loaded["train"]] == [tuple(r.values()) for r in ROWS]


def test_folders(tmp_path, rows):
    (tmp_path / "files").mkdir()
    rows.to_json(tmp_path / "files" / "train.jsonl")
    rows.select([1]).to_json(tmp_path / "files" / "test.jsonl")
    rows.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": rows, "validation": rows.select([0])}).save_to_disk(tmp_path / "saved_splits")
    sizes = {
        name: {split: len(data) for split, data in load_splits(str(tmp_path / name)).items()}
        for name in ("files", "saved", "saved_splits")
    }
    assert sizes == {
        "files": {"train": 2, "test": 1},
        "saved": {"train": 2},
        "saved_splits": {"train": 2, "validation": 1},
    }


def test_streaming(tmp_path, rows):
    rows.to_json(tmp_path / "rows.jsonl")
    stream = load_splits(str(tmp_path / "rows.jsonl"), streaming=True)["train"]
    prompts = to_prompts(stream, "rows", prompt_column="problem", solution_column="answer")
    assert [row["prompt"] for row in prompts] == [row["problem"] for row in ROWS]


def test_plain_prompts_pass_through():
    dataset = Dataset.from_list([{"prompt": "a", "numbers": [1, 2]}])
    assert to_prompts(dataset, "d") is dataset


def test_template_and_columns(rows):
    prompts = to_prompts(
        rows, "d", prompt_column="problem", solution_column="answer", prompt_template="Q: {prompt}\nA: \\boxed{}"
    )
    assert prompts[0]["prompt"] == "Q: What is $\\frac{1}{2} + \\frac{1}{2}$?\nA: \\boxed{}"
    assert prompts["solution"][:] == ["1", "4"]


def test_conversational(rows):
    user = {"role": "user", "content": "2+2?"}
    prompts = to_prompts(rows, "d", prompt_column="problem", conversational=True)
    assert prompts[1]["prompt"] == [user]
    prompts = to_prompts(rows, "d", prompt_column="problem", system_prompt="Think.")
    assert prompts[1]["prompt"] == [{"role": "system", "content": "Think."}, user]


def test_system_prompt_goes_before_messages_that_are_there():
    dataset = Dataset.from_list([{"prompt": [{"role": "user", "content": "hi"}]}])
    messages = to_prompts(dataset, "d", system_prompt="Be brief.")[0]["prompt"]
    assert [message["content"] for message in messages] == ["Be brief.", "hi"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "Dataset d has no column 'prompt': set `dataset_prompt_column` to one of problem, answer."),
        (
            {"prompt_column": "problem", "solution_column": "x"},
            "no column 'x': set `dataset_solution_column` to one of",
        ),
        ({"prompt_column": "problem", "prompt_template": "no place"}, r"must contain \{prompt\}"),
    ],
)
def test_what_does_not_fit(rows, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        to_prompts(rows, "d", **settings)


def test_prompts_that_are_neither_text_nor_messages():
    with pytest.raises(ValueError, match="must hold texts or lists of chat messages, but its first row holds 3"):
        to_prompts(Dataset.from_list([{"prompt": 3}]), "d")


def test_template_on_messages():
    dataset = Dataset.from_list([{"prompt": [{"role": "user", "content": "hi"}]}])
    with pytest.raises(ValueError, match="`prompt_template` applies to texts"):
        to_prompts(dataset, "d", prompt_template="{prompt}")


def test_empty_dataset():
    with pytest.raises(ValueError, match="Dataset d has no rows"):
        to_prompts(Dataset.from_dict({"prompt": []}), "d")


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ValueError, match="Dataset file .*gone.jsonl does not exist"):
        load_splits(str(tmp_path / "gone.jsonl"))
    (tmp_path / "broken.jsonl").write_text(json.dumps(ROWS[0]) + "\n{broken")
    with pytest.raises(ValueError, match="broken.jsonl could not be loaded: "):
        load_splits(str(tmp_path / "broken.jsonl"))
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(ValueError, match="notes.txt could not be loaded: its ending is none of .jsonl"):
        load_splits(str(tmp_path / "notes.txt"))


def test_missing_split(rows):
    with pytest.raises(ValueError, match="no split 'test': set `dataset_test_split` to one of train"):
        pick_split(DatasetDict({"train": rows}), "test", "dataset_test_split", "d")
