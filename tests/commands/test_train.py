"""`opefo train`: a run from a YAML file, its resumption, and every refusal in one sentence."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import make_model
from safetensors.torch import load_file
from train_runs import make_recipe, refuse

from opefo_trl import OPEFOTrainer, checkpoints
from opefo_trl.commands import train


OPEFO = str(Path(sys.executable).with_name("opefo"))
TWO_PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    return make_recipe(tmp_path, monkeypatch)


def test_yaml_and_overrides(recipe):
    (recipe / "recipe.yaml").write_text((recipe / "recipe.yaml").read_text() + "env: {OPEFO_TEST: 7}\n")
    script_args, training_args, model_args, _ = train.parse(
        ["--config", "recipe.yaml", "--flow_strength", "0.25", "--dataset_prompt_column=question", "--use_peft"]
    )
    assert (training_args.max_steps, training_args.learning_rate, training_args.flow_strength) == (4, 1e-3, 0.25)
    assert script_args.dataset_prompt_column == "question" and script_args.reward_funcs == ["letters.reward"]
    assert model_args.use_peft and os.environ.pop("OPEFO_TEST") == "7"


def test_interrupted_run_resumes_by_itself(recipe, capsys):
    train.main(["--config", "recipe.yaml", "--output_dir", "whole"])
    train.main(["--config", "recipe.yaml", "--max_steps", "2"])
    train.main(["--config", "recipe.yaml"])
    assert "Resuming from run/checkpoint-2." in capsys.readouterr().out
    whole, resumed = (load_file(recipe / name / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    logs = json.loads((recipe / "run" / "trainer_state.json").read_text())["log_history"]
    assert sum("entropy_flow/coefficient" in log for log in logs) == 4

    before = (recipe / "run" / "model.safetensors").read_bytes()
    train.main(["--config", "recipe.yaml"])
    assert "This run is already finished (last checkpoint: run/checkpoint-4)" in capsys.readouterr().out
    assert (recipe / "run" / "model.safetensors").read_bytes() == before, "a finished run is left as it is"


def test_resuming_without_the_entropy_target_is_refused(recipe, capsys):
    train.main(["--config", "recipe.yaml", "--max_steps", "2"])
    message = refuse(capsys, "--flow_entropy_target_ratio", "0.7")
    assert "run/checkpoint-2 belongs to another run: `flow_entropy_target_ratio` was None and is 0.7" in message
    state = recipe / "run" / "checkpoint-2" / "entropy_flow_state.json"
    kept = json.loads(state.read_text())
    state.write_text(json.dumps({"files": kept["files"]}))  # of a version that kept no settings
    message = refuse(capsys, "--flow_entropy_target_ratio", "0.7")
    assert "run/checkpoint-2/entropy_flow_state.json does not hold `entropy_target`" in message


def test_rows_without_a_gold_answer_are_counted(recipe, capsys):
    rows = [{"prompt": "a1", "answer": None}, {"prompt": "b2", "answer": "2"}] * 8
    (recipe / "puzzles.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train.main(
        "--config recipe.yaml --reward_funcs math_reward --dataset_solution_column answer --max_steps 1".split()
    )
    assert "8 of 16 rows have no gold answer in column 'answer'. They give no reward." in capsys.readouterr().out


@pytest.mark.parametrize("options", ["", "--use_peft true --lora_target_modules q_proj v_proj"])
def test_the_model_card_is_ours(recipe, options):
    train.main(["--config", "recipe.yaml", "--max_steps", "1", *options.split()])
    card = (recipe / "run" / "README.md").read_text()
    assert "# Model Card for run\n" in card and "- opefo\n" in card and "eprint    = {arXiv:2605.11491}" in card
    assert "fine-tuned version of `model` (from a folder).\n" in card and "None" not in card


def test_lora_run_with_evaluation(recipe):
    evaluation = ["--eval_strategy", "steps", "--eval_steps", "1", "--per_device_eval_batch_size", "8"]
    split = ["--dataset_test_split", "train"]
    train.main(["--config", "recipe.yaml", "--max_steps", "1", "--use_peft", *evaluation, *split])
    assert (recipe / "run" / "adapter_model.safetensors").is_file()
    logs = json.loads((recipe / "run" / "trainer_state.json").read_text())["log_history"]
    assert any("eval_reward" in log for log in logs)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--num_iterations", "2"], "OPEFO takes one optimizer step per rollout batch"),
        (["--flow_strength", "3"], "`flow_strength` must be in [0, 1], got 3.0."),
        (["--flow_strenth", "1"], "Unknown option `--flow_strenth`: did you mean `flow_strength`?"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--flow_estimator", "best"], "invalid choice: 'best'"),
        (["--dataset_prompt_column", "q"], "Dataset puzzles.jsonl has no column 'q': set `dataset_prompt_column`"),
        (["--dataset_name", "gone.jsonl"], "Dataset file gone.jsonl does not exist"),
        (["--dataset_train_split", "dev"], "has no split 'dev': set `dataset_train_split` to one of train."),
        (["--reward_funcs", "letters.sum"], "Reward function 'letters.sum' cannot be imported"),
        (["--reward_funcs", "accuracy_reward"], "Reward function 'accuracy_reward' does not fit the dataset"),
        (["--reward_weights", "1", "2"], "`reward_weights` holds 2 weights for 1 rewards"),
        (["--model_name_or_path", "./gone"], "`model_name_or_path` ./gone is neither a folder nor a name on the hub"),
        (["--resume_from_checkpoint", "gone"], "Checkpoint gone does not exist: check `resume_from_checkpoint`."),
        (["--num_generations", "3"], "must be divisible by num_generations (3)"),
    ],
)
def test_refusals(recipe, capsys, monkeypatch, options, sentence):
    assert sentence in refuse(capsys, *options)
    assert not (recipe / "run").exists(), "nothing may have been started"


def test_weights_that_are_no_safetensors(recipe, capsys):
    torch.save(make_model().state_dict(), recipe / "model" / "pytorch_model.bin")
    (recipe / "model" / "model.safetensors").unlink()
    assert (
        "holds `use_safetensors: false`): Error no file named model.safetensors found in directory model."
        in refuse(capsys)
    )
    train.main(["--config", "recipe.yaml", "--max_steps", "1", "--model_init_kwargs", '{"use_safetensors": false}'])
    assert [path.name for path in (recipe / "run").glob("model*")] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("learning_rat: 1\n", "Unknown key `learning_rat` in config file recipe.yaml: did you mean `learning_rate`?"),
        ("zzz: 1\n", "Unknown key `zzz` in config file recipe.yaml: remove it or correct its name."),
        ("a: [\n", "Config file recipe.yaml is not valid YAML"),
        ("- 1\n", "Config file recipe.yaml must hold `key: value` lines"),
        ("env: 3\n", "`env` in config file recipe.yaml must hold `NAME: value` lines"),
        ("output_dir: run\nuse_cpu: true\nbf16: false\n", "No model: set `model_name_or_path`"),
        ("model_name_or_path: m\nuse_cpu: true\nbf16: false\n", "No reward: set `reward_funcs`"),
    ],
)
def test_config_file_refusals(recipe, capsys, text, sentence):
    (recipe / "recipe.yaml").write_text(text)
    assert sentence in refuse(capsys)


def test_missing_config_file(recipe, capsys):
    (recipe / "recipe.yaml").unlink()
    assert "Config file recipe.yaml cannot be read" in refuse(capsys)


def run(*command):
    return subprocess.run([OPEFO, *command], capture_output=True, text=True, timeout=300)


def test_the_command(recipe):
    """The whole way, through accelerate, with an option of `accelerate launch` on the line and one in the file."""
    (recipe / "recipe.yaml").write_text((recipe / "recipe.yaml").read_text() + "num_machines: 1\n")
    done = run("train", "--config", "recipe.yaml", "--num_processes", "1", "--max_steps", "1")
    assert done.returncode == 0, done.stderr
    assert "First prompt: 'a10'" in done.stdout and "Model saved to run." in done.stdout
    assert (recipe / "run" / "model.safetensors").is_file()


def test_the_command_refuses_with_exit_code_2(recipe):
    done = run("train", "--config", "recipe.yaml", "--flow_max_coefficient", "1.5")
    assert done.returncode == 2
    assert (
        done.stderr.strip().splitlines()[-1].startswith("opefo train: error: `flow_max_coefficient` must be in (0, 1)")
    )
    assert "Traceback" not in done.stderr


def test_the_command_knows_the_options_of_accelerate(recipe):
    done = run("train", "--config", "recipe.yaml", "--num_procesess", "2")
    assert done.returncode == 2
    assert done.stderr == "opefo train: error: Unknown option `--num_procesess`: did you mean `num_processes`?\n"


def test_an_output_folder_that_cannot_be_written_is_refused(recipe, capsys):
    (recipe / "file").touch()
    assert refuse(capsys, "--output_dir", "file/run") == (
        "opefo train: error: `output_dir` file/run cannot be written to: Not a directory."
    )


def test_a_model_that_cannot_be_saved_leaves_the_one_before(recipe, capsys, monkeypatch):
    train.main(["--config", "recipe.yaml", "--max_steps", "2"])
    before = {path: path.read_bytes() for path in (recipe / "run").iterdir() if path.is_file()}
    save = OPEFOTrainer.save_model

    def full(self, output_dir, _internal_call=False):
        save(self, output_dir, _internal_call)
        if not _internal_call:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(OPEFOTrainer, "save_model", full)
    message = refuse(capsys)
    assert message.startswith("opefo train: error: The model could not be saved to run ([Errno 28] No space left")
    assert (recipe / "run" / "model.safetensors").read_bytes() == before[recipe / "run" / "model.safetensors"]
    monkeypatch.undo()
    monkeypatch.chdir(recipe)
    train.main(["--config", "recipe.yaml", "--max_steps", "6"])
    assert (recipe / "run" / "model.safetensors").read_bytes() != before[recipe / "run" / "model.safetensors"]
    assert not (recipe / "run" / "unfinished").exists()


def run_command(*options, limit=None, program=(OPEFO, "train")):
    """A program of its own, which cannot write more than `limit` bytes to a file."""

    def set_limit():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [*program, "--config", "recipe.yaml", *options]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=set_limit)


def errors(done):
    return [line for line in done.stderr.splitlines() if line.startswith("opefo train: error:")]


@pytest.mark.slow  # three starts
def test_a_file_that_cannot_be_written_whole_stops_the_run_in_one_sentence(recipe):
    """The model of 100 kB fits, the optimizer's two moments do not; with room again the run goes on, bit for bit."""
    whole = run_command("--output_dir", "whole")
    assert whole.returncode == 0, whole.stderr
    size = (recipe / "whole" / "checkpoint-2" / "optimizer.pt").stat().st_size
    stopped = run_command(limit=size - 1)
    (sentence,) = errors(stopped)
    assert stopped.returncode == 2 and "Checkpoint run/checkpoint-2 could not be written" in sentence
    assert "Traceback" not in stopped.stderr
    resumed = run_command()
    assert "Skipping run/checkpoint-2, which is incomplete" in resumed.stdout
    one, other = (load_file(recipe / name / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow  # two processes
def test_a_reward_that_fails_in_one_process_stops_both(recipe):
    with open(recipe / "letters.py", "a") as file:
        file.write(
            "def failing(completions, **kwargs):\n"
            "    import os\n"
            "    if os.environ['RANK'] == '1':\n"
            "        raise KeyError('gone')\n"
            "    return reward(completions)\n"
        )
    began = time.monotonic()
    done = run_command("--reward_funcs", "letters.failing", program=(*TWO_PROCESSES, "-m", "opefo_trl.commands.train"))
    (sentence,) = errors(done)
    assert "A reward function failed at step 0, in failing" in sentence and "KeyError: 'gone'" in sentence
    assert done.returncode != 0
    assert time.monotonic() - began < 120, "the other process waits half an hour in a collective by default"


class Killed(BaseException):
    """No `Exception`, so that nothing cleans up after it."""


def test_a_run_killed_while_its_model_was_saved_saves_it_with_the_next_start(recipe, monkeypatch):
    train.main(["--config", "recipe.yaml", "--output_dir", "whole"])

    def killed(*args):
        raise Killed

    train.main(["--config", "recipe.yaml", "--max_steps", "2"])  # whose model is there, and is not that of four steps
    before = (recipe / "run" / "model.safetensors").read_bytes()
    with monkeypatch.context() as context, pytest.raises(Killed):
        context.setattr(checkpoints, "move_up", killed)
        train.main(["--config", "recipe.yaml"])
    assert (recipe / "run" / "model.safetensors").read_bytes() == before
    train.main(["--config", "recipe.yaml"])
    names = {path.name for path in (recipe / "whole").iterdir()}
    assert {path.name for path in (recipe / "run").iterdir()} == names
    whole, other = (load_file(recipe / name / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(whole[name], other[name]) for name in whole)
