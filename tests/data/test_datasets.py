"""Rows from files in every supported form."""

import json

import pytest
from datasets import Dataset, DatasetDict

from opefo_trl.data.datasets import keep_rows, load_splits, pick_split


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
    assert list(stream) == ROWS
    assert list(keep_rows(stream, {"answer": "4"}, "rows")) == ROWS[1:]


def test_filter():
    levels = Dataset.from_list(
        [{"level": f"Level {i % 5 + 1}", "type": "Algebra" if i % 2 else "Geometry"} for i in range(20)]
    )
    kept = keep_rows(levels, {"level": ["Level 3", "Level 5"], "type": "Algebra"}, "d")
    assert kept["level"][:] == ["Level 3", "Level 5"] * 2 and set(kept["type"]) == {"Algebra"}
    with pytest.raises(ValueError, match="no column 'leve': `dataset_filter` can use level, type"):
        keep_rows(levels, {"leve": 3}, "d")
    with pytest.raises(
        ValueError, match=r"`dataset_filter` {'level': 3} leaves no row of dataset d: its first row is"
    ):
        keep_rows(levels, {"level": 3}, "d")


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ValueError, match="Dataset file .*gone.jsonl does not exist"):
        load_splits(str(tmp_path / "gone.jsonl"))
    (tmp_path / "broken.jsonl").write_text(json.dumps(ROWS[0]) + "\n{broken")
    with pytest.raises(ValueError, match="broken.jsonl could not be loaded: "):
        load_splits(str(tmp_path / "broken.jsonl"))
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(ValueError, match="notes.txt could not be loaded: its extension is none of .jsonl"):
        load_splits(str(tmp_path / "notes.txt"))


def test_missing_split(rows):
    with pytest.raises(ValueError, match="no split 'test': set `dataset_test_split` to one of train"):
        pick_split(DatasetDict({"train": rows}), "test", "dataset_test_split", "d")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.jsonl",
            '{"prompt": "café"}\n'.encode("latin-1"),
            r"it is not UTF-8 \(.*\): convert it, .* `iconv -f latin1",
        ),
        ("a.csv", "prompt\ncafé\n".encode("latin-1"), r"it is not UTF-8 \(.*\): convert it"),
        ("a.jsonl", b"", "a.jsonl could not be loaded: it is empty.$"),
        ("a.csv", b"", "it is empty.$"),
        ("a.parquet", b"", "it is empty.$"),
        ("a.jsonl", b"\n\n", "it holds no rows.$"),
        ("a.json", b"[]", "it holds no rows.$"),
    ],
)
def test_files_that_hold_nothing_readable(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        load_splits(str(tmp_path / name))


def test_words_of_a_table_stay_words(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,answer\na,NA\nb,None\nc,\nd,7\n")
    assert load_splits(str(tmp_path / "rows.csv"))["train"]["answer"][:] == ["NA", "None", "", "7"]
