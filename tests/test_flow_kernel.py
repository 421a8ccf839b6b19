"""The machine code of the kernel, compiled for GPUs that are not here; `test_flow_projection.py` has its numbers."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import COMPILED


def test_machine_code_beside_trls():
    """Counts, which no noise moves: no spill, and hardly more instructions than TRL's kernel for two sums less."""
    command = [sys.executable, "-m", "benchmarks.cost.kernel_code"]
    result = subprocess.run(command, capture_output=True, text=True, env=COMPILED, cwd=Path(__file__).parents[1])
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    code = {(record["case"]["gpu"], record["arm"]): record for record in records}
    for gpu in ("A100", "H100"):
        ours, theirs = code[gpu, "OPEFO"], code[gpu, "TRL"]
        assert ours["local_bytes"] == theirs["local_bytes"] == 0
        assert ours["registers"] <= 64, "eight blocks of threads share a processor's registers"
        assert ours["instructions"] <= 1.05 * theirs["instructions"]
        assert ours["shuffles"] < theirs["shuffles"] and ours["barriers"] < theirs["barriers"]
