"""benchmarks/study/prediction/__main__.py: from arguments to files."""

import re
import sys
from pathlib import Path

import pytest
from prediction_policies import make_records

from benchmarks.study.prediction import __main__ as command


def test_arguments_reach_the_study_and_its_report_is_written(tmp_path, monkeypatch, capsys):
    seen = []

    def study(*args):
        seen.append(args)
        return make_records()

    monkeypatch.setattr(command, "study", study)
    arguments = ["--output_dir", str(tmp_path), "--seeds", "4", "5", "--steps", "2", "1", "--sizes", "1", "3"]
    monkeypatch.setattr(sys, "argv", ["prediction", *arguments])
    command.main()
    assert seen == [(Path("outputs/countdown"), tmp_path, [4, 5], {1, 2}, [1.0, 3.0])]
    text = (tmp_path / "tables.md").read_text()
    assert text.startswith("By step:\n\n| optimizer | prediction | r, × 0.1 |")
    made_by = re.escape(f"Made by `python -m benchmarks.study.prediction {' '.join(arguments)}` in ")
    assert re.search(made_by + r"\d+ seconds", text)
    assert capsys.readouterr().out == f"\n{text}"
    assert {path.name for path in tmp_path.iterdir()} == {"tables.md", "scatter.png", "parts.png"}


def test_the_trainers_own_step_must_be_among_the_sizes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prediction", "--sizes", "0.1", "3"])
    with pytest.raises(SystemExit):
        command.main()
    assert "--sizes must contain 1, the step that the trainer takes" in capsys.readouterr().err
