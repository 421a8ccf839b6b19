"""Thousands of small steps, watched: memory, processes, open files, the trainer's buffers, and entropy at its target.

    python -m benchmarks.reliability.soak --steps 5000 --output outputs/soak

Writes `soak.json`, one line, and `soak.png` to the output folder. Exits with 1 and one sentence if something grows
that should not, or entropy leaves its band.
"""

import argparse
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback, set_seed

from benchmarks.cost.measure import describe
from examples.countdown.prepare import build_tokenizer
from opefo_trl import OPEFOConfig, OPEFOTrainer
from opefo_trl.grading.rewards import math_reward


ENTROPY_TARGET = 1.5  # nats; an untaught model of 21 symbols starts at 3.0
LOGGING_STEPS = 10
SAMPLES = 100
# The first part of a run fills caches and brings entropy to its target, and is not judged
WARM_UP = 0.2
# Growth after that, per optimizer step. A leak of one small tensor per step is an object per step
MEMORY_PER_STEP = 1024  # bytes, of this process, without `log_history`
WORKER_MEMORY_PER_STEP = 4096  # bytes, of all children together
OBJECTS_PER_STEP = 0.05
# Entropy's mean over a twentieth of the run, around the target
BAND = 0.1
# Constant after the warm-up
CONSTANT = ("children", "descriptors", "metrics", "logs", "buffered_tensors")


def boxed_reward(completions: list[str], solution: list[str], **kwargs) -> list[float | None]:
    """`math_reward` of the whole completion as an answer, so that its worker processes read every one."""
    return math_reward([f"\\boxed{{{completion}}}" for completion in completions], solution)


def digit_reward(completions: list[str], **kwargs) -> list[float]:
    """
    The mean digit, 0 for what is none: easy to raise by giving up entropy. It tells completions apart until the last
    entropy is gone, so that there is always something to steer with; a group of equal rewards trains nothing.
    """
    return [sum(int(c) for c in text if c.isdecimal()) / 9 / max(1, len(text)) for text in completions]


def bytes_of(value: Any) -> int:
    """Memory of nested lists and dicts; strings are shared, and not counted."""
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(map(bytes_of, value.values()))
    if isinstance(value, list):
        return sys.getsizeof(value) + sum(map(bytes_of, value))
    return 0 if isinstance(value, str) else sys.getsizeof(value)


def entries(value: Any) -> int:
    """Number of values in nested dicts of lists."""
    return sum(map(entries, value.values())) if isinstance(value, dict) else len(value)


class Watch(TrainerCallback):
    """Takes a sample of the process and its trainer every `every` steps, as TRL logs."""

    def __init__(self, every: int):
        self.every = every
        self.samples: list[dict[str, float]] = []
        self.entropies: list[float] = []
        self.trainer: OPEFOTrainer | None = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "entropy" not in logs:
            return
        self.entropies.append(logs["entropy"])
        if state.global_step % self.every == 0:
            self.samples.append({"step": state.global_step, **self.look(state.log_history)})
            self.entropies = []

    def look(self, log_history: list[dict[str, float]]) -> dict[str, float]:
        process, trainer = psutil.Process(), self.trainer
        assert trainer is not None
        children = process.children(recursive=True)
        gc.collect()
        return {
            "memory": process.memory_full_info().uss,
            "worker_memory": sum(child.memory_full_info().uss for child in children),
            "log_history": bytes_of(log_history),
            "objects": len(gc.get_objects()),
            "children": len(children),
            "descriptors": process.num_fds(),
            "metrics": entries(trainer._metrics["train"]),
            "logs": entries(trainer._logs),
            "buffered_tensors": sum(len(batch) for batch in trainer._buffered_inputs or []),
            "entropy": float(np.mean(self.entropies)),
        }


def slope(samples: list[dict[str, float]], name: str, less: str | None = None) -> float:
    """Growth per step after the warm-up, by least squares; without what `less` grows, where that is named."""
    values = [sample[name] - (sample[less] if less else 0) for sample in samples]
    return float(np.polyfit([sample["step"] for sample in samples], values, 1)[0])


def after_warm_up(samples: list[dict[str, float]]) -> list[dict[str, float]]:
    return [sample for sample in samples if sample["step"] > WARM_UP * samples[-1]["step"]]


def running_mean(values: list[float]) -> np.ndarray:
    window = max(1, round(SAMPLES / 20))
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


def measure(samples: list[dict[str, float]]) -> dict[str, float]:
    """What [`problems`] decides by, after the warm-up: growth per step, and the extremes of entropy's running mean."""
    judged = after_warm_up(samples)
    means = running_mean([sample["entropy"] for sample in judged])
    return {
        "memory_per_step": slope(judged, "memory", less="log_history"),
        "log_history_per_step": slope(judged, "log_history"),
        "worker_memory_per_step": slope(judged, "worker_memory"),
        "objects_per_step": slope(judged, "objects"),
        "entropy_lowest": float(means.min()),
        "entropy_highest": float(means.max()),
    }


