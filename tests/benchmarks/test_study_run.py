"""benchmarks/study/run.py: whole runs, small ones, and what their records hold."""

import dataclasses
import json

import pytest
from transformers import set_seed

from benchmarks.study import run as study_run
from benchmarks.study.run import Arguments, Draw, run
from benchmarks.study.tasks import TASKS
from examples.countdown.prepare import build_model, build_tokenizer


STEPS = 3


def ones_reward(completions, **kwargs):
    return [float("1" in completion[:4]) for completion in completions]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared task, whose model is not taught anything."""
    folder = tmp_path_factory.mktemp("task")
    set_seed(0)
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    (folder / "data").mkdir()
    rows = [json.dumps({"prompt": f"1 2 {i}>7=", "numbers": [1, 2, i], "target": 7}) + "\n" for i in range(400)]
    (folder / "data" / "train.jsonl").write_text("".join(rows[:64]))
    (folder / "data" / "test.jsonl").write_text("".join(rows))
    return folder


@pytest.fixture
def record_of(folder, monkeypatch):
    task = dataclasses.replace(TASKS["countdown"], reward=ones_reward, settings={"max_completion_length": 6})
    monkeypatch.setitem(study_run.TASKS, "countdown", task)
    monkeypatch.setitem(study_run.TESTS, "test", {"hot": Draw(1.0, 1.0, 4)})

    def make(arm, seed=1):
        return run(Arguments("countdown", arm, seed, 1e-3, 0 if arm == "base" else STEPS, "test"), folder)

    return make


def test_a_run_is_reproducible_and_its_first_rollout_is_that_of_every_arm(record_of):
    grpo = record_of("grpo")
    again = record_of("grpo")
    assert (again["curves"], again["tests"]) == (grpo["curves"], grpo["tests"])
    assert {len(curve) for curve in grpo["curves"].values()} == {STEPS}
    assert 0.0 < grpo["curves"]["reward"][0] < 1.0
    assert grpo["curves"]["coefficient"] == [0.0] * STEPS and grpo["changed_share"] is None
    opefo, repo_r, updates_8 = record_of("opefo"), record_of("repo_r"), record_of("grpo_8")
    for other in (opefo, repo_r, updates_8):
        assert other["curves"]["reward"][0] == grpo["curves"]["reward"][0]
        assert {len(curve) for curve in other["curves"].values()} == {STEPS}
        assert other["curves"]["entropy"][1:] != grpo["curves"]["entropy"][1:]
    assert opefo["curves"]["entropy"][0] == repo_r["curves"]["entropy"][0] == grpo["curves"]["entropy"][0]
    assert opefo["curves"]["coefficient"][0] != 0.0
    assert repo_r["changed_share"] == 1.0
    assert record_of("grpo", seed=2)["curves"]["entropy"][0] != grpo["curves"]["entropy"][0]


def test_the_record_counts_right_and_different_answers(record_of, folder):
    record = record_of("base")
    assert "curves" not in record and json.loads(json.dumps(record)) == record
    hot = record["tests"]["hot"]
    assert len(hot["correct"]) == 200 and hot["samples"] == 4
    # An untaught model hardly ever says the same twice, and "1" is one of 21 symbols: in four 1 − (20/21)⁴ = 18 %
    assert 3.5 < hot["distinct"] <= 4.0
    assert 0.05 < sum(hot["correct"]) / 800 < 0.4
    assert hot["distinct_correct"] <= sum(hot["correct"]) / 200
