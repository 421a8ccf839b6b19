"""A real training: strict GRPO at two learning rates, and OPEFO with a target at the higher one."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

from benchmarks.study.records import read_records
from opefo_trl import OPEFOConfig, OPEFOTrainer
from opefo_trl.data.prompts import to_prompts
from opefo_trl.evaluation.sampling import Sampling, TransformersSampler


RECIPE = yaml.safe_load((Path(__file__).parents[2] / "recipes/SmolLM2-135M-Instruct/opefo.yaml").read_text())
MAX_TOKENS = RECIPE["max_completion_length"]
SAMPLES = 8  # answers to each problem of the test
LAST_STEPS = 10  # steps behind every "at the end"


class Arm(NamedTuple):
    """A label, a learning rate, and fields of [`~opefo_trl.OPEFOConfig`]."""

    label: str
    learning_rate: float
    settings: dict[str, Any]


ARMS = {
    "grpo": Arm("GRPO, 1e-5", 1e-5, {"flow_strength": 0.0}),
    "grpo_high": Arm("GRPO, 4e-5", 4e-5, {"flow_strength": 0.0}),
    "opefo_high": Arm("OPEFO with a target, 4e-5", 4e-5, {"flow_entropy_target_ratio": 0.8}),
}


class StopAt(TrainerCallback):
    """Ends a training at a point in time, after the step that is running."""

    def __init__(self, deadline: float):
        self.deadline = deadline  # seconds of `time.monotonic`

    def on_step_end(self, args, state, control, **kwargs):
        if time.monotonic() > self.deadline:
            control.should_training_stop = True


def load_problems(folder: Path, split: str) -> Any:
    rows = load_dataset("json", data_files=str(folder / "data" / f"{split}.jsonl"), split="train")
    return to_prompts(rows, str(folder), system_prompt=RECIPE["system_prompt"], conversational=True)


def score(model_dir: str, problems: Any, dtype: str) -> dict[str, float]:
    """pass@1 and pass@8 at temperature 1."""
    from examples.reasoning_gym.reward import reasoning_gym_reward  # reasoning-gym is an extra of the project

    sampler = TransformersSampler(model_dir, Sampling(1.0, 1.0, MAX_TOKENS), dtype, 64)
    tokenizer = sampler.tokenizer
    prompts = [
        tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=True, return_dict=False)
        for row in problems
    ]
    right = []
    for row, samples in zip(problems, sampler.draw(prompts, SAMPLES, 0), strict=True):
        texts = [[{"role": "assistant", "content": sample.text}] for sample in samples]
        right.append(sum(value == 1.0 for value in reasoning_gym_reward(texts, [row["entry"]] * len(texts))))
    return {"pass@1": sum(right) / (SAMPLES * len(right)), "pass@8": sum(count > 0 for count in right) / len(right)}


def train(
    name: str, seed: int, data: Path, base: Path, output: Path, device: torch.device, steps: int, deadline: float
) -> dict[str, Any]:
    """
    Train one arm until its steps or its time are over, and test it.

    Args:
        name (`str`):
            Key of [`ARMS`].
        seed (`int`):
            Seed of the training.
        data (`Path`):
            Folder that `examples.smollm2.prepare` wrote.
        base (`Path`):
            Model to train.
        output (`Path`):
            Where the run's log and model go.
        device (`torch.device`):
            Where to train.
        steps (`int`):
            Most optimizer steps.
        deadline (`float`):
            When to stop, in seconds of `time.monotonic`.

    Returns:
        `dict[str, Any]`: the record, all of it JSON.
    """
    from examples.reasoning_gym.reward import reasoning_gym_reward

    arm, on_gpu = ARMS[name], device.type == "cuda"
    args = OPEFOConfig(
        output_dir=str(output),
        seed=seed,
        learning_rate=arm.learning_rate,
        per_device_train_batch_size=64 if on_gpu else 32,
        num_generations=8,
        max_completion_length=MAX_TOKENS,
        max_steps=steps,
        lr_scheduler_type="constant",
        mask_truncated_completions=False,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **arm.settings,
    )
    trainer = OPEFOTrainer(
        AutoModelForCausalLM.from_pretrained(base, dtype="float32", use_safetensors=True),
        reasoning_gym_reward,
        args,
        load_problems(data, "train"),
        processing_class=AutoTokenizer.from_pretrained(base),
        callbacks=[StopAt(deadline)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_final_model()
    history = [entry for entry in trainer.state.log_history if "entropy" in entry]
    dtype = "bfloat16" if on_gpu else "float32"
    return {
        "part": "training",
        "arm": name,
        "seed": seed,
        "steps": len(history),
        "seconds": trainer.state.log_history[-1]["train_runtime"],
        "curves": {key: [entry[key] for entry in history] for key in ("entropy", "reward", "frac_reward_zero_std")},
        "coefficient": [entry["entropy_flow/coefficient"] for entry in history],
        "test": score(str(output), load_problems(data, "test"), dtype),
    }


def run(
    data: Path, base: Path, folder: Path, device: torch.device, seeds: list[int], steps: int, deadline: float
) -> list[dict[str, Any]]:
    """
    Train what `folder` does not hold yet, in equal shares of the time that is left; a run that is done is kept.

    Returns:
        `list[dict[str, Any]]`: all records, those of earlier calls among them.
    """
    path = folder / "training.jsonl"
    records = read_records(path)
    done = {(record["arm"], record.get("seed")) for record in records}
    if ("base", None) not in done:
        test = score(str(base), load_problems(data, "test"), "bfloat16" if device.type == "cuda" else "float32")
        records.append({"part": "training", "arm": "base", "test": test})
        with path.open("a") as file:
            file.write(json.dumps(records[-1]) + "\n")
    missing = [(name, seed) for seed in seeds for name in ARMS if (name, seed) not in done]
    for place, (name, seed) in enumerate(missing):
        now = time.monotonic()
        share = (deadline - now) / (len(missing) - place)
        if share <= 0:
            break
        record = train(name, seed, data, base, folder / f"{name}-seed{seed}", device, steps, now + share)
        records.append(record)
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
    return records
