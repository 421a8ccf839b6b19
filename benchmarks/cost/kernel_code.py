"""The code that Triton makes of the fold and of TRL's own, for GPUs that need not be there.

python -m benchmarks.cost.kernel_code
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
import trl.kernels.chunked_logprob as trl_kernels
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from opefo_trl.entropy_flow import kernel
from opefo_trl.entropy_flow.mathematics import LOWEST_LOGIT


GPUS = {"A100": 80, "H100": 90}  # compute capability × 10
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
BLOCK = 1024  # logits that one pass through the loop folds, in both kernels
FLAGS = ("HAS_SOFTCAP", "HAS_ENTROPY", "HAS_LOG_SUM_SQ_PROBS", "HAS_MEAN_LOGITS", "HAS_IS_TOP1")
# As the tiles have it in training: aligned pointers, strides and widths
TILES = ("tile_ptr", "mm_ptr")
TOKENS = ("tokens_ptr", "targets_ptr")
INTEGERS = ("tile_stride", "mm_stride", "sums_stride", "vocab_start", "num_columns", "n_cols")


def compile_for(kernel: Any, capability: int, has: tuple[str, ...] = (), dtype: str = "bf16") -> bytes:
    """Machine code of a kernel without any GPU; `has` names the flags that are on, `dtype` is the logits'."""
    types = dict.fromkeys(TILES, f"*{dtype}") | dict.fromkeys(TOKENS, "*i64") | dict.fromkeys(INTEGERS, "i32")
    constants: dict[str, float] = {name: name in has for name in FLAGS}
    constants |= {"BLOCK_SIZE": BLOCK, "LOWEST": LOWEST_LOGIT}
    signature, aligned = {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = types.get(name, "*fp32" if name.endswith("ptr") else "fp32")
        if name in INTEGERS or name.endswith("ptr"):
            aligned[position,] = [["tt.divisibility", 16]]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={name: value for name, value in constants.items() if name in kernel.arg_names},
        attrs=aligned,
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


def inspect(cubin: bytes) -> dict[str, int]:
    """
    Registers and local memory (spills) of a thread, and what its loop executes.

    Args:
        cubin (`bytes`):
            Machine code of one kernel with one loop.

    Returns:
        `dict[str, int]`: `registers`, `local_bytes`, and per pass through the loop `instructions`, `shuffles` and
        `barriers`. What a forward branch inside of the loop jumps over is left out: the fold skips the rescaling that
        way wherever a block does not raise the maximum, which is almost everywhere.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def read(option: str) -> str:
            command = [str(TOOLS / "cuobjdump"), option, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage, code = read("-res-usage"), read("-sass")
    lines = [
        (int(address, 16), text)
        for address, text in re.findall(r"^\s+/\*([0-9a-f]{4})\*/\s+(.*?);", code, re.MULTILINE)
    ]
    jumps = [
        (address, int(match[1], 16), text)
        for address, text in lines
        if (match := re.search(r"\bBRA\b.*0x([0-9a-f]+)", text))
    ]
    # The last instruction is a branch to itself; the loop is what a branch before it goes back over
    ((end, start),) = [(address, target) for address, target, _ in jumps if target < address]
    skipped = [(a, b) for a, b, text in jumps if start <= a < b <= end and text.startswith("@")]
    executed = [
        text for address, text in lines if start <= address <= end and not any(a < address < b for a, b in skipped)
    ]
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),  # type: ignore[index]
        "local_bytes": int(re.search(r"LOCAL:(\d+)", usage)[1]) + int(re.search(r"STACK:(\d+)", usage)[1]),  # type: ignore[index]
        "instructions": len(executed),
        "shuffles": sum("SHFL" in text for text in executed),
        "barriers": sum("BAR" in text for text in executed),
    }


def run() -> list[dict[str, Any]]:
    """One record per GPU and kernel."""
    records = []
    for gpu, capability in GPUS.items():
        kernels = {
            "TRL": compile_for(trl_kernels._forward_kernel, capability, has=("HAS_ENTROPY",)),
            "OPEFO": compile_for(kernel._fold_kernel, capability),
        }
        for arm, cubin in kernels.items():
            records.append({"benchmark": "kernel_code", "case": {"gpu": gpu}, "arm": arm, **inspect(cubin)})
    return records


if __name__ == "__main__":
    for record in run():
        print(json.dumps(record))
