"""The benchmarks of the math reward: judged answers counted, golds changed, and golds that are neighbours."""

import json
import random
import sys

import pytest

from benchmarks.math_reward import changed, judged


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(main, monkeypatch, capsys, *options):
    monkeypatch.setattr(sys, "argv", ["benchmark", *options])
    main()
    return capsys.readouterr().out.splitlines()


def test_judged_answers_are_counted(tmp_path, monkeypatch, capsys):
    rows = [
        {"gold": "5", "completion": "Answer: 5", "reward": 1.0, "kind": "a"},
        {"gold": "5", "completion": "Answer: 6", "reward": 0.0, "kind": "a"},
        {"gold": "5", "completion": "It is 5.", "reward": 1.0, "kind": "b"},
        {"gold": "5", "answer": "10/2", "judged": 0},
    ]
    out = run(judged.main, monkeypatch, capsys, write(tmp_path / "rows.jsonl", rows), "--list")
    assert out[0] == "b: 0.0, judged 1.0: '5' / None"
    assert out[1] == "rows: 1.0, judged 0.0: '5' / '10/2'"
    assert out[4:8] == [
        "| a | 1 | 0 | 1 | 0 |",
        "| b | 1 | 1 | 0 | 0 |",
        "| rows | 0 | 0 | 1 | 1 |",
        "| all | 2 | 1 | 2 | 1 |",
    ]
    assert out[-1].startswith("4 pairs in") and "agreement 50.00%" in out[-1]


def test_math_verify_by_itself(tmp_path, monkeypatch, capsys):
    rows = [{"gold": "f(2)=3", "answer": "f(2)=4", "judged": 0}, {"gold": "", "answer": "5", "judged": 0}]
    out = run(judged.main, monkeypatch, capsys, write(tmp_path / "rows.jsonl", rows), "--math_verify")
    assert "| all | 0 | 0 | 2 | 1 |" in out


def test_a_line_without_a_judgement(tmp_path):
    with pytest.raises(ValueError, match="line 1, has no `gold`, no `completion` or `answer`, or no judgement"):
        judged.read_judged(tmp_path / write(tmp_path / "rows.jsonl", [{"gold": "5", "answer": "5"}]))


def test_one_thing_is_changed():
    gold = r"-3x + \frac{1}{2} \text{ feet}"
    changes = dict(changed.changed(gold, random.Random(0)))
    assert set(changes) == {"digit", "sign", "letter", "unit"} and gold not in changes.values()
    assert changes["unit"] == r"-3x + \frac{1}{2} \text{ zzz}"
    assert r"\frac" in changes["letter"] and "x" not in changes["letter"].replace("text", "")
    assert dict(changed.changed("7", random.Random(0)))["sign"] == "-7"


def test_neighbours():
    assert changed.neighbours(["12", "123", "13", "45"]) == [("12", "123"), ("12", "13"), ("123", "13")]


def test_changed_golds(tmp_path, monkeypatch, capsys):
    file = write(
        tmp_path / "rows.jsonl", [{"gold": "0"}, {"answer": "5"}, {"final_answer": ["0.50"]}, {"answer": "0.5"}]
    )
    out = run(changed.main, monkeypatch, capsys, file)
    assert out[0] == "sign: '0' / '-0'" and "digit: 0 of 4 are equal (seed 0)" in out
    out = run(changed.main, monkeypatch, capsys, file, "--pairs")
    assert out == ["pair: '0.5' / '0.50'", "pair: 1 of 2 are equal (seed 0)"]
