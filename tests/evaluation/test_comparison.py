"""opefo_trl/evaluation/comparison.py: two evaluations side by side."""

import json

import pytest
from evaluations import GOLD, ROWS, answer_with, make_folder, refuse, run

from opefo_trl.commands import cli


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return make_folder(tmp_path, monkeypatch)


def test_comparison(folder, monkeypatch, capsys):
    answer_with(monkeypatch, lambda problem: [r"\boxed{1}", "", "", ""])
    assert run("first") == 0
    answer_with(monkeypatch, lambda problem: [rf"\boxed{{{GOLD[problem]}}}"] * 4)
    assert run("second") == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "--compare", "first", "second"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| mine | 3.6 | 100.0 | +96.4 | +8")
    assert lines[3].startswith("| short | 33.3 | 100.0 | +66.7 |") and lines[4].startswith(
        "| average | 18.5 | 100.0 |"
    )
    assert cli.main(["evaluate", "--compare", "first", "first"]) == 0
    assert "| mine | 3.6 | 3.6 | +0.0 | +0.0 to +0.0 |" in capsys.readouterr().out


def test_comparison_of_different_problems(folder, monkeypatch, capsys):
    answer_with(monkeypatch, lambda problem: ["1"] * 4)
    assert run("first") == 0
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, ROWS[1:])))
    assert run("second") == 0
    assert "hold different problems of mine" in refuse(capsys, "--compare", "first", "second")
    assert "gone is not a result" in refuse(capsys, "--compare", "first", "gone")
