"""`import opefo_trl` is cheap, and its errors are sentences."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import opefo_trl


def python(code, env=None):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


def test_import_loads_neither_torch_nor_any_backend():
    code = (
        "import sys, opefo_trl; "
        "print([m for m in ('torch', 'trl', 'transformers', 'deepspeed', 'vllm') if m in sys.modules])"
    )
    assert python(code).stdout.strip() == "[]"


def test_public_names():
    code = (
        "import opefo_trl; from opefo_trl import EntropyFlowMixin, OPEFOConfig, OPEFOTrainer; "
        "print(EntropyFlowMixin.__name__, OPEFOTrainer.__name__, OPEFOConfig.__name__); "
        "print(set(opefo_trl.__all__) <= set(dir(opefo_trl)))"
    )
    assert python(code).stdout.strip() == "EntropyFlowMixin OPEFOTrainer OPEFOConfig\nTrue"


def test_unknown_name():
    assert "module 'opefo_trl' has no attribute 'Trainer'" in python("import opefo_trl; opefo_trl.Trainer").stderr


def supported_trl():
    """The one place where the range stands."""
    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    return next(text for text in pyproject["project"]["dependencies"] if Requirement(text).name == "trl")


def python_with_trl(folder, version, code):
    """Runs code where the metadata of another TRL comes first."""
    info = folder / f"trl-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: trl\nVersion: {version}\n")
    return python(code, env={**os.environ, "PYTHONPATH": str(folder)})


@pytest.mark.parametrize(
    "module", ["opefo_trl", "opefo_trl.trainer", "opefo_trl.commands.train", "opefo_trl.commands.cli"]
)
@pytest.mark.parametrize("version", ["0.24.0", "1.14.2", "1.15.0.dev0"])
def test_unsupported_trl_is_one_sentence_with_both_versions(tmp_path, module, version):
    needed = supported_trl()
    expected = (
        f"ImportError: opefo_trl {opefo_trl.__version__} works with {needed}, but trl {version} is installed: "
        f"run `pip install '{needed}'`."
    )
    assert python_with_trl(tmp_path, version, f"import {module}").stderr.strip().splitlines()[-1] == expected


@pytest.mark.parametrize("version", ["1.15.0", "1.16.0", "1.16.1.dev0", "1.16.9"])
def test_supported_trl(tmp_path, version):
    result = python_with_trl(tmp_path, version, "import opefo_trl; print(opefo_trl.__version__)")
    assert (result.stdout.strip(), result.stderr) == (opefo_trl.__version__, "")


@pytest.mark.parametrize("version", ["1.17.0.dev0", "1.17.0", "2.0.0"])
def test_a_newer_trl_is_taken_with_one_warning_that_names_the_tested_range(tmp_path, version):
    result = python_with_trl(tmp_path, version, "import opefo_trl, opefo_trl.config; print(opefo_trl.__version__)")
    (warning, _) = result.stderr.strip().splitlines()  # the second line is the code that warns
    assert result.stdout.strip() == opefo_trl.__version__
    assert (
        f"opefo_trl {opefo_trl.__version__} is tested with trl 1.15 to 1.16, and trl {version} is installed" in warning
    )


WITHOUT = """
import importlib.metadata
from importlib.metadata import Distribution, PackageNotFoundError

found = Distribution.from_name

def from_name(name):
    if name == "{name}":
        raise PackageNotFoundError(name)
    return found(name)

Distribution.from_name = from_name
import opefo_trl
"""


def test_without_trl():
    assert python(WITHOUT.format(name="trl")).stderr.strip().splitlines()[-1] == (
        f"ImportError: opefo_trl {opefo_trl.__version__} works with {supported_trl()}, but no trl is installed: "
        f"run `pip install '{supported_trl()}'`."
    )


def test_a_checkout_that_is_not_installed():
    assert python(WITHOUT.format(name="opefo_trl")).stderr.strip().splitlines()[-1] == (
        f"ImportError: opefo_trl {opefo_trl.__version__} is imported from a folder and not installed, so its TRL "
        "requirement is unknown: run `pip install -e .` in its checkout."
    )
