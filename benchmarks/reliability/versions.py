"""The ranges of `pyproject.toml`, put to the test: a virtual environment and a run of the tests per row of a table.

    python -m benchmarks.reliability.versions                       # all rows: minutes each, and gigabytes of torch
    python -m benchmarks.reliability.versions --only oldest newest --pin torch==2.13.0

The row `oldest` has every dependency at its floor, `newest` whatever the ranges admit today, and each row between them
one package at its floor and the rest at their newest. The floors are read from `pyproject.toml`. Environments are made
in the temporary folder of the system (`TMPDIR`) and removed; the output folder keeps the table and, per row, the pins,
what pip said and what pytest recorded. Exit code 1 if a row does not install or a test fails.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement
from tqdm.auto import tqdm

from benchmarks.markdown import table


ROOT = Path(__file__).parents[2]
# Packages that have a row of their own, in which they alone are at their floor
ALONE = ("trl", "transformers", "accelerate", "torch")
ROWS = ("oldest", *ALONE, "newest")
# What touches other packages, and why it is here
TESTS = {
    "test_import": "the TRL that is refused",
    "test_config": "GRPOConfig's fields and checks",
    "entropy_flow/test_mathematics": "the mathematics in torch",
    "entropy_flow/test_method": "the formulas of the documentation in numpy",
    "entropy_flow/test_projection": "the projection and the kernel beside TRL's",
    "entropy_flow/test_head": "add_fused_lm_head and its call of the projection",
    "test_trainer_gradient": "the loss of every type, advantages per token",
    "test_trainer": "the pass over the rollouts, metrics, GRPO bit for bit, PEFT",
    "test_poisoned": "what TRL makes of rewards that are no numbers",
    "test_vllm": "TRL's own pass and its correction of the sampler",
    "test_checkpoints": "checkpoints of transformers",
    "test_distributed": "accelerate, DeepSpeed, FSDP2, and PEFT in each",
    "commands/test_train": "TrlParser, accelerate's launcher, YAML",
    "commands/test_dry_run": "everything up to the training",
    "commands/test_recipes": "every field that a recipe names",
    "data/test_datasets": "datasets",
    "grading/test_rewards": "math-verify, and TRL's rewards",
    "commands/test_plot": "matplotlib on the log of a run",
}


@dataclass
class Result:
    """
    What came out of a row.

    Args:
        row (`str`):
            Its name.
        versions (`dict[str, str]`):
            Installed versions by package, empty if the row does not install.
        error (`str`):
            Why pip could not install it, if so.
        passed, skipped (`int`):
            Tests.
        failed (`list[str]`):
            Names of tests.
        seconds (`float`):
            What the tests took.
    """

    row: str
    versions: dict[str, str] = field(default_factory=dict)
    error: str = ""
    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        return not self.error and not self.failed and self.passed > 0


def read_ranges(pyproject: Path = ROOT / "pyproject.toml") -> dict[str, Requirement]:
    """The dependencies that this platform installs, those of the extra `plot` included, by name."""
    project = tomllib.loads(pyproject.read_text())["project"]
    requirements = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["plot"]])
    return {it.name: it for it in requirements if it.marker is None or it.marker.evaluate()}


def floor(requirement: Requirement) -> str:
    """
    The lowest version in a range, as a pin: `trl>=1.15,<1.17` gives `trl==1.15`.

    Raises:
        `ValueError`: if the range has no lower bound.
    """
    bounds = [bound.version for bound in requirement.specifier if bound.operator == ">="]
    if not bounds:
        raise ValueError(f"`{requirement}` in pyproject.toml has no floor to test: write `{requirement.name}>=X`.")
    return f"{requirement.name}=={bounds[0]}"


def pins_of(row: str, ranges: dict[str, Requirement], given: dict[str, str]) -> list[str]:
    """
    The pins of a row.

    Args:
        row (`str`):
            One of `ROWS`.
        ranges (`dict[str, Requirement]`):
            From [`read_ranges`].
        given (`dict[str, str]`):
            Pins by package that stand in every row, in the place of a floor.

    Returns:
        `list[str]`: lines for pip's `--constraint`.
    """
    low = {"oldest": tuple(ranges), "newest": ()}.get(row, (row,))
    return list(({name: floor(ranges[name]) for name in low} | given).values())


def read_junit(path: Path) -> tuple[int, int, list[str], float]:
    """Passed, skipped, names of the failed and seconds, from the file that `pytest --junitxml` writes."""
    suite = ElementTree.parse(path).getroot().find("testsuite")
    assert suite is not None, f"{path} holds no test suite"
    cases = suite.findall("testcase")
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return len(cases) - skipped - len(failed), skipped, failed, float(suite.get("time", "nan"))


# What the environment of a row answers about itself
ASK = """
import json, sys
from importlib.metadata import version
print(json.dumps({package: version(package) for package in sys.argv[1:]}))
"""


def pip_error(log: str) -> str:
    """What pip says from its first line of an error on: the packages that contradict each other."""
    return log[max(0, log.find("ERROR:")) :].strip()


def run(row: str, pins: list[str], packages: list[str], output: Path) -> Result:
    """Install a row in a fresh environment and run the tests there, which say on the terminal how far they are."""
    result = Result(row)
    constraints, log, record = (output / f"{row}.{kind}" for kind in ("txt", "log", "xml"))
    constraints.write_text("".join(f"{pin}\n" for pin in pins))
    record.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="opefo_trl-") as folder:
        tqdm.write(f"{row}: installing, with {', '.join(pins) or 'no pin'}")
        venv.create(folder, with_pip=True)
        python = f"{folder}/bin/python"
        install = [python, "-m", "pip", "install", "--disable-pip-version-check", "--constraint", str(constraints)]
        pip = subprocess.run([*install, "--editable", f"{ROOT}[dev]"], capture_output=True, text=True)
        log.write_text(pip.stdout + pip.stderr)
        if pip.returncode != 0:
            result.error = pip_error(log.read_text())
            return result
        versions = subprocess.run([python, "-c", ASK, *packages], capture_output=True, text=True, check=True)
        result.versions = json.loads(versions.stdout)
        tqdm.write(f"{row}: testing {', '.join(f'{name} {version}' for name, version in result.versions.items())}")
        files = [f"tests/{name}.py" for name in TESTS]
        subprocess.run([python, "-m", "pytest", "--tb=short", f"--junitxml={record.resolve()}", *files], cwd=ROOT)
    result.passed, result.skipped, result.failed, result.seconds = read_junit(record)
    return result


def bounds(requirement: Requirement) -> str:
    """The range with its floor first."""
    return ",".join(sorted(map(str, requirement.specifier), reverse=True))


def report(results: list[Result], ranges: dict[str, Requirement]) -> str:
    """Markdown: a line per package with its range and its version in each row, and what the tests said below."""
    lines = [
        [name, bounds(it), *(result.versions.get(name, "–") for result in results)] for name, it in ranges.items()
    ]
    lines += [
        ["tests passed", "", *(f"{result.passed}" for result in results)],
        ["skipped", "", *(f"{result.skipped}" for result in results)],
        ["failed", "", *("does not install" if result.error else f"{len(result.failed)}" for result in results)],
        ["seconds", "", *(f"{result.seconds:.0f}" for result in results)],
    ]
    wrong = [f"{result.row}: {result.error or ', '.join(result.failed)}" for result in results if not result.holds]
    return "\n\n".join([table(["package", "range", *(result.row for result in results)], lines), *wrong])


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Tests the oldest and the newest versions that pyproject.toml admits."
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, help="rows to run; by default those that no pin makes idle")
    parser.add_argument(
        "--pin",
        nargs="+",
        default=[],
        metavar="PACKAGE==VERSION",
        help="hold a package at a version in every row, as where one build of torch alone is at hand",
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/versions"), help="folder for table and records")
    arguments = parser.parse_args()
    ranges = read_ranges()
    given = {Requirement(pin).name: pin for pin in arguments.pin}
    rows = arguments.only or [row for row in ROWS if row not in given]
    arguments.output.mkdir(parents=True, exist_ok=True)
    about = [f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}"]
    if given:
        about.append(f"held in every row: {', '.join(given.values())}")
    results = []
    for row in tqdm(rows, "Rows"):
        results.append(run(row, pins_of(row, ranges, given), list(ranges), arguments.output))
        text = f"{report(results, ranges)}\n\n{'; '.join(about)}\n"
        (arguments.output / "versions.md").write_text(text)  # what is done is kept whatever happens to the next
    print(f"\n{text}")
    sys.exit(not all(result.holds for result in results))


if __name__ == "__main__":
    main()
