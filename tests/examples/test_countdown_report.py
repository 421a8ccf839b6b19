"""What the demo says of its runs: its table, its sentences and its picture."""

import json

import pytest
from matplotlib.axes import Axes

from examples.countdown import report
from examples.countdown.demo import ARMS
from examples.countdown.training import Run
from opefo_trl.plotting.panels import ENTROPY


def test_table_gives_mean_and_deviation_over_seeds():
    table = report.format_table({"base": [{"T=1 pass@1": 0.5}], "grpo": [{"λ": 0.1}, {"λ": 0.3}]})
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
    text = report.describe("GRPO", [row, row], {"T=1 pass@1": 0.05, "T=1 pass@16": 0.4})
    assert text.startswith("GRPO solves") and compared in text
    assert text.endswith(
        "the base model (40). A single answer is right in 8.0% of the cases (base model: 5.0%). Entropy went from "
        "0.80 to 0.40 nats."
    )


def test_picture_has_curves_and_bars(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report.drawing, "draw_panel", lambda *args: drawn.append(args))
    runs = [Run(arm, seed, tmp_path / f"{arm}-seed{seed}") for seed in (1, 2) for arm in ARMS]
    for run in runs:
        run.folder.mkdir()
        log = [{"step": 1, "entropy": run.seed + 0.5}]
        (run.folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    row = {f"T={temperature:g} {score}": 0.4 for temperature in report.TEMPERATURES for score in ("pass@1", "pass@16")}
    measured = {"base": [row], **{arm: [row, row] for arm in ARMS}}
    heights = []
    bar = Axes.bar
    monkeypatch.setattr(Axes, "bar", lambda self, x, y, *a, **k: heights.append(y) or bar(self, x, y, *a, **k))
    report.draw(runs, measured, tmp_path / "demo.png")
    [(_, panel, groups)] = drawn
    assert panel is ENTROPY and list(groups) == ["GRPO", "OPEFO with a target"]
    for arm, group in zip(ARMS, groups.values(), strict=True):
        assert [run.name for run in group] == [str(tmp_path / f"{arm}-seed{seed}") for seed in (1, 2)]
        assert [run.history["entropy"] for run in group] == [{1: 1.5}, {1: 2.5}]
    assert heights == [[0.4, 0.4]] * 6 and (tmp_path / "demo.png").stat().st_size > 10_000
