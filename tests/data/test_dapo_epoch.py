"""The paper's recipe for one epoch of DAPO-Math's own format, ZeRO-3 in two processes, the vocabulary of its size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import METRICS
from qwen import make_qwen_tokenizer
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from opefo_trl.data.prompts import DAPO_AFTER, DAPO_BEFORE


ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "Qwen2.5-Math-7B" / "opefo.yaml"
ZERO3 = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "DEEPSPEED",
    "deepspeed_config": {"zero_stage": 3, "zero3_init_flag": True, "zero3_save_16bit_model": True},
    "mixed_precision": "no",
    "num_machines": 1,
    "num_processes": 2,
    "machine_rank": 0,
    "use_cpu": True,
}
# What differs on this machine: its size, and that it has no GPU
OVERRIDES = {
    "dataset_solution_column": "reward_model.ground_truth",
    "reward_funcs": ["math_reward", "letters.reward"],
    "use_vllm": False,
    "use_cpu": True,
    "bf16": False,
    "dtype": "float32",
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_completion_length": 8,
    "learning_rate": 1e-3,
    "disable_tqdm": True,
    "save_steps": 4,
}


def dapo_rows(count: int) -> list[dict]:
    return [
        {
            "data_source": "math_dapo",
            "prompt": [{"content": f"{DAPO_BEFORE}What is ${i} + {i}$?{DAPO_AFTER}", "role": "user"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": str(2 * i), "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": f"row-{i}"},
        }
        for i in range(count)
    ]


@pytest.mark.slow
def test_one_epoch_under_zero3(tmp_path):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=152064,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
        eos_token_id=151643,
        pad_token_id=151643,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    make_qwen_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "dapo.jsonl").write_text("\n".join(map(json.dumps, dapo_rows(16))))
    (tmp_path / "zero3.yaml").write_text(yaml.safe_dump(ZERO3))
    # A model of random weights is never right, so something else has to tell its completions apart
    (tmp_path / "letters.py").write_text(
        "def reward(completion_ids, **kwargs):\n    return [sum(i % 2 for i in ids) for ids in completion_ids]\n"
    )
    overrides = {**OVERRIDES, "model_name_or_path": "model", "dataset_name": "dapo.jsonl", "output_dir": "run"}
    recipe = {
        key: value
        for key, value in yaml.safe_load(RECIPE.read_text()).items()
        if key not in ("num_processes", "dataset_config", "accelerate_config")
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **overrides}))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("accelerate")),
            *"launch --config_file zero3.yaml -m opefo_trl.commands.train --config recipe.yaml".split(),
        ],
        cwd=tmp_path,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        r"First prompt: '<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}."
        r"<|im_end|>\n<|im_start|>user\nWhat is $"
    ) in done.stdout

    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    logs = [log for log in state["log_history"] if "entropy_flow/coefficient" in log]
    # 2 processes × 4 completions × 2 steps = 2 prompts × 8 completions
    assert state["global_step"] == len(logs) == 8 and state["epoch"] == 1.0
    for log in logs:
        assert log["rewards/math_reward/mean"] == 0.0 and log["math_reward/answered"] == 0.0
        assert all(torch.tensor(log[f"entropy_flow/{name}"]).isfinite() for name in METRICS)
        assert log["entropy_flow/increase"] > 0 and log["entropy_flow/decrease"] > 0
        assert log["entropy_flow/coefficient"] != 0.0
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run").state_dict()
    untrained = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert trained.keys() == untrained.keys()
    moved = [name for name in trained if not torch.equal(trained[name], untrained[name])]
    assert set(moved) == set(trained), "every weight must have been trained and saved whole"