def problems(samples: list[dict[str, float]]) -> list[str]:
    """
    Judge a run.

    Args:
        samples (`list[dict[str, float]]`):
            What [`Watch`] took, in order.

    Returns:
        `list[str]`: what grew or left its band, empty if all is well.
    """
    found = []
    measured = measure(samples)
    for name, bound, unit in (
        ("memory", MEMORY_PER_STEP, "bytes of this process"),
        ("worker_memory", WORKER_MEMORY_PER_STEP, "bytes of its children"),
        ("objects", OBJECTS_PER_STEP, "Python objects"),
    ):
        if measured[f"{name}_per_step"] > bound:
            found.append(f"{measured[f'{name}_per_step']:.3g} {unit} leak per step (at most {bound})")
    judged = after_warm_up(samples)
    for name in CONSTANT:
        values = [sample[name] for sample in judged]
        if min(values) != max(values):
            found.append(f"{name} went from {values[0]} to {values[-1]}, at most {max(values)}")
    low, high = ENTROPY_TARGET * (1 - BAND), ENTROPY_TARGET * (1 + BAND)
    if not low <= measured["entropy_lowest"] <= measured["entropy_highest"] <= high:
        found.append(
            f"entropy's running mean went from {measured['entropy_lowest']:.3f} to {measured['entropy_highest']:.3f}, "
            f"out of {low:.3f} to {high:.3f}"
        )
    return found


def build_trainer(steps: int, output_dir: str, watch: Watch) -> OPEFOTrainer:
    """A model of 20,000 parameters that adds two digits, eight completions a step."""
    set_seed(0)
    tokenizer = build_tokenizer()
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.1,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    sums = [{"prompt": f"{a}+{b}=", "solution": str(a + b)} for a in range(10) for b in range(10)]
    trainer = OPEFOTrainer(
        model,
        [boxed_reward, digit_reward],
        OPEFOConfig(
            output_dir=output_dir,
            max_steps=steps,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=4,
            learning_rate=3e-4,
            lr_scheduler_type="constant",
            flow_entropy_target=ENTROPY_TARGET,
            flow_entropy_gain=4.0,
            flow_max_coefficient=0.9,  # so small a model can lose its entropy against 0.5
            logging_steps=LOGGING_STEPS,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            seed=0,
        ),
        train_dataset=Dataset.from_list(sums),
        processing_class=tokenizer,
        callbacks=[watch],
    )
    watch.trainer = trainer
    return trainer


def draw(samples: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = [sample["step"] for sample in samples]
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex=True, layout="constrained")
    memory, objects, counts, entropy = axes.flat
    for name, label in (("memory", "this process"), ("worker_memory", "its children"), ("log_history", "log_history")):
        memory.plot(steps, [(sample[name] - samples[0][name]) / 2**20 for sample in samples], label=label)
    memory.set_title("growth of memory, MiB")
    objects.plot(steps, [sample["objects"] for sample in samples])
    objects.set_title("Python objects")
    for name, style in zip(CONSTANT, ("-", "-", "-", "-", "--"), strict=True):  # two of them may be equal
        counts.plot(steps, [sample[name] for sample in samples], style, label=name)
    counts.set_title("counts")
    counts.set_yscale("log")
    entropy.plot(steps, [sample["entropy"] for sample in samples])
    entropy.axhspan(ENTROPY_TARGET * (1 - BAND), ENTROPY_TARGET * (1 + BAND), alpha=0.2)
    entropy.set_title("entropy, nats, and its band")
    for axis in axes.flat:
        axis.axvspan(0, WARM_UP * steps[-1], color="0.9", zorder=0)
    for axis in axes[1]:
        axis.set_xlabel("optimizer step (grey: not judged)")
    memory.legend()
    counts.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps",
        type=int,
        default=5000,
        help="optimizer steps, at least 1000; the bounds are for 5000, in fewer the allocator alone can pass one",
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/soak"))
    options = parser.parse_args(args)
    every = options.steps // SAMPLES // LOGGING_STEPS * LOGGING_STEPS
    if every == 0:
        parser.error(f"--steps must be at least {SAMPLES * LOGGING_STEPS}: there is a sample at every hundredth part.")
    options.output.mkdir(parents=True, exist_ok=True)
    watch = Watch(every)
    start = time.perf_counter()
    build_trainer(options.steps, str(options.output), watch).train()
    seconds = time.perf_counter() - start
    found = problems(watch.samples)
    record = {"steps": options.steps, "seconds": round(seconds, 1), **measure(watch.samples), "problems": found}
    print(json.dumps(record))
    record |= {"versions": describe(torch.device("cpu")), "samples": watch.samples}
    (options.output / "soak.json").write_text(json.dumps(record) + "\n")
    draw(watch.samples, options.output / "soak.png")
    if found:
        print(f"Not fit for a long run: {'; '.join(found)}.", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
