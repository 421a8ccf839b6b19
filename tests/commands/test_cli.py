"""What the command line prints about itself, and how it splits a line."""

import pytest

from opefo_trl import __version__
from opefo_trl.commands import arguments, cli


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"opefo_trl {__version__}\n"


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert "train" in out and "plot" in out


def test_train_help_lists_the_knobs(capsys):
    assert cli.main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("--flow_strength", " learning_rate ", " use_peft ", " prompt_template "))


def test_train_help_on_a_section(capsys):
    assert cli.main(["train", "--help", "flow"]) == 0
    out = capsys.readouterr().out
    assert "--flow_strength" in out and "learning_rate" not in out
    assert cli.main(["train", "--help", "nothing"]) == 2
    assert "No section is called `nothing`" in capsys.readouterr().err


def test_help_with_other_versions_is_the_parser_s(capsys, monkeypatch):
    def fail(*args):
        raise LookupError

    monkeypatch.setattr(cli, "format_help", fail)
    assert cli.main(["train", "--help", "flow"]) == 0
    assert "--flow_strength" in capsys.readouterr().out


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["trian"])
    assert exit_info.value.code == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err


def test_launch_options_leave_the_rest_in_order():
    line = ["--seed", "2", "--num_processes", "2", "--max_steps", "2"]
    assert arguments.without(line, ["--num_processes", "2"]) == ["--seed", "2", "--max_steps", "2"]
    assert arguments.without(line, []) == line


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """What `accelerate launch` would be called with, for a recipe with options of its own."""
    calls = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", calls.append)
    monkeypatch.setattr(cli, "check_first", lambda train_args, launch_args: 0)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rate: 1e-6\naccelerate_config: zero3\nnum_processes: 2\nmulti_gpu: true\ntpu: false\n")

    def launch(*options):
        assert cli.main(["train", "--config", str(recipe), *options]) == 0
        return calls[-1]

    return launch


def test_accelerate_options_in_the_file(launched):
    args = launched("--max_steps", "3")
    assert args.config_file.endswith("trl/accelerate_configs/zero3.yaml")
    assert (args.num_processes, args.multi_gpu, args.tpu) == (2, True, False)
    assert (args.module, args.training_script) == (True, "opefo_trl.commands.train")
    assert args.training_script_args[0] == "--config" and args.training_script_args[2:] == ["--max_steps", "3"]


def test_accelerate_options_on_the_line_override_the_file(launched):
    args = launched("--num_processes", "4", "--max_steps", "4", "--accelerate_config", "zero2")
    assert args.config_file.endswith("zero2.yaml") and args.num_processes == 4
    assert args.training_script_args[2:] == ["--max_steps", "4"]
