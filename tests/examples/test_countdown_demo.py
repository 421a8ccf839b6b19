"""The demo around the example: how it launches the arms, what it says when one fails, its table and its picture."""

import json
import sys
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from examples.countdown import demo
from opefo_trl.plotting.panels import ENTROPY


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
    table = demo.format_table({"base": [{"T=1 pass@1": 0.5}], "grpo": [{"λ": 0.1}, {"λ": 0.3}]})
    header, rule, base, arm = table.split("\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, base, arm)]
    rows = [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
    assert {name: cell for name, cell in rows[0].items() if cell} == {"arm": "base", "T=1 pass@1": "0.500"}
    assert {name: cell for name, cell in rows[1].items() if cell} == {"arm": "grpo", "λ": "0.20 ± 0.14"}
    assert len(header) == len(rule) == len(base) == len(arm)


@pytest.mark.parametrize(
    ("solved", "compared"),
    [
        (0.2, "solves 20 of 100 unseen puzzles with 16 answers, 20 fewer than"),
        (0.42, "about as many as"),
        (0.5, "10 more"),
    ],
)
def test_sentences_say_what_came_out(solved, compared):
    row = {"T=1 pass@1": 0.08, "T=1 pass@16": solved, "entropy, start": 0.8, "entropy, end": 0.4}
    text = demo.describe("GRPO", [row, row], {"T=1 pass@1": 0.05, "T=1 pass@16": 0.4})
    assert text.startswith("GRPO solves") and compared in text
    assert text.endswith(
        "the base model (40). A single answer is right in 8.0% of the cases (base model: 5.0%). Entropy went from "
        "0.80 to 0.40 nats."
    )


def test_picture_has_curves_and_bars(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(demo.drawing, "draw_panel", lambda *args: drawn.append(args))
    runs = [demo.Run(arm, seed, tmp_path / f"{arm}-seed{seed}") for seed in (1, 2) for arm in demo.ARMS]
    for run in runs:
        run.folder.mkdir()
        log = [{"step": 1, "entropy": run.seed + 0.5}]
        (run.folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    row = {f"T={temperature:g} {score}": 0.4 for temperature in demo.TEMPERATURES for score in ("pass@1", "pass@16")}
    measured = {"base": [row], **{arm: [row, row] for arm in demo.ARMS}}
    heights = []
    bar = Axes.bar
    monkeypatch.setattr(Axes, "bar", lambda self, x, y, *a, **k: heights.append(y) or bar(self, x, y, *a, **k))
    demo.draw(runs, measured, tmp_path / "demo.png")
    [(_, panel, groups)] = drawn
    assert panel is ENTROPY and list(groups) == ["GRPO", "OPEFO with a target"]
    for arm, group in zip(demo.ARMS, groups.values(), strict=True):
        assert [run.name for run in group] == [str(tmp_path / f"{arm}-seed{seed}") for seed in (1, 2)]
        assert [run.history["entropy"] for run in group] == [{1: 1.5}, {1: 2.5}]
    assert heights == [[0.4, 0.4]] * 6 and (tmp_path / "demo.png").stat().st_size > 10_000
