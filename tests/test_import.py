"""`import opefo_trl` is cheap, and its errors are sentences."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import opefo_trl


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_import_loads_neither_torch_nor_any_backend():
    code = (
        "import sys, opefo_trl; "
        "print([m for m in ('torch', 'trl', 'transformers', 'deepspeed', 'vllm') if m in sys.modules])"
    )
    assert python(code).stdout.strip() == "[]"


def test_public_names():
    code = (
        "import opefo_trl; from opefo_trl import OPEFOConfig, OPEFOTrainer; "
        "print(OPEFOTrainer.__name__, OPEFOConfig.__name__, set(opefo_trl.__all__) <= set(dir(opefo_trl)))"
    )
    assert python(code).stdout.strip() == "OPEFOTrainer OPEFOConfig True"


def test_unknown_name():
    assert "module 'opefo_trl' has no attribute 'Trainer'" in python("import opefo_trl; opefo_trl.Trainer").stderr


@pytest.mark.parametrize("module", ["opefo_trl", "opefo_trl.trainer", "opefo_trl.train", "opefo_trl.cli"])
def test_unsupported_trl_is_one_sentence_with_both_versions(module):
    code = f"import importlib.metadata; importlib.metadata.version = lambda name: '1.17.0'; import {module}"
    expected = (
        "ImportError: opefo_trl 0.1.0 works with trl>=1.16,<1.17, but trl 1.17.0 is installed: "
        "run `pip install 'trl>=1.16,<1.17'`."
    )
    assert python(code).stderr.strip().splitlines()[-1] == expected


def test_trl_range_is_that_of_the_package_metadata():
    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert f"trl{opefo_trl.TRL_RANGE}" in pyproject["project"]["dependencies"]
