"""Two processes (gloo) against one, on the same rollouts: the same λ, metrics and update."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import METRICS, relative_error
from distributed_worker import SCENARIOS


TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp(f"processes{processes}")
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
        done = subprocess.run(
            [*command, str(TESTS / "distributed_worker.py"), str(folders[processes])],
            env={**os.environ, "PYTHONPATH": str(TESTS), "TRL_EXPERIMENTAL_SILENCE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return folders


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes_equal_one(runs, scenario):
    one, two = (json.loads((runs[n] / f"{scenario}.json").read_text()) for n in (1, 2))
    for name in METRICS:
        key = f"entropy_flow/{name}"
        assert two["logs"][key] == pytest.approx(one["logs"][key], rel=1e-5, abs=1e-9)
    if scenario == "target_ratio":
        assert one["entropy_target"] > 0
        assert two["entropy_target"] == pytest.approx(one["entropy_target"], rel=1e-6)
    if scenario != "all_masked":
        assert one["logs"]["entropy_flow/decrease"] > 0
        gradients = [torch.load(runs[n] / f"{scenario}.pt") for n in (1, 2)]
        assert relative_error(gradients[1], gradients[0]) < 2e-6


def test_a_rank_without_a_valid_token(runs):
    tokens = [json.loads((runs[2] / f"idle_rank-rank{rank}.json").read_text())["tokens"] for rank in (0, 1)]
    assert tokens[0] > 0 and tokens[1] == 0


def test_one_small_all_reduce_per_rollout_batch(runs):
    (num_bytes,) = json.loads((runs[2] / "dapo-rank1.json").read_text())["reduced_bytes"]
    assert num_bytes < 128
