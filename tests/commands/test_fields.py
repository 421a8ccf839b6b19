"""The fields that are read from sources are those that the parser has, and nothing heavy is imported for them."""

import subprocess
import sys

import pytest

from opefo_trl.commands import fields
from opefo_trl.commands.arguments import launch_actions, make_parser


def test_the_parser_has_the_same_fields():
    parsed = {action.dest for action in make_parser()._actions} - {"help", "config"}
    assert {field.name for field in fields.read_fields()} == parsed
    assert set(launch_actions()) <= fields.launch_options()


def test_help_and_default_of_a_field():
    found = {field.name: field for field in fields.read_fields()}
    assert found["flow_strength"].default == "1.0" and "Share of the balance" in found["flow_strength"].help
    assert found["flow_strength"].section == "OPEFO" and found["seed"].section == "Training (transformers)"
    text = fields.format_help("opefo train")
    assert text.index("--flow_strength") < text.index("--dataset_name") < text.index("--num_generations")
    lines = [line.split(" ")[2] for line in text.splitlines() if line.startswith("  --")]
    assert sorted(lines) == sorted(f"--{name}" for name in found), "each field once"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("--lerning_rate 1", "Unknown option `--lerning_rate`: did you mean `learning_rate`?"),
        ("--flow-strengh=1", "Unknown option `--flow-strengh=1`: did you mean `flow_strength`?"),
        ("--zzz", "Unknown option `--zzz`: remove it or correct its name."),
        ("--config wrong.yaml", "Unknown key `lerning_rate` in config file wrong.yaml: did you mean `learning_rate`?"),
        ("--config=wrong.yaml", "Unknown key `lerning_rate` in config file wrong.yaml"),
        ("--config gone.yaml", "Config file gone.yaml cannot be read"),
    ],
)
def test_names_that_nothing_knows(tmp_path, monkeypatch, args, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("lerning_rate: 1\n")
    with pytest.raises(ValueError) as raised:
        fields.check_names(args.split())
    assert str(raised.value).startswith(sentence)


def test_names_that_are_known(tmp_path):
    path = tmp_path / "right.yaml"
    path.write_text("env: {A: b}\nlearning_rate: 1\nnum_processes: 2\naccelerate_config: zero2\n")
    fields.check_names(["--config", str(path), "--learning-rate", "1", "--no_bf16", "--num_processes", "1"])


def test_other_versions_are_left_to_the_parser(monkeypatch):
    monkeypatch.setattr(fields, "SECTIONS", (("a", "trl.trainer.grpo_config", "NoSuchClass"),))
    fields.read_fields.cache_clear()
    try:
        with pytest.raises(LookupError, match="has no class NoSuchClass"):
            fields.read_fields()
        fields.check_names(["--lerning_rate", "1"])
    finally:
        monkeypatch.undo()
        fields.read_fields.cache_clear()


@pytest.mark.parametrize("words", [["train", "--help"], ["train", "--lerning_rate", "1"], ["--version"]])
def test_nothing_heavy_is_imported_to_refuse(words):
    code = (
        "import sys\nfrom opefo_trl.commands import cli\n"
        f"try:\n    cli.main({words!r})\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'trl', 'accelerate', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
