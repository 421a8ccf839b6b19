"""`opefo evaluate`: its processes, and what it refuses."""

import json
from pathlib import Path

import pytest
from evaluations import OPTIONS, ROWS, answer_with, make_folder, read, refuse, run

from opefo_trl.commands import evaluate


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return make_folder(tmp_path, monkeypatch)


def test_two_processes_equal_one(folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(evaluate.__file__).parents[2]))
    assert run("one") == 0
    assert run("two", "--num_processes", "2") == 0
    shares = [(folder / "two" / f"completions-{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted((folder / "one" / "completions-0.jsonl").read_text().splitlines())
    assert len(shares[0]) == 3 and len(shares[1]) == 2
    assert read("two")["benchmarks"] == read("one")["benchmarks"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--output o", "Both `--model` and `--output` are needed"),
        ("--model m", "Both `--model` and `--output` are needed"),
        ("--model m --output o --benchmarks a=mine.jsonl a=short.jsonl", "names a benchmark twice"),
        ("--model m --output o --benchmarks a=mine.jsonl --k 1 2", "`--k` holds 2 numbers for 1 benchmarks"),
        (
            "--model m --output o --benchmarks a=mine.jsonl --k 0",
            "`--k`, `--max_tokens` and `--num_processes` must be",
        ),
        ("--model m --output o --benchmarks a=mine.jsonl --top_p 0", "`--top_p` in (0, 1]"),
        ("--model ./m --output o --benchmarks a=mine.jsonl", "./m"),
        ("--model model --output o --benchmarks a=mine.jsonl --prompt_template x", "`prompt_template` must be one of"),
    ],
)
def test_refusals(folder, capsys, options, sentence):
    assert sentence in refuse(capsys, *options.split())


def test_other_settings_in_the_same_folder(folder, monkeypatch, capsys):
    answer_with(monkeypatch, lambda problem: ["1"] * 4)
    assert run("out") == 0
    before = (folder / "out" / "results.json").read_text()
    message = refuse(capsys, *OPTIONS, "--output", "out", "--temperature", "0.5", "--seed", "3")
    assert "out holds completions that were drawn with other settings (temperature, seed): use" in message
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, ROWS[1:])))
    assert "drawn with other settings (problems): use another folder" in refuse(capsys, *OPTIONS, "--output", "out")
    assert (folder / "out" / "results.json").read_text() == before
    (folder / "out" / "settings.json").write_text("{")
    assert "settings.json is broken" in refuse(capsys, *OPTIONS, "--output", "out")


def test_another_policy_scores_the_same_completions(folder, monkeypatch, capsys):
    answer_with(monkeypatch, lambda problem: [r"\boxed{1.04}"] * 4)
    assert run("out") == 0
    assert "mine: `math_reward` can parse all 7 gold answers." in capsys.readouterr().out
    assert read("out")["benchmarks"]["mine"]["problems"][0]["correct"] == [False] * 4
    answer_with(monkeypatch, lambda problem: pytest.fail("nothing is drawn again"))
    assert run("out", "--math_reward_tolerance", "0.05") == 0
    results = read("out")
    assert results["benchmarks"]["mine"]["problems"][0]["correct"] == [True] * 4
    assert results["settings"]["math_reward"] == {"tolerance": 0.05, "units": "optional", "several_golds": "all"}
    message = refuse(capsys, *OPTIONS, "--output", "out", "--math_reward_several_golds", "some")
    assert "`math_reward_several_golds` is 'some': set it to 'all' or 'any'." in message


def test_a_model_that_gives_no_answer(folder, monkeypatch, capsys):
    answer_with(monkeypatch, lambda problem: ["So it is 1."] * 4)
    assert run("out") == 0
    out = capsys.readouterr().out
    assert "No sample of mine gave an answer, so its scores mean nothing: check `--prompt_template`" in out
    assert evaluate.main(["--compare", "out", "out"]) == 0
    assert capsys.readouterr().out.count("No sample of mine in out gave an answer") == 2
