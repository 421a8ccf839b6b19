"""What the command line prints about itself, and how it splits a line."""

import pytest

from opefo_trl import __version__, cli


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"opefo_trl {__version__}\n"


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "train" in capsys.readouterr().out


def test_train_help_lists_the_knobs(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["train", "--help"])
    out = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert all(name in out for name in ("--flow_strength", "--learning_rate", "--use_peft", "--prompt_template"))


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["trian"])
    assert exit_info.value.code == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err


def test_launch_options_leave_the_rest_in_order():
    line = ["--seed", "2", "--num_processes", "2", "--max_steps", "2"]
    assert cli.without(line, ["--num_processes", "2"]) == ["--seed", "2", "--max_steps", "2"]
    assert cli.without(line, []) == line
