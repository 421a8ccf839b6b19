"""opefo_trl/evaluation/completions.py: what is drawn, kept and gone on with."""

import pytest
from datasets import load_dataset
from evaluations import answer_with, make_folder, run

from opefo_trl.evaluation.sampling import TransformersSampler


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return make_folder(tmp_path, monkeypatch)


def test_interrupted_and_resumed_equals_uninterrupted(folder, monkeypatch, capsys):
    assert run("whole") == 0
    draw, asked = TransformersSampler.draw, []

    def stop_in_the_third(self, prompts, num_samples, seed):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(seed)
        return draw(self, prompts, num_samples, seed)

    monkeypatch.setattr(TransformersSampler, "draw", stop_in_the_third)
    assert run("out") == 130 and "Run the same command again to continue" in capsys.readouterr().err
    with (folder / "out" / "completions-0.jsonl").open("a") as file:
        file.write('{"benchmark": "mine", "prob')  # killed while it wrote

    def go_on(self, prompts, num_samples, seed):
        asked.append(seed)
        return draw(self, prompts, num_samples, seed)

    monkeypatch.setattr(TransformersSampler, "draw", go_on)
    assert run("out") == 0
    assert len(asked) == len(set(asked)) == 5, "no problem is asked twice"
    assert (folder / "out" / "results.json").read_text() == (folder / "whole" / "results.json").read_text()
    assert (folder / "out" / "completions-0.jsonl").read_text() == (
        folder / "whole" / "completions-0.jsonl"
    ).read_text()
    monkeypatch.setattr(TransformersSampler, "__init__", lambda *args: pytest.fail("a finished one needs no model"))
    assert run("out") == 0


def test_template_of_the_training(folder, monkeypatch):
    answer_with(monkeypatch, lambda prompt: ["1"] * 4)
    assert run("out", "--prompt_template", "e{prompt}h") == 0
    rows = load_dataset("parquet", data_files="out/completions.parquet", split="train")
    assert rows[0]["prompt"] == "ea1h"
