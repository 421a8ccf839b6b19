"""opefo_trl/evaluation/results.py: how completions are scored, and what is kept of that."""

import json

import pytest
from datasets import load_dataset
from evaluations import GOLD, answer_with, make_folder, read, run

from opefo_trl.evaluation.scores import summarize


NEAR = {"a1": "1.01", "b22": "2", "cc": "3", "d": "4.31", "ee": "9.5", "f": "0.51", "gg1": "-7"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return make_folder(tmp_path, monkeypatch)


def test_results_can_be_recomputed(folder, capsys):
    assert run("out") == 0
    results = read("out")
    for name, (problems, k) in {"mine": (7, 4), "short": (3, 1)}.items():
        benchmark = results["benchmarks"][name]
        assert (benchmark["scores"]["problems"], benchmark["scores"]["k"]) == (problems, k)
        again = summarize(benchmark["problems"])
        assert json.dumps(again) == json.dumps(benchmark["scores"])
    assert (
        results["settings"]["top_p"] == 0.7 and results["settings"]["k"] == [4, 1] and "torch" in results["versions"]
    )
    rows = load_dataset("parquet", data_files="out/completions.parquet", split="train")
    assert len(rows) == 7 * 4 + 3
    assert {row["length"] for row in rows if row["truncated"]} == {12}
    assert any(not row["truncated"] and row["length"] < 12 for row in rows)
    golds = [row["gold"] for row in rows if row["benchmark"] == "mine" and row["sample"] == 0]
    assert golds == ["1", "22", "2, 3", "4.2", "9.6", r"\frac{1}{2}", "7"]
    table = capsys.readouterr().out
    assert "| mine | 7 | 4 | 0.0 ± 0.0 | 1: 0.0, 2: 0.0, 4: 0.0 |" in table and "| average |" in table


def test_golds_are_right_and_near_misses_wrong(folder, monkeypatch):
    def answers(problem):
        within = [r"\boxed{4.3\%}"] if problem == "d" else ["none"]
        return [rf"No \boxed{{0}}: \boxed{{{GOLD[problem]}}}", rf"\boxed{{{NEAR[problem]}}}", *within, r"\boxed{"]

    answer_with(monkeypatch, answers)
    assert run("out") == 0
    problems = read("out")["benchmarks"]["mine"]["problems"]
    assert [problem["correct"] for problem in problems] == [
        [True, False, problem["problem"] == "d", False] for problem in problems
    ]
    scores = read("out")["benchmarks"]["mine"]["scores"]
    assert scores["avg@k"] == pytest.approx((6 / 4 + 2 / 4) / 7) and scores["pass@4"] == 1.0
    assert scores["distinct"] == pytest.approx((6 * 2 / 4 + 3 / 4) / 7)
