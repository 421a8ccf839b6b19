"""`opefo train --dry_run`: what it says is what the training does, and what is off is named with its mend."""

import json

import pytest
import torch
import yaml
from conftest import make_model, make_tokenizer

from opefo_trl import OPEFOTrainer
from opefo_trl.commands import cli, parts, train
from opefo_trl.commands.dry_run import read_plan


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"prompt": "a" * (i % 9 + 1), "answer": str(i)} for i in range(29)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "model_name_or_path": "model",
        "dataset_name": "sums.jsonl",
        "dataset_solution_column": "answer",
        "prompt_template": "b{prompt}",
        "reward_funcs": ["math_reward"],
        "output_dir": "run",
        "num_processes": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "num_generations": 4,
        "num_train_epochs": 1.5,
        "max_completion_length": 8,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "epoch",
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dry_run(capsys, *options):
    try:
        code = cli.main(["train", "--config", "recipe.yaml", "--dry_run", *options])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("opefo train: error: ")]
    return code, captured.out, errors


def test_golds_that_are_read_as_text_alone(recipe, capsys):
    rows = [json.loads(line) for line in (recipe / "sums.jsonl").read_text().splitlines()]
    for row, answer in zip(rows, ["It is the sum of both.", "2 3", None], strict=False):
        row["answer"] = answer
    (recipe / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out, errors = dry_run(capsys)
    assert code == 0 and not errors
    assert "28 of 29 gold answers can be read. The other rows give no reward." in out
    assert (
        "`math_reward` cannot parse 2 of 28 gold answers, so only the same text earns 1 ('It is "
        "the sum of both.'; '2 3'): write them as LaTeX formulas, or leave these rows out."
    ) in out


def test_what_it_says_is_what_the_training_does(recipe, capsys):
    code, out, errors = dry_run(capsys)
    assert code == 0 and not errors and "No problems found." in out
    assert "All 29 gold answers can be read.\n`math_reward` can parse all 29 gold answers.\n" in out
    assert not (recipe / "run").exists(), "nothing may have been started"
    assert (
        "Rollouts: 1 process × 2 completions × 4 accumulation steps = 2 prompts × 4 completions = 8 completions per "
        "optimizer step, strictly on-policy\n"
    ) in out
    assert "First prompt:\n    ba\n" in out
    assert "Prompts: 6 tokens at the median, 10 at most (of 29 rows); completions: 8 at most" in out
    assert (
        r"Reward: math_reward gives 1.0 for the gold answer (\boxed{0}), 0.0 for a wrong answer (\boxed{-987654321})"
    ) in out
    assert "    save_strategy: epoch\n" in out
    assert "learning_rate" not in out and "    num_train_epochs: 1.5\n" in out, "only what is not the default"

    trainer = OPEFOTrainer(**train.prepare(*train.parse(["--config", "recipe.yaml"])))
    trainer.train()
    assert "Steps: 29 rows = 14 optimizer steps per epoch; 21 steps = 1.50 epochs, 168 completions" in out
    assert trainer.state.max_steps == trainer.state.global_step == 21
    size = sum(p.numel() for p in make_model().parameters()) / 1e9
    assert f"; {size:.2f} B parameters" in out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            "--max_completion_length 60",
            "A prompt of 10 tokens and a completion of 60 exceed `max_position_embeddings` (64): set "
            "`dataset_max_prompt_length: 4`, or lower `max_completion_length`.",
        ),
        ("--reward_funcs accuracy_reward", "Reward function 'accuracy_reward' needs chat messages"),
        (
            "--reward_funcs bad.short",
            "Reward function `short` must return a number or None per completion, got [1.0].",
        ),
        ("--reward_funcs bad.broken", "Reward function `broken` raises ZeroDivisionError"),
        (
            "--dataset_solution_column nothing --reward_funcs bad.fine",
            "Most rows have no gold answer in column 'nothing'",
        ),
        (
            "--num_generations 2 --gradient_accumulation_steps 32",
            "29 rows do not fill a rollout batch of 32 prompts: use more rows or a smaller batch.",
        ),
        ("--dataset_streaming true", "A streamed dataset has no length: set `max_steps`."),
        ("--conversational true", "Cannot use chat template functions because tokenizer.chat_template is not set"),
        ("--num_iterations 2", "OPEFO takes one optimizer step per rollout batch"),
        ("--math_reward_tolerance 2", "`math_reward_tolerance` is 2.0, but must be at least 0 and below 1"),
        ("--math_reward_units some", "`math_reward_units` is 'some': set it to 'optional' or 'required'."),
        ("--dataset_name gone.jsonl", "Dataset file gone.jsonl does not exist"),
        ("--model_name_or_path ./gone", "`model_name_or_path` ./gone is neither a folder nor a name on the hub"),
        ("--dataset_filter level", "`dataset_filter` must be a JSON object of column names and values"),
        ("--num_processes 3 --gradient_accumulation_steps 1", "generation_batch_size (6) must be divisible by"),
    ],
)
def test_what_is_off_is_named_with_its_mend(recipe, capsys, options, sentence):
    (recipe / "bad.py").write_text(
        "def fine(completions, **kwargs):\n    return [1.0] * len(completions)\n\n"
        "def short(completions, **kwargs):\n    return [1.0]\n\n"
        "def broken(completions, **kwargs):\n    1 / 0\n"
    )
    rows = [json.loads(line) for line in (recipe / "sums.jsonl").read_text().splitlines()]
    (recipe / "sums.jsonl").write_text("\n".join(json.dumps({**row, "nothing": ""}) for row in rows))
    code, _, errors = dry_run(capsys, *options.split())
    assert code == 2 and len(errors) == 1 and sentence in errors[0]


