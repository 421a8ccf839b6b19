"""The drop-in examples: the notebook from its first cell to its last, LoRA and monitor for two steps each."""

import difflib
import json
import sys
from base64 import b64decode
from pathlib import Path

import nbformat
import pytest
import torch
from conftest import METRICS, make_model, make_tokenizer
from datasets import load_dataset
from nbclient import NotebookClient
from peft import PeftModel
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from examples import lora, monitor
from examples.countdown.countdown import generate_puzzles
from examples.countdown.prepare import build_model, build_tokenizer, write_puzzles


ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "grpo_to_opefo.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def cell(notebook, name):
    return next(cell for cell in notebook.cells if cell.id == name)


def test_two_lines_of_the_notebook_change(notebook):
    grpo, opefo = (cell(notebook, name).source.splitlines() for name in ("grpo", "opefo"))
    diff = list(difflib.unified_diff(grpo, opefo, lineterm=""))[3:]
    assert [line for line in diff if line[0] != " "] == [
        "-from trl import GRPOConfig, GRPOTrainer",
        "+from opefo_trl import OPEFOConfig, OPEFOTrainer",
        "-trainer = GRPOTrainer(model, countdown_reward, GRPOConfig(**settings), dataset)",
        "+trainer = OPEFOTrainer(model, countdown_reward, OPEFOConfig(**settings), dataset)",
    ]
    shown = "\n".join(["```diff", *diff, "```"])
    assert sum(shown in cell.source for cell in notebook.cells if cell.cell_type == "markdown") == 1


def test_stored_outputs_are_of_one_clean_run(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 1 and len(b64decode(pictures[0])) < 100_000
    assert pictures[0] == cell(notebook, "picture").outputs[0].data["image/png"]
    noise = ("/home", "/root", "/tmp", "/Users", "WARNING")
    texts = [json.dumps(output) for output in outputs if "image/png" not in output.get("data", {})]
    assert not [text for text in texts if any(word in text for word in noise)]
    assert all("execution" not in cell.metadata for cell in code)


# In place of the notebook's constants. A model taught so little solves nothing, so it is rewarded for digits
SHORT = """
FOLDER, SFT_STEPS, STEPS, SEED = Path({folder!r}) / "countdown", 20, 4, 1

def countdown_reward(completions, **kwargs):
    return [float(sum(letter.isdigit() for letter in completion)) for completion in completions]
"""


@pytest.mark.slow
@pytest.mark.parametrize("start", [ROOT, ROOT / "examples"], ids=["root", "examples"])
def test_notebook_runs(notebook, start, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it has to find the examples by itself
    cell(notebook, "constants").source = SHORT.format(folder=str(tmp_path))
    cell(notebook, "settings").source += f"\nsettings |= {{'output_dir': {str(tmp_path)!r}, 'logging_steps': 2}}"
    cell(notebook, "picture").outputs = []
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(start)}}).execute()
    head, grpo, opefo, flows = cell(notebook, "numbers").outputs[0].text.splitlines()
    assert head.endswith("4 steps, seed 1:") and flows.startswith("OPEFO, last ten:  P 0.0")
    starts, ends = zip(*(map(float, line.split()[2:5:2]) for line in (grpo, opefo)), strict=True)
    assert min(starts) > 0.5 and ends[0] != ends[1]
    assert "image/png" in cell(notebook, "picture").outputs[0].data


