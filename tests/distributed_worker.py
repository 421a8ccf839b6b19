"""Run by `test_distributed.py` in one process and in two: the same rollouts, whatever the number of processes."""

import json
import os
import sys
from pathlib import Path

import torch
from conftest import SETTINGS, SYMBOLS, KeepGradient, letter_reward, make_dataset, make_model, make_tokenizer

from opefo_trl import OPEFOConfig, OPEFOTrainer


EOS = SYMBOLS.index("<eos>")
SCENARIOS = {
    "dapo": {"loss_type": "dapo"},
    "grpo": {"loss_type": "grpo"},
    "target_ratio": {"loss_type": "dapo", "flow_entropy_target_ratio": 0.8},
    "high_entropy": {"loss_type": "dapo", "top_entropy_quantile": 0.4},
    "idle_rank": {"loss_type": "dapo", "mask_truncated_completions": True},
    "all_masked": {"loss_type": "dapo", "mask_truncated_completions": True},
}


def make_rollouts(scenario: str):
    """Completions that depend on the prompt and its occurrence alone. The truncated ones have no end of sequence."""

    def rollout(prompts: list[str], trainer) -> dict:
        prompt_ids, completion_ids = [], []
        for row, prompt in enumerate(prompts):
            seed = sum(map(ord, prompt)) * 100 + prompts[:row].count(prompt)
            generator = torch.Generator().manual_seed(seed)
            length = int(torch.randint(2, 9, (), generator=generator))
            tokens = torch.randint(2, len(SYMBOLS), (length,), generator=generator).tolist()
            # The first two groups of the batch are whole, the last two cut: with two processes, rank 1 has no token
            cut = scenario == "all_masked" or (scenario == "idle_rank" and prompt in trainer.cut_prompts)
            completion_ids.append(tokens if cut else [*tokens, EOS])
            prompt_ids.append(trainer.processing_class(prompt)["input_ids"])
        logprobs = [[0.0] * len(ids) for ids in completion_ids]
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": logprobs}

    return rollout


def watch_reductions(trainer) -> list[int]:
    """Bytes of each all-reduce made while λ is computed."""
    sizes: list[int] = []
    reduce, flow_coefficient = trainer.accelerator.reduce, trainer._flow_coefficient

    def watched(micro_batches):
        trainer.accelerator.reduce = lambda tensor, **kwargs: sizes.append(tensor.nbytes) or reduce(tensor, **kwargs)
        coefficient = flow_coefficient(micro_batches)
        trainer.accelerator.reduce = reduce
        return coefficient

    trainer._flow_coefficient = watched
    return sizes


def run(scenario: str, folder: Path) -> None:
    keep = KeepGradient()
    trainer = OPEFOTrainer(
        make_model(),
        letter_reward,
        OPEFOConfig(
            output_dir=str(folder / "run"),
            per_device_train_batch_size=16 // int(os.environ["WORLD_SIZE"]),
            max_steps=1,
            max_grad_norm=0.0,
            shuffle_dataset=False,
            **SETTINGS,
            **SCENARIOS[scenario],
        ),
        train_dataset=make_dataset(),
        processing_class=make_tokenizer(),
        rollout_func=make_rollouts(scenario),
        callbacks=[keep],
    )
    trainer.cut_prompts = make_dataset()["prompt"][2:]
    reduced_bytes = watch_reductions(trainer)
    trainer.train()
    tokens = torch.stack([b["completion_mask"].sum() for b in trainer._buffered_inputs]).sum().item()
    rank = int(os.environ["RANK"])
    (folder / f"{scenario}-rank{rank}.json").write_text(json.dumps({"tokens": tokens, "reduced_bytes": reduced_bytes}))
    if rank == 0:
        target = trainer.entropy_target
        logs = {"logs": trainer.state.log_history[0], "entropy_target": target}
        (folder / f"{scenario}.json").write_text(json.dumps(logs))
        torch.save(keep.gradient, folder / f"{scenario}.pt")


if __name__ == "__main__":
    for name in SCENARIOS:
        run(name, Path(sys.argv[1]))
