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
    assert found["flow_strength"].default == "1.0" and "Fraction of the correction" in found["flow_strength"].help
    sections = {
        "seed": "steps",
        "learning_rate": "steps",
        "temperature": "rollouts",
        "beta": "loss",
        "lora_r": "model",
    }
    sections |= {"dataset_name": "data", "prompt_template": "data", "reward_funcs": "reward", "use_vllm": "vllm"}
    sections |= {"flow_strength": "flow", "reward_warn_seconds": "reward", "save_steps": "logs", "deepspeed": "system"}
    assert {name: found[name].section for name in sections} == sections
    assert {field.section for field in found.values()} == set(fields.SECTIONS)


def test_help_shows_the_method_and_names_every_other_field():
    text = fields.format_help("opefo train")
    names = {field.name for field in fields.read_fields()}
    listed = [word.removeprefix("--") for word in text.split() if word.removeprefix("--") in names]
    assert names <= set(listed)
    heads = [text.index(f"\n{section}: ") for section in fields.SECTIONS]
    assert heads == sorted(heads)
    assert "Fraction of the correction" in text and "The initial learning rate" not in text


def test_help_on_a_topic():
    everything = fields.format_help("opefo train", "all")
    lines = [line.split(" ")[2] for line in everything.splitlines() if line.startswith("  --")]
    assert sorted(lines) == sorted(f"--{field.name}" for field in fields.read_fields())
    flow = fields.format_help("opefo train", "flow")
    assert flow in everything and "--flow_strength" in flow and "--learning_rate" not in flow
    assert "--learning_rate" in fields.format_help("opefo train", "learning")
    with pytest.raises(ValueError, match="No section is called `zzz`"):
        fields.format_help("opefo train", "zzz")


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
    fields.check_names([])
    path = tmp_path / "right.yaml"
    path.write_text("env: {A: b}\nlearning_rate: 1\nnum_processes: 2\naccelerate_config: zero2\n")
    fields.check_names(["--config", str(path), "--learning-rate", "1", "--no_bf16", "--num_processes", "1"])


def test_other_versions_are_left_to_the_parser(monkeypatch):
    monkeypatch.setattr(fields, "CLASSES", (("trl.trainer.grpo_config", "NoSuchClass"),))
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