def test_lora(tmp_path, monkeypatch):
    make_model().save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    rows = [{"problem": f"a{i}", "solution": rf"hence \boxed{{{i}}}"} for i in range(8)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = []
    monkeypatch.setattr(lora, "train", lambda *args, train=lora.train: kept.append(train(*args)))
    seen = []

    def reward(completions, solution, **kwargs):  # the tiny model solves nothing
        seen.extend(solution)
        return [float(sum(letter in "abcd02468" for letter in completion)) for completion in completions]

    monkeypatch.setattr(lora, "math_reward", reward)
    options = {
        "model": tmp_path / "base",
        "dtype": "float32",
        "dataset": tmp_path / "problems.jsonl",
        "prompt_template": "b{prompt}",
        "lora_rank": 2,
        "output_dir": tmp_path / "run",
        "max_steps": 2,
        "learning_rate": 0.01,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "max_completion_length": 10,
        "use_cpu": "true",
        "bf16": "false",
        "gradient_checkpointing": "false",
    }
    monkeypatch.setattr(sys, "argv", ["lora.py", *(word for k, v in options.items() for word in (f"--{k}", str(v)))])
    lora.main()

    (trainer,) = kept
    assert trainer.args.lr_scheduler_type == "constant" and trainer.args.is_on_policy  # the script's defaults
    assert trainer.train_dataset[3] == {"problem": "a3", "prompt": "ba3", "solution": r"\boxed{3}"}
    assert set(seen) <= {rf"\boxed{{{i}}}" for i in range(8)} and len(seen) == 2 * 8
    logs = [log for log in trainer.state.log_history if "entropy" in log]
    assert len(logs) == 2 and all(log["entropy_flow/increase"] > 0 for log in logs)
    assert all(log["entropy_flow/coefficient"] != 0 for log in logs)

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "run")
    adapter = {name: value for name, value in model.state_dict().items() if "lora_" in name}
    assert len(adapter) == 2 * 7 * 2  # A and B of each linear layer of two blocks
    trained = trainer.model.state_dict()
    assert all(value.abs().max() > 0 and torch.equal(value, trained[name]) for name, value in adapter.items())
    base = make_model().state_dict()
    left = trainer.model.unload().state_dict()
    assert base.keys() == left.keys() and all(torch.equal(base[name], left[name]) for name in base)


@pytest.fixture
def countdown(tmp_path):
    """A folder as `prepare` writes it, with an untaught model."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "data").mkdir()
    puzzles = generate_puzzles(0)
    for split in ("train", "test"):
        write_puzzles([next(puzzles) for _ in range(40)], tmp_path / "data" / f"{split}.jsonl")
    (tmp_path / "prepared.json").write_text(json.dumps({"sft_steps": 7, "seed": 0, "sizes": [5], "train_puzzles": 64}))
    return tmp_path


def digits(completions, **kwargs):
    """A reward that an untaught model gets sometimes."""
    return [float(sum(letter.isdigit() for letter in completion)) for completion in completions]


def test_monitor_is_grpo(countdown, monkeypatch, capsys):
    kept = []
    monkeypatch.setattr(monitor, "train", lambda *args, train=monitor.train: kept.append(train(*args)) or kept[0])
    monkeypatch.setattr(monitor, "countdown_reward", digits)
    monkeypatch.setitem(monitor.SETTINGS, "output_dir", str(countdown / "run"))
    monkeypatch.setattr(sys, "argv", ["monitor.py", "--folder", str(countdown), "--steps", "2", "--sft_steps", "7"])
    monitor.main()
    (monitored,) = kept
    grpo = GRPOTrainer(
        str(countdown / "base"),
        digits,
        GRPOConfig(**monitor.SETTINGS, max_steps=2),
        load_dataset(str(countdown / "data"), split="train"),
    )
    grpo.train()
    expected = grpo.model.state_dict()
    untaught = AutoModelForCausalLM.from_pretrained(countdown / "base").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in monitored.model.state_dict().items())
    assert not all(torch.equal(value, expected[name]) for name, value in untaught.items())
    logs = [log for log in monitored.state.log_history if "entropy" in log]
    assert len(logs) == 2 and all({f"entropy_flow/{name}" for name in METRICS} <= log.keys() for log in logs)
    for log in logs:
        assert log["entropy_flow/coefficient"] == 0 < min(log["entropy_flow/increase"], log["entropy_flow/decrease"])
    used, *lines = capsys.readouterr().out.splitlines()[:4]
    assert used == f"Using the puzzles and the base model that are in {countdown}."
    assert lines == monitor.table(logs, 0.5).splitlines() and len(lines) == 3


def test_table_of_flows():
    logs = [
        {"entropy": 1.0, "entropy_flow/increase": 0.1, "entropy_flow/decrease": 0.3, "entropy_flow/net": net}
        for net in [-0.5, -0.1, 0.25, 0.05, 0.9, 0.1]
    ]
    head, *lines = monitor.table(logs, max_coefficient=0.4).splitlines()
    assert head.split() == ["steps", "entropy", "P", "N", "net", "λ"]
    assert [line.split() for line in lines] == [
        ["1-2", "1.000", "0.1000", "0.3000", "-0.300", "+0.250"],
        ["3-4", "1.000", "0.1000", "0.3000", "+0.150", "-0.150"],
        ["5-6", "1.000", "0.1000", "0.3000", "+0.500", "-0.250"],
    ]
