"""The benchmark for a GPU, in miniature on a CPU: it measures, it trains, and it does nothing twice."""

import json
import sys

import pytest
import torch
from conftest import make_model, make_tokenizer

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import accuracy


def test_errors_are_those_of_the_dtype():
    records = {record["case"]["dtype"]: record for record in accuracy.run(torch.device("cpu"), quick=True)}
    assert list(records) == ["float32", "bfloat16", "float16"]
    for field in ("logps", "entropies", "sensitivities"):
        errors = {name: record["errors"]["OPEFO"][field] for name, record in records.items()}
        largest = records["float32"]["largest"][field]
        assert 0 < errors["float32"] < 1e-5 * largest
        assert 10 * errors["float32"] < errors["bfloat16"] < 0.05 * largest
        for record in records.values():
            assert record["errors"]["OPEFO"][field] < 2 * record["errors"]["full logits"][field] + 1e-6
    text = gpu.describe_accuracy(list(records.values()))
    assert text.count("| OPEFO |") == 3 and text.count("| full logits |") == 3


def test_a_part_that_is_done_is_read(tmp_path):
    path = tmp_path / "part.jsonl"
    assert gpu.complete(path, lambda: [{"a": 1}, {"a": 2}]) == [{"a": 1}, {"a": 2}]
    assert gpu.complete(path, lambda: pytest.fail("not again")) == [{"a": 1}, {"a": 2}]


def test_a_missing_model_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu", "--data", str(tmp_path), "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="are missing: run `python -m examples.smollm2.prepare --output"):
        gpu.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # needs an extra, and a minute
def test_everything_in_miniature(tmp_path, monkeypatch, capsys):
    from examples.reasoning_gym.prepare import prepare
    from examples.smollm2.prepare import SUMS, show_answers

    prepare({"chain_sum": SUMS}, 40, 0, tmp_path / "data")
    for split in ("train", "test"):
        show_answers(tmp_path / "data" / f"{split}.jsonl")
    model = make_model()
    model.config.max_position_embeddings = 2048
    model.save_pretrained(tmp_path / "base")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(tmp_path / "base")
    out = tmp_path / "out"
    words = ["gpu", "--data", str(tmp_path), "--output", str(out), "--device", "cpu", "--minutes", "60"]
    monkeypatch.setattr(sys, "argv", words)
    gpu.main()
    report = capsys.readouterr().out
    for head in ("Measuring pass against float64", "Measuring pass, vocabulary", "Optimizer step", "Training SmolLM2"):
        assert head in report
    records = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    assert [record["arm"] for record in records] == ["base", "grpo", "grpo_high", "opefo_high"]
    assert [record["steps"] for record in records[1:]] == [2, 2, 2]
    first = {record["arm"]: record["curves"]["entropy"][0] for record in records[1:]}
    assert len(set(first.values())) == 1, "all arms begin with the same rollouts"
    assert (out / "training.png").stat().st_size > 10_000
    before = {path: path.read_bytes() for path in out.glob("*.jsonl")}
    gpu.main()
    assert before == {path: path.read_bytes() for path in out.glob("*.jsonl")}
