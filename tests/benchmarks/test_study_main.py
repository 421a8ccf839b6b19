"""benchmarks/study/__main__.py: what is run, in which order, and what is kept."""

import time
from argparse import Namespace

import pytest
from study_records import ARMS, make_scores

from benchmarks.study import __main__ as study
from benchmarks.study.records import read_records
from benchmarks.study.run import Arguments


def test_the_two_best_rates_get_the_second_seed(tmp_path, monkeypatch):
    ran = []

    def run_process(arguments, folder):
        ran.append((arguments.arm, arguments.learning_rate, arguments.seed))
        # GRPO is best with the middle rates, OPEFO with the high ones
        right = {"grpo": {1.0: 5, 2.0: 9, 3.0: 8, 4.0: 1}, "opefo": {1.0: 1, 2.0: 2, 3.0: 3, 4.0: 4}}
        (record,) = make_scores("grpo", arguments.learning_rate, s1=right[arguments.arm][arguments.learning_rate])
        return {**record, **arguments._asdict()}

    monkeypatch.setattr(study, "run_process", run_process)
    options = Namespace(task="countdown", learning_rates=[1.0, 2.0, 3.0, 4.0], seeds=None, steps=300, jobs=2)
    study.tune(["grpo", "opefo"], options, tmp_path)
    everything = [(arm, rate, 101) for arm in ("grpo", "opefo") for rate in options.learning_rates]
    assert sorted(run for run in ran if run[2] == 101) == everything
    assert sorted(run for run in ran if run[2] == 102) == [
        ("grpo", 2.0, 102),
        ("grpo", 3.0, 102),
        ("opefo", 3.0, 102),
        ("opefo", 4.0, 102),
    ]


def test_what_is_recorded_is_not_run_again(tmp_path, monkeypatch):
    ran = []

    def run_process(arguments, folder):
        ran.append(arguments)
        return {**arguments._asdict(), "tests": {}}

    monkeypatch.setattr(study, "run_process", run_process)
    first = [Arguments("countdown", "grpo", seed, 1e-4, 5, "test") for seed in (1, 2)]
    study.complete(first, tmp_path, jobs=2)
    other_rate = first[0]._replace(learning_rate=2e-4)
    study.complete([*first, other_rate], tmp_path, jobs=2)
    assert sorted(ran) == sorted([*first, other_rate])
    assert len(read_records(tmp_path / "records.jsonl")) == 3


def test_a_failure_stops_what_has_not_begun_and_keeps_what_has(tmp_path, monkeypatch):
    ran = []

    def run_process(arguments, folder):
        ran.append(arguments.seed)
        if arguments.seed == 1:
            raise RuntimeError("failed")
        time.sleep(0.1)
        return arguments._asdict()

    monkeypatch.setattr(study, "run_process", run_process)
    with pytest.raises(RuntimeError, match="failed"):
        study.complete([Arguments("countdown", "grpo", seed, 1e-4, 5, "test") for seed in range(20)], tmp_path, jobs=2)
    assert len(ran) < 10
    assert {record["seed"] for record in read_records(tmp_path / "records.jsonl")} == {*ran} - {1}


def test_plan_runs_each_arm_with_its_own_seeds():
    arms = {name: ARMS[name] for name in ("base", "grpo", "stare")}
    plan = study.plan_tests(arms, "countdown", 300, {"grpo": 1e-4, "stare": 2e-4}, None)
    assert [(run.arm, run.seed, run.steps, run.learning_rate) for run in plan] == [
        ("base", 1, 0, 0.0),
        ("grpo", 1, 300, 1e-4),
        ("stare", 1, 300, 2e-4),
        ("grpo", 2, 300, 1e-4),
        ("stare", 2, 300, 2e-4),
        ("grpo", 3, 300, 1e-4),
        ("stare", 3, 300, 2e-4),
        ("grpo", 4, 300, 1e-4),
        ("grpo", 5, 300, 1e-4),
    ]
    with pytest.raises(ValueError, match="No learning rate has been chosen for grpo"):
        study.plan_tests(arms, "countdown", 300, {"stare": 1e-4}, None)
