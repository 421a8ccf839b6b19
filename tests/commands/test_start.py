"""How a training starts: whose folder it is, and from which checkpoint it goes on."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import make_dataset, make_model, make_tokenizer
from train_runs import make_recipe, refuse
from transformers import TrainerState

from opefo_trl.checkpoints import last_whole_checkpoint, write_state
from opefo_trl.commands import train


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    return make_recipe(tmp_path, monkeypatch)


def test_starting_anew(recipe, capsys):
    train.main(["--config", "recipe.yaml", "--max_steps", "2"])
    before = (recipe / "run" / "checkpoint-2" / "model.safetensors").read_bytes()
    anew = ["--config", "recipe.yaml", "--max_steps", "2", "--seed", "3", "--resume_from_checkpoint", "false"]
    train.main(anew)
    out = capsys.readouterr().out
    assert "Resuming" not in out and "already finished" not in out
    assert "The checkpoints of the previous run are now in run/earlier-1." in out
    assert (recipe / "run" / "earlier-1" / "checkpoint-2" / "model.safetensors").read_bytes() == before
    train.main(anew)
    assert "are now in run/earlier-2." in capsys.readouterr().out
    train.main(anew[:-2])
    assert "already finished (last checkpoint: run/checkpoint-2)" in capsys.readouterr().out, (
        "the new run's, not the old one's"
    )


@pytest.mark.parametrize(
    ("options", "clause"),
    [
        ("--learning_rate 5e-3", "`learning_rate` was 0.001 and is 0.005"),
        ("--seed 7", "`seed` was 42 and is 7"),
        ("--flow_strength 0.5", "`flow_strength` was 1.0 and is 0.5"),
        ("--reward_funcs others.reward", "`reward_funcs` was ['letters.reward'] and is ['others.reward']"),
        ("--gradient_accumulation_steps 2", "`completions_per_step` was 8 and is 16"),
        ("--dataset_name others.jsonl", "`dataset_name` was puzzles.jsonl and is others.jsonl; `dataset` was "),
        ("--model_name_or_path other", "`model_name_or_path` was "),
        ("--lr_scheduler_type linear", "`lr_scheduler_type` was constant and is linear"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(recipe, capsys, options, clause):
    train.main(["--config", "recipe.yaml", "--max_steps", "2"])
    make_dataset().select(range(8)).to_json(recipe / "others.jsonl")
    make_model().save_pretrained(recipe / "other")
    make_tokenizer().save_pretrained(recipe / "other")
    (recipe / "others.py").write_text("def reward(completions, **kwargs):\n    return [0.0] * len(completions)\n")
    before = (recipe / "run" / "model.safetensors").read_bytes()
    message = refuse(capsys, *options.split())
    assert "run/checkpoint-2 belongs to another run: " in message and clause in message
    assert "To start a new run in this folder, set `resume_from_checkpoint: false`, which" in message
    assert (recipe / "run" / "model.safetensors").read_bytes() == before


def test_what_may_change_on_the_way(recipe, capsys):
    train.main(["--config", "recipe.yaml", "--max_steps", "2"])
    options = "--max_steps 3 --save_steps 1 --logging_steps 2 --per_device_train_batch_size 4 --run_name other"
    train.main(["--config", "recipe.yaml", *options.split(), "--gradient_accumulation_steps", "2"])
    assert "Resuming from run/checkpoint-2." in capsys.readouterr().out
    assert (recipe / "run" / "checkpoint-3").is_dir()


def test_a_finished_run_hides_no_mistake(recipe, capsys):
    train.main(["--config", "recipe.yaml", "--max_steps", "2"])
    for options, sentence in (
        ("--model_name_or_path ./gone", "is neither a folder"),
        ("--dataset_name gone.jsonl", "does not exist"),
        ("--reward_funcs gone", "is unknown"),
    ):
        assert sentence in refuse(capsys, "--max_steps", "2", *options.split())


def test_a_folder_without_a_name(recipe, capsys):
    settings = yaml.safe_load((recipe / "recipe.yaml").read_text())
    del settings["output_dir"]
    (recipe / "recipe.yaml").write_text(yaml.safe_dump(settings))
    for options, name in (([], "opefo"), (["--flow_strength", "0"], "grpo")):
        assert train.parse(["--config", "recipe.yaml", *options])[1].output_dir == f"outputs/model-puzzles-{name}"


def test_two_runs_in_one_folder_at_once(recipe, capsys):
    (recipe / "run").mkdir()
    holder = "import sys; from pathlib import Path; from opefo_trl.commands.lock import hold\n"
    holder += "with hold(Path('run')):\n    print('held', flush=True); sys.stdin.read()\n"
    other = subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    message = refuse(capsys)
    assert f"Process {other.pid} on " in message and "is training in `output_dir` run: wait until it ends" in message
    other.kill()  # SIGKILL: the kernel gives the folder back
    other.wait()
    train.main(["--config", "recipe.yaml", "--max_steps", "2"])
    assert "Model saved to run." in capsys.readouterr().out


def interrupt(recipe, *options, after="'loss'"):
    """Press Ctrl-C in a training of the command, once it has logged; return its exit code and what it said."""
    words = ["--config", "recipe.yaml", "--max_steps", "500", "--save_steps", "2", *options]
    run = subprocess.Popen(
        [str(Path(sys.executable).with_name("opefo")), "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a terminal's process group
    )
    said = []
    for line in run.stdout:
        said.append(line)
        if after in line:
            break
    os.killpg(run.pid, signal.SIGINT)
    said += run.stdout.readlines()
    return run.wait(timeout=60), "".join(said)


@pytest.mark.parametrize("saves", [False, True])
def test_ctrl_c(recipe, saves):
    code, said = interrupt(recipe, "--save_on_interrupt", str(saves))
    assert code == 130 and "Traceback" not in said
    (sentence,) = re.findall(r"opefo train: interrupted at step (\d+)\. (.*)\.", said)
    last, _ = last_whole_checkpoint(str(recipe / "run"))  # Ctrl-C may have cut another one off
    advice = f"To continue from run/{Path(last).name}, run" if last else "No checkpoint was saved"
    assert sentence[1].startswith(advice)
    if saves:
        assert Path(last).name == f"checkpoint-{sentence[0]}", "the step that it ended with"


@pytest.mark.parametrize("num_processes", [1, 2])
def test_two_starts_at_once(recipe, num_processes):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    command = [*launcher, "-m", "opefo_trl.commands.train", "--config", "recipe.yaml", "--max_steps", "60"]
    command += ["--per_device_train_batch_size", str(8 // num_processes)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert sum("Model saved to run." in text for text in said) == 1
    (loser,) = [text for text in said if "Model saved" not in text]
    assert re.search(r"error: Process \d+ on \S+ is training in `output_dir` run: wait until it ends, or set", loser)
    assert json.loads((recipe / "run" / "trainer_state.json").read_text())["global_step"] == 60


# A setting, two of its values, and whether it may differ between two starts of one run
SETTINGS = [
    ("learning_rate", ("1e-3", "2e-3"), False),
    ("lr_scheduler_type", ("constant", "linear"), False),
    ("seed", ("1", "2"), False),
    ("temperature", ("1.0", "0.8"), False),
    ("beta", ("0.0", "0.1"), False),
    ("loss_type", ("dapo", "bnpo"), False),
    ("flow_strength", ("1.0", "0.5"), False),
    ("flow_estimator", ("exact", "sampled"), False),
    ("flow_entropy_target", ("0.5", "0.6"), False),
    ("prompt_template", ("a{prompt}", "b{prompt}"), False),
    ("math_reward_tolerance", ("0.0", "0.1"), False),
    ("max_completion_length", ("8", "9"), False),
    ("use_peft", ("false", "true"), False),
    ("max_steps", ("4", "9"), True),
    ("num_train_epochs", ("1", "2"), True),
    ("save_steps", ("2", "3"), True),
    ("save_total_limit", ("2", "3"), True),
    ("logging_steps", ("1", "5"), True),
    ("run_name", ("a", "b"), True),
    ("report_to", ("none", "all"), True),
    ("log_completions", ("false", "true"), True),
    ("dataloader_num_workers", ("0", "1"), True),
    ("gradient_checkpointing", ("false", "true"), True),
    ("ddp_timeout", ("60", "90"), True),
]


def test_pairs_of_starts(recipe):
    """Two starts with settings drawn at random: the same run goes on, and what makes it another one is named."""
    checkpoint = recipe / "run" / "checkpoint-2"
    checkpoint.mkdir(parents=True)

    def start(choice):
        words = [f"--{name}={values[place]}" for (name, values, _), place in zip(SETTINGS, choice, strict=True)]
        parsed = train.parse(["--config", "recipe.yaml", *words])
        return parsed[1], train.identity_of(*parsed, make_dataset())

    rng = random.Random(0)
    for _ in range(40):
        before = [rng.randrange(2) for _ in SETTINGS]
        now = [1 - place if rng.random() < 0.1 else place for place in before]
        _, identity = start(before)
        TrainerState(global_step=2).save_to_json(str(checkpoint / "trainer_state.json"))
        write_state(checkpoint, {"identity": identity, "entropy_target": 0.5})
        pairs = zip(SETTINGS, before, now, strict=True)
        names = [name for (name, _, may_change), a, b in pairs if a != b and not may_change]
        training_args, identity = start(now)
        if names:
            with pytest.raises(ValueError, match="belongs to another run: ") as raised:
                train.find_start(training_args, identity)
            assert re.findall(r"`(\w+)` was ", str(raised.value)) == [name for name in identity if name in names]
        else:
            assert train.find_start(training_args, identity)[0] == "run/checkpoint-2"
