"""Prepares the Countdown example: puzzles, a tokenizer of 21 symbols, and a tiny model taught to answer them.

python -m examples.countdown.prepare --output_dir outputs/countdown
"""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer, set_seed
from trl import SFTConfig, SFTTrainer

from examples.countdown.countdown import NUMBERS_PER_PUZZLE, Puzzle, generate_puzzles


SPECIAL_TOKENS = ["<pad>", "<bos>", "<eos>"]
SYMBOLS = "0123456789 >=+-*()"
SFT_BATCH_SIZE = 64
SFT_STEPS = 600
TRAIN_PUZZLES = 64  # so few that each is seen some 25 times in 200 steps
TEST_PUZZLES = 500


def split_puzzles(puzzles: Iterator[Puzzle], train: int, test: int, seed: int) -> tuple[list[Puzzle], list[Puzzle]]:
    """
    Takes different puzzles from a generator and splits them at random.

    Args:
        puzzles (`Iterator[Puzzle]`):
            Where the puzzles come from.
        train (`int`):
            Number of puzzles to train on.
        test (`int`):
            Number of puzzles to test on, none of which is among the others.
        seed (`int`):
            Seed of the split.

    Returns:
        `tuple[list[Puzzle], list[Puzzle]]`: the puzzles to train on, and those to test on.
    """
    by_prompt: dict[str, Puzzle] = {}
    while len(by_prompt) < train + test:
        puzzle = next(puzzles)
        by_prompt.setdefault(puzzle.prompt, puzzle)
    # What comes up first has many solutions: without the shuffle the test would be easier than the training.
    shuffled = random.Random(seed).sample(list(by_prompt.values()), train + test)
    return shuffled[:train], shuffled[train:]


def build_tokenizer(symbols: str = SYMBOLS) -> Qwen2Tokenizer:
    """Builds a character tokenizer: one token per symbol, nothing added, nothing lost in decoding."""
    # Transformers reads any tokenizer beside a Qwen2 model as a `Qwen2Tokenizer`, so it has to be one. Without merges
    # it leaves single characters, and it writes the space as "Ġ".
    vocabulary = {symbol: index for index, symbol in enumerate([*SPECIAL_TOKENS, *symbols.replace(" ", "Ġ")])}
    pad, bos, eos = SPECIAL_TOKENS
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        unk_token=pad,  # never used, but the default would be one symbol more
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: Qwen2Tokenizer, num_hidden_layers: int = 3) -> Qwen2ForCausalLM:
    """Builds an untaught model of 0.26 million parameters per layer."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=num_hidden_layers,
        intermediate_size=512,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.08,  # about 1/sqrt(hidden_size); the usual 0.02 is for wide models and learns late here
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Qwen2ForCausalLM(config)


def write_puzzles(puzzles: list[Puzzle], path: Path) -> None:
    """Writes one JSON object per puzzle, with the columns `prompt`, `numbers` and `target`."""
    rows = ({"prompt": puzzle.prompt, "numbers": puzzle.numbers, "target": puzzle.target} for puzzle in puzzles)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def teach(
    prompts: list[str],
    solutions: list[str],
    output_dir: Path,
    seed: int,
    symbols: str = SYMBOLS,
    num_hidden_layers: int = 3,
) -> None:
    """Teaches a fresh model the solution of every prompt, once each, and saves it with its tokenizer."""
    set_seed(seed)
    tokenizer = build_tokenizer(symbols)
    trainer = SFTTrainer(
        model=build_model(tokenizer, num_hidden_layers),
        args=SFTConfig(
            output_dir=str(output_dir),
            num_train_epochs=1,
            per_device_train_batch_size=SFT_BATCH_SIZE,
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            warmup_steps=30,
            adam_beta2=0.99,
            weight_decay=0.01,
            completion_only_loss=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            seed=seed,
            logging_steps=100,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts, "completion": solutions}),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()


def prepare(
    output_dir: Path,
    sft_steps: int = SFT_STEPS,
    seed: int = 0,
    sizes: Sequence[int] = NUMBERS_PER_PUZZLE,
    train_puzzles: int = TRAIN_PUZZLES,
) -> None:
    """
    Writes `output_dir/data` (a dataset with the splits train and test) and `output_dir/base` (model and tokenizer).
    What an earlier call with the same arguments has written is used again.

    Args:
        output_dir (`Path`):
            Folder to write to.
        sft_steps (`int`, *optional*, defaults to `600`):
            Optimizer steps of the supervised fine-tuning.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the puzzles, the model and its fine-tuning.
        sizes (`Sequence[int]`, *optional*, defaults to `(5,)`):
            How many numbers a puzzle may have, each as often.
        train_puzzles (`int`, *optional*, defaults to `64`):
            Number of puzzles to train on.
    """
    # With more threads the numbers would depend on the machine, and a busy core would make the others wait for it
    torch.set_num_threads(1)
    arguments = {"sft_steps": sft_steps, "seed": seed, "sizes": list(sizes), "train_puzzles": train_puzzles}
    finished = output_dir / "prepared.json"
    if finished.exists() and json.loads(finished.read_text()) == arguments:
        print(f"Using the puzzles and the base model that are in {output_dir}.")
        return
    finished.unlink(missing_ok=True)

    puzzles = generate_puzzles(seed, sizes)
    train, test = split_puzzles(puzzles, train_puzzles, TEST_PUZZLES, seed)
    data_dir = output_dir / "data"
    data_dir.mkdir(parents=True, exist_ok=True)
    write_puzzles(train, data_dir / "train.jsonl")
    write_puzzles(test, data_dir / "test.jsonl")

    held_out = {puzzle.prompt for puzzle in test}
    unseen = (puzzle for puzzle in puzzles if puzzle.prompt not in held_out)
    count = sft_steps * SFT_BATCH_SIZE
    examples = list(tqdm(islice(unseen, count), "Examples", count))
    teach([e.prompt for e in examples], [e.solution for e in examples], output_dir / "base", seed)
    finished.write_text(json.dumps(arguments) + "\n")  # written last: it says that all the rest is complete


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Writes the puzzles and teaches the base model of the Countdown example."
    )
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/countdown"), help="folder to write to")
    parser.add_argument("--sft_steps", type=int, default=SFT_STEPS, help="supervised steps that teach the base model")
    parser.add_argument("--seed", type=int, default=0, help="seed of the puzzles and the base model")
    prepare(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
