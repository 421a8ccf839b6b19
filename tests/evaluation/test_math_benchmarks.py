"""opefo_trl/evaluation/math_benchmarks.py: benchmarks that cannot be read are refused."""

import pytest
from evaluations import make_folder, refuse


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return make_folder(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--model m --output o --benchmarks nope", "Benchmark 'nope' is unknown: use aime24, aime25"),
        ("--model m --output o --benchmarks a=gone.jsonl", "Dataset file gone.jsonl does not exist"),
        (
            "--model model --output o --benchmarks a=bad.jsonl",
            "Row 0 of benchmark a has an answer that cannot be read",
        ),
        ("--model model --output o --benchmarks a=no.jsonl", "Row 0 of benchmark a has no problem"),
    ],
)
def test_benchmarks_that_are_refused(folder, capsys, options, sentence):
    (folder / "bad.jsonl").write_text('{"problem": "a", "answer": ""}')
    (folder / "no.jsonl").write_text('{"text": "a", "answer": "1"}')
    assert sentence in refuse(capsys, *options.split())