def test_several_things_are_named_at_once(recipe, capsys):
    code, out, errors = dry_run(capsys, "--max_completion_length", "60", "--dataset_streaming", "true")
    assert code == 2 and len(errors) == 2 and "Problems found: 2." in out


def test_processes_of_another_machine(recipe, capsys):
    """The batch of sixteen GPUs, on a machine without any."""
    code, out, _ = dry_run(capsys, "--num_processes", "16", "--per_device_train_batch_size", "1")
    assert code == 0
    assert "16 processes × 1 completions × 4 accumulation steps = 16 prompts × 4 completions = 64 completions" in out
    assert "Steps: 29 rows = 1 optimizer steps per epoch" in out


@pytest.mark.parametrize(("config", "stage"), [("zero2", 2), ("zero3", 3), ("fsdp2", 3), ("multi_gpu", 0)])
def test_plan_from_trls_accelerate_files(config, stage):
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    plan = read_plan(resolve_accelerate_config_argument(["--accelerate_config", config, "--num_processes", "4"]))
    assert (plan.zero_stage, plan.num_processes, plan.offload_optimizer) == (stage, 4, False)
    plan = read_plan(resolve_accelerate_config_argument(["--accelerate_config", config]))
    assert plan.num_processes == 8


def test_plan_from_options():
    options = ["--use_deepspeed", "--zero_stage", "3", "--offload_optimizer_device", "cpu", "--num_processes", "2"]
    plan = read_plan(options)
    assert (plan.zero_stage, plan.num_processes, plan.offload_optimizer, plan.offload_params) == (3, 2, True, False)


def test_not_under_accelerate(recipe, capsys):
    with pytest.raises(SystemExit):
        train.main(["--config", "recipe.yaml", "--dry_run"])
    assert "`--dry_run` does not work with `accelerate launch`: use `opefo train --dry_run`" in capsys.readouterr().err


def test_a_gpu_too_small(recipe, capsys, monkeypatch):
    class SmallGPU:
        total_memory = 1024**3

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SmallGPU)
    monkeypatch.setattr(parts, "find_spec", lambda name: None)
    code, _, errors = dry_run(capsys, "--use_vllm", "true")
    assert code == 2 and len(errors) == 2
    assert "The estimated 2 GiB exceed this GPU's 1 GiB: lower `per_device_train_batch_size`" in errors[0]
    assert "`use_vllm` needs the package vllm: `pip install 'trl[vllm]'`, or set `use_vllm: false`." in errors[1]
