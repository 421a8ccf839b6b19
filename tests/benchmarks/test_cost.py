"""The benchmarks of cost: their arithmetic by hand, and that they run."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from conftest import COMPILED

from benchmarks.cost.__main__ import report
from benchmarks.cost.growth import on_paper
from benchmarks.cost.measure import Cost, compare, peak_memory
from benchmarks.cost.projection import Rates, floor_seconds
from benchmarks.cost.step import replay


CPU = torch.device("cpu")


def test_ratio_is_the_median_of_the_rounds_own_ratios():
    # The machine halves its speed in the third round: 2, 1.5 and 3 times as long, whatever the round
    assert Cost([2.0, 3.0, 12.0]).ratio(Cost([1.0, 2.0, 4.0])) == 2.0
    assert Cost([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).quantiles == pytest.approx([2.0, 3.5, 5.0])


def test_peak_memory():
    with peak_memory(CPU) as peak:
        first = torch.empty(1000)
        second = torch.empty(2000)
        del first
        third = torch.empty(500)
    assert (peak.bytes, peak.allocations) == (4 * 3000, 3)
    del second, third


def test_functions_run_in_turn():
    calls = []
    costs = compare({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, CPU, rounds=2)
    assert "".join(calls) == "aabb" + "abab"
    assert [len(cost.seconds) for cost in costs.values()] == [2, 2]


def test_floor():
    """5,000 tokens are two rows of tiles, so the weight is read twice."""
    products, moves = floor_seconds(tokens=5000, hidden=10, vocab=100, itemsize=2, rates=Rates(flops=1e6, bytes=1e3))
    assert products == 2 * 5000 * 10 * 100 / 1e6
    assert moves == 2 * (5000 * 10 + 2 * 10 * 100 + 2 * 5000 * 100) / 1e3


def test_reduction_on_paper():
    assert on_paper(2, 1.0) == 2 and on_paper(8, 1.0) == 6 and on_paper(1024, 0.5) == 10


def test_replayed_rollouts_depend_on_the_step_alone():
    class Trainer:
        class state:
            global_step = 3

    rollout = replay(prompt_tokens=5, completion_tokens=8, vocab_size=50)
    first, second = rollout(["a"] * 4, Trainer), rollout(["b"] * 4, Trainer)
    assert first == second
    assert all(5 <= len(ids) <= 8 and ids[-1] == 1 and min(ids[:-1]) > 1 for ids in first["completion_ids"])
    Trainer.state.global_step = 4
    assert rollout(["a"] * 4, Trainer) != first


def test_report():
    step = {"training": "LoRA", "trl_pass": True, "generation": "replayed"}
    text = report(
        [
            {
                "benchmark": "step",
                "case": step,
                "arm": "OPEFO",
                "seconds": [0.1, 0.2, 0.3],
                "time_ratio": 1.0042,
                "memory_ratio": 1.0,
            },
            {"benchmark": "ranks", "case": {"ranks": 2, "bytes": 24}, "arm": "OPEFO", "seconds": [1e-4, 2e-4, 3e-4]},
        ]
    )
    assert "| LoRA | TRL's own | replayed | OPEFO | 200 (100 to 300) | 1.004 | 1.000 |" in text
    assert "| 2 | 24 | 0.2 (0.1 to 0.3) | measured, gloo |" in text
    assert "| 1024 | 24 | 0.2 | on paper, 10 µs a hop |" in text  # 20 hops


@pytest.mark.slow
def test_the_whole_benchmark_runs(tmp_path):
    output = tmp_path / "cost.jsonl"
    command = [sys.executable, "-m", "benchmarks.cost", "--quick", "--output", str(output)]
    for _ in range(2):
        result = subprocess.run(command, capture_output=True, text=True, env=COMPILED, cwd=Path(__file__).parents[2])
        assert result.returncode == 0, result.stderr[-2000:]
        command[3:4] = ["--only", "kernel_code"]  # a second run appends
    assert output.with_suffix(".png").stat().st_size > 10_000
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["benchmark"] for record in records[-8:]] == ["kernel_code"] * 8
    assert all(record["about"]["torch"] == version("torch") for record in records)
    projection = {r["arm"]: r for r in records if r["benchmark"] == "projection"}
    assert projection["TRL"]["time_ratio"] == projection["TRL"]["memory_ratio"] == 1
    assert projection["OPEFO"]["memory_ratio"] < 0.5 < 1 < projection["naive"]["memory_ratio"]
    assert all(0 < r["seconds"][0] <= r["seconds"][1] <= r["seconds"][2] for r in records if "seconds" in r)
    steps = [r for r in records if r["benchmark"] == "step" and r["arm"] == "OPEFO"]
    assert [r["case"]["trl_pass"] for r in steps] == [False, True]
    assert all(r["memory_ratio"] <= 1.02 for r in steps)
