"""The machine code of the kernel, compiled for GPUs that are not here; `test_projection.py` has its numbers."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import COMPILED


def run(*command):
    result = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=COMPILED, cwd=Path(__file__).parents[2]
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_machine_code_beside_trls():
    """Counts, which no noise moves: no spill, and hardly more instructions than TRL's kernel for two sums less."""
    records = [json.loads(line) for line in run("-m", "benchmarks.cost.kernel_code") if line.startswith("{")]
    code = {(record["case"]["gpu"], record["arm"]): record for record in records}
    for gpu in ("A100", "H100"):
        ours, theirs = code[gpu, "OPEFO"], code[gpu, "TRL"]
        assert ours["local_bytes"] == theirs["local_bytes"] == 0
        assert ours["registers"] <= 64, "eight blocks of threads share a processor's registers"
        assert ours["instructions"] <= 1.05 * theirs["instructions"]
        assert ours["shuffles"] < theirs["shuffles"] and ours["barriers"] < theirs["barriers"]


def test_every_dtype_and_the_soft_cap_compile_without_spills():
    """From Turing, which has no bfloat16, to Blackwell."""
    code = """
from benchmarks.cost.kernel_code import compile_for, inspect
from opefo_trl.entropy_flow.kernel import _fold_kernel

for capability in (75, 80, 90, 100):
    for dtype in ("bf16", "fp16", "fp32") if capability > 75 else ("fp16", "fp32"):
        for has in ((), ("HAS_SOFTCAP",)):
            print("local", inspect(compile_for(_fold_kernel, capability, has, dtype))["local_bytes"])
"""
    assert [line for line in run("-c", code) if line.startswith("local")] == ["local 0"] * 22
