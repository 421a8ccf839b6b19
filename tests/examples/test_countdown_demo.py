"""The demo around the example: how it launches the arms, what it says when one fails, its table and its picture."""

import json
import sys
from pathlib import Path

import pytest

from examples.countdown import demo


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
    runs = [demo.Run(arm, 7, tmp_path / "runs" / f"{arm}-seed7") for arm in demo.ARMS]
    demo.train(runs, tmp_path, steps=2)
    for run in runs:
        assert run.log.read_text() == (
            f"1: train --config {demo.config_of(run.arm)} --output_dir {run.folder} "
            f"--model_name_or_path {tmp_path}/base --dataset_name {tmp_path}/data --seed 7 --max_steps 2\n"
        )


def test_failing_arm_shows_the_end_of_its_log(tmp_path, fake_opefo):
    fake_opefo("seq 100; echo 'the reason' >&2; exit 3")
    run = demo.Run("grpo", 1, tmp_path / "runs" / "grpo-seed1")
    with pytest.raises(RuntimeError) as failure:
        demo.train([run], tmp_path, steps=2)
    assert str(failure.value).splitlines() == [
        f"Training grpo with seed 1 failed; see {run.log}, which ends:",
        *map(str, range(101 - demo.LOG_LINES + 1, 101)),
        "the reason",
    ]


def test_missing_command_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(RuntimeError, match="^The command `opefo` is missing beside this Python; install it with "):
        demo.train([demo.Run("grpo", 1, tmp_path)], tmp_path, steps=1)


def test_table_gives_mean_and_deviation_over_seeds():
    table = demo.format_table({"base": [{"pass@1": 0.5}], "grpo": [{"λ": 0.1}, {"λ": 0.3}]})
    header, rule, base, arm = table.split("\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, base, arm)]
    rows = [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
    assert {name: cell for name, cell in rows[0].items() if cell} == {"arm": "base", "pass@1": "0.500"}
    assert {name: cell for name, cell in rows[1].items() if cell} == {"arm": "grpo", "λ": "0.200 ± 0.141"}
    assert len(header) == len(rule) == len(base) == len(arm)


def test_picture_has_a_line_per_arm_over_its_seeds(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(demo.drawing, "draw", lambda *args: drawn.append(args))
    runs = [demo.Run(arm, seed, tmp_path / f"{arm}-seed{seed}") for seed in (1, 2) for arm in demo.ARMS]
    for run in runs:
        run.folder.mkdir()
        log = [{"step": 1, "entropy": run.seed + 0.5}]
        (run.folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    demo.draw(runs, tmp_path / "entropy.png")
    [(groups, path, panels)] = drawn
    assert list(groups) == ["GRPO (strictly on-policy)", "OPEFO", "OPEFO with target"]
    for arm, group in zip(demo.ARMS, groups.values(), strict=True):
        assert [run.name for run in group] == [str(tmp_path / f"{arm}-seed{seed}") for seed in (1, 2)]
        assert [run.history["entropy"] for run in group] == [{1: 1.5}, {1: 2.5}]
    assert path == tmp_path / "entropy.png"
    assert [panel.metrics for panel in panels] == [("entropy",), ("reward",), ("entropy_flow/coefficient",)]
