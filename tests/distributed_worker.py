"""Run by `test_distributed.py` in one process and in two: the same rollouts, whatever the number of processes."""

import json
import os
import sys
from pathlib import Path

import deepspeed
import torch
from accelerate.utils import DistributedType
from conftest import SETTINGS, SYMBOLS, KeepGradient, letter_reward, make_dataset, make_model, make_tokenizer
from peft import LoraConfig
from torch.distributed.tensor import DTensor

import opefo_trl.checkpoints
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
# Four optimizer steps, stopped and gone on with after two. The full one has its embeddings tied to the LM head; the
# last one records TRL's pass over the policy, which a pass of the reference follows: the same model, its adapter off
TRAININGS = {
    "full": {},
    "lora": {},
    "lora_off_policy": {"num_iterations": 2, "beta": 0.05, "strict_on_policy": False},
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


def step(scenario: str, folder: Path) -> None:
    """One optimizer step, and its gradient."""
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
    result = {
        "logs": trainer.state.log_history[0],
        "entropy_target": trainer.entropy_target,
        "tokens": tokens,
        "reduced_bytes": reduced_bytes,
    }
    (folder / f"{scenario}-rank{os.environ['RANK']}.json").write_text(json.dumps(result))
    if os.environ["RANK"] == "0":
        torch.save(keep.gradient, folder / f"{scenario}.pt")


def make_trainer(training: str, base: Path, output_dir: Path) -> OPEFOTrainer:
    """Loads the model from a folder, as a user does and as ZeRO-3 wants it: sharded from the start."""
    args = OPEFOConfig(
        output_dir=str(output_dir),
        per_device_train_batch_size=8 // int(os.environ["WORLD_SIZE"]),
        gradient_accumulation_steps=2,
        max_steps=4,
        learning_rate=1e-3,
        # With much less, Adam makes a step of the rounding in a gradient that is almost 0
        adam_epsilon=1e-4,
        lr_scheduler_type="constant",
        flow_entropy_target_ratio=0.8,
        flow_entropy_gain=1.0,
        flow_max_coefficient=0.9,
        **{**SETTINGS, "save_strategy": "steps", "save_steps": 2},
        **TRAININGS[training],
    )
    if "ACCELERATE_USE_FSDP" in os.environ:
        # accelerate shards on accelerators alone, and on CPU falls back on DDP without a word
        args.distributed_state.distributed_type = DistributedType.MULTI_GPU
    torch.manual_seed(0)  # the adapter is drawn at random
    return OPEFOTrainer(
        str(base / ("tied" if training == "full" else "untied")),
        letter_reward,
        args,
        train_dataset=make_dataset(),
        processing_class=make_tokenizer(),
        rollout_func=make_rollouts(training),
        peft_config=None if training == "full" else LoraConfig(target_modules="all-linear", init_lora_weights=False),
    )


def sharding(trainer) -> dict:
    """What drives the training, and how many elements of the LM head this process holds between two passes."""
    weight = trainer.model.get_output_embeddings().weight
    local = weight.to_local() if isinstance(weight, DTensor) else getattr(weight, "ds_tensor", weight)
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    return {
        "type": trainer.accelerator.distributed_type.value,
        "zero_stage": plugin and plugin.zero_stage,
        "lm_head_elements": local.numel(),
    }


def train(training: str, folder: Path, base: Path) -> None:
    """An uninterrupted run, and one that goes on from its checkpoint after two steps; saves both models."""
    state_writes: list[str] = []
    write = opefo_trl.checkpoints.write_state
    opefo_trl.checkpoints.write_state = lambda path, state: state_writes.append(path.name) or write(path, state)
    result = {"state_writes": state_writes}
    checkpoint = None
    for part in ("whole", "resumed"):
        trainer = make_trainer(training, base, folder / training / part)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model(str(folder / f"{training}-{part}"))
        checkpoint = checkpoint or str(folder / training / part / "checkpoint-2")
        steps = [log for log in trainer.state.log_history if "entropy" in log]
        result[part] = {
            "logs": [{name: value for name, value in log.items() if "time" not in name} for log in steps],
            "entropy_target": trainer.entropy_target,
            "sharding": sharding(trainer),
        }
    opefo_trl.checkpoints.write_state = write
    (folder / f"{training}-rank{os.environ['RANK']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    # Plain gloo: DeepSpeed's own all-reduce for CPU would have to be compiled first
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    folder, base, *names = sys.argv[1:]
    for name in names:
        if name in SCENARIOS:
            step(name, Path(folder))
        else:
            train(name, Path(folder), Path(base))
    # Together, or the one that is done first may end the other's connection
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    # On a busy machine a native thread that the interpreter's end does not wait for can abort it, all results written
    sys.stderr.flush()
    os._exit(0)
