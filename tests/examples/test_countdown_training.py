"""How the demo launches its arms, and what it says when one fails."""

import sys
from pathlib import Path

import pytest

from examples.countdown import training


@pytest.fixture
def fake_opefo(tmp_path, monkeypatch):
    """Puts a script called `opefo` beside a Python that the demo takes for its own."""

    def write(script: str) -> None:
        command = tmp_path / "opefo"
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(Path(command).with_name("python")))

    return write


def test_arms_are_trained_by_the_command(tmp_path, fake_opefo):
    fake_opefo('echo "$OMP_NUM_THREADS: $@"')
    runs = [training.Run(arm, 7, tmp_path / "runs" / f"{arm}-seed7") for arm in training.LABELS]
    training.train(runs, tmp_path, steps=2)
    for run in runs:
        assert run.log.read_text() == (
            f"1: train --config {training.config_of(run.arm)} --output_dir {run.folder} "
            f"--model_name_or_path {tmp_path}/base --dataset_name {tmp_path}/data --seed 7 --max_steps 2\n"
        )


def test_failing_arm_shows_the_end_of_its_log(tmp_path, fake_opefo):
    fake_opefo("seq 100; echo 'the reason' >&2; exit 3")
    run = training.Run("grpo", 1, tmp_path / "runs" / "grpo-seed1")
    with pytest.raises(RuntimeError) as failure:
        training.train([run], tmp_path, steps=2)
    assert str(failure.value).splitlines() == [
        f"Training grpo with seed 1 failed; see {run.log}, which ends:",
        *map(str, range(101 - training.LOG_LINES + 1, 101)),
        "the reason",
    ]


def test_missing_command_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(RuntimeError, match="^The command `opefo` is missing beside this Python; install it with "):
        training.train([training.Run("grpo", 1, tmp_path)], tmp_path, steps=1)
