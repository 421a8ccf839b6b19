"""Kills trainings at random moments, starts them again, and compares the end with an uninterrupted run's.

    python -m benchmarks.reliability.kills                       # one process, DDP and ZeRO-2, twelve kills each
    python -m benchmarks.reliability.kills --only one --kills 3

One run per kind of launch is killed, started again with the same command, killed again, and so on, then left to end.
A kill falls a random while after a random entry into each phase of `killed.py` in turn. Appends one JSON line per kind
to `--output`, prints a table, and exits with 1 if a model differs from the uninterrupted one.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from tqdm.auto import tqdm

from benchmarks.markdown import table
from benchmarks.reliability.killed import MOMENTS, PHASES
from tests.conftest import make_dataset, make_model, make_tokenizer


ENTRIES = 4  # into a phase, at most, before its kill: each start gets so many steps further at most
RECIPE = {
    "model_name_or_path": "model",
    "dataset_name": "puzzles.jsonl",
    "reward_funcs": ["letters.reward"],
    "gradient_accumulation_steps": 2,
    "num_generations": 4,
    "max_completion_length": 8,
    "save_steps": 1,
    "save_total_limit": 2,
    "flow_entropy_target_ratio": 0.8,  # a state that only the checkpoint knows
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
}
REWARD = """
def reward(completions, **kwargs):
    return [float(sum(letter in "abcd02468" for letter in completion)) for completion in completions]
"""
ZERO_2 = {
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "zero_optimization": {"stage": 2},
}
TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# Number of processes, and what python gets before the module
KINDS = {
    "one": (1, []),
    "ddp": (2, TWO_PROCESSES),
    "zero2": (2, ["-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file", "zero2.json"]),
}
PASSED_OVER, RESUMED = "Skipping ", "Resuming from "


def prepare(folder: Path, steps: int) -> None:
    """A tiny model, data, reward and settings, as a user has them in a folder."""
    make_model().save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    make_dataset().to_json(folder / "puzzles.jsonl")
    (folder / "letters.py").write_text(REWARD)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "max_steps": steps}))
    (folder / "deepspeed.json").write_text(json.dumps(ZERO_2))
    launch = {
        "distributed_type": "DEEPSPEED",
        "num_processes": 2,
        "deepspeed_config": {"deepspeed_config_file": "deepspeed.json", "zero3_init_flag": False},
    }
    (folder / "zero2.json").write_text(json.dumps(launch))


def start(kind: str, folder: Path, output_dir: str, moment: tuple[str, int, float, int]) -> tuple[int, str, str]:
    """One start of the training; its exit code and what it printed."""
    processes, launcher = KINDS[kind]
    options = ["--output_dir", output_dir, "--per_device_train_batch_size", str(8 // processes)]
    module = ["-m", "benchmarks.reliability.killed", *map(str, moment), "--config", "recipe.yaml", *options]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, *launcher, *module], cwd=folder, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def draw_moments(processes: int, kills: int, generator: random.Random) -> list[tuple[str, int, float, int]]:
    """Phase by phase: the entry into it that counts, the seconds after it, and the process that is killed."""
    phases = itertools.islice(itertools.cycle(phase for phase in PHASES if phase != "final save"), kills - 1)
    moments = [
        (phase, generator.randint(1, ENTRIES), generator.uniform(0.0, 0.03), generator.randrange(processes))
        for phase in phases
    ]
    # What saves the final model is reached once
    return [*moments, ("final save", 1, generator.uniform(0.0, 0.01), 0)]


def run(kind: str, kills: int, seed: int, bar: tqdm) -> dict[str, Any]:
    """
    Kill a run of one kind `kills` times.

    Returns:
        `dict[str, Any]`: the kind, kills by the phase that the process really was in, how many starts went on from a
        checkpoint and how many checkpoints were passed over as not whole, whether the model at the end is that of the
        uninterrupted run, bit for bit, and seconds.

    Raises:
        `RuntimeError`: if a start ends otherwise than by its kill, or the last one not at all.
    """
    began = time.perf_counter()
    nobody = ("rollout", 1, 0.0, -1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, steps=(ENTRIES + 1) * kills)
        code, _, stderr = start(kind, folder, "whole", nobody)
        if code != 0:
            raise RuntimeError(f"The uninterrupted run ended with {code}: {stderr[-2000:]}")
        moments = draw_moments(KINDS[kind][0], kills, random.Random(seed))
        printed, killed = [], 0
        for moment in moments:
            code, stdout, stderr = start(kind, folder, "killed", moment)
            printed.append(stdout)
            was_killed = len((folder / MOMENTS).read_text().splitlines()) if (folder / MOMENTS).exists() else 0
            if was_killed == killed:
                raise RuntimeError(f"The run to be killed at {moment} ended with {code}: {stderr[-2000:]}")
            killed = was_killed
            bar.update()
            bar.set_postfix_str(f"{kind}, {moment[0]}")
        code, stdout, stderr = start(kind, folder, "killed", nobody)
        if code != 0:
            raise RuntimeError(f"The run that was left to end ended with {code}: {stderr[-2000:]}")
        printed.append(stdout)
        whole, other = (load_file(folder / output / "model.safetensors") for output in ("whole", "killed"))
        phases = (folder / MOMENTS).read_text().splitlines()
        lines = [line for stdout in printed for line in stdout.splitlines()]
    return {
        "kind": kind,
        "seed": seed,
        "kills": {phase: phases.count(phase) for phase in dict.fromkeys(phases)},
        "resumed": sum(line.startswith(RESUMED) for line in lines),
        "passed_over": sum(line.startswith(PASSED_OVER) for line in lines),
        "equal": whole.keys() == other.keys() and all(torch.equal(whole[key], other[key]) for key in whole),
        "seconds": round(time.perf_counter() - began),
        "versions": {name: version(name) for name in ("opefo_trl", "trl", "transformers", "torch", "deepspeed")},
    }


def report(records: list[dict[str, Any]]) -> str:
    rows = [
        [
            record["kind"],
            str(sum(record["kills"].values())),
            ", ".join(f"{phase} {count}" for phase, count in record["kills"].items()),
            str(record["resumed"]),
            str(record["passed_over"]),
            "yes" if record["equal"] else "NO",
        ]
        for record in records
    ]
    return table(["launch", "kills", "where", "went on", "half-written, passed over", "bit for bit"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills trainings at random moments and compares where they end.")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="(default: all)")
    parser.add_argument("--kills", type=int, default=12, help="of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/kills.jsonl"), help="(default: %(default)s)")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    records = []
    with tqdm(total=options.kills * len(options.only), unit="kill") as bar:
        for kind in options.only:
            try:
                records.append(run(kind, options.kills, options.seed, bar))
            except RuntimeError as error:
                sys.exit(f"{kind}: {error}")
            with options.output.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
    print(report(records))
    if not all(record["equal"] for record in records):
        sys.exit("A run that was killed did not end where the uninterrupted one does.")


if __name__ == "__main__":
    main()
