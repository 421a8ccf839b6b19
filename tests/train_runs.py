"""Trainings by the command, for the tests."""

import sys

import pytest
import yaml
from conftest import make_dataset, make_model, make_tokenizer

from opefo_trl.commands import train


def make_recipe(tmp_path, monkeypatch):
    """A recipe in a folder of its own, as a user has it: model, data, reward and YAML."""
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    make_dataset().to_json(tmp_path / "puzzles.jsonl")
    (tmp_path / "letters.py").write_text(
        "def reward(completions, **kwargs):\n"
        "    return [float(sum(letter in 'abcd02468' for letter in completion)) for completion in completions]\n"
    )
    settings = {
        "model_name_or_path": "model",
        "dataset_name": "puzzles.jsonl",
        "reward_funcs": ["letters.reward"],
        "output_dir": "run",
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 4,
        "save_steps": 2,
        "learning_rate": "1e-3",
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "report_to": "none",
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def refuse(capsys, *options):
    with pytest.raises(SystemExit) as exit_info:
        train.main(["--config", "recipe.yaml", *options])
    assert exit_info.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]
