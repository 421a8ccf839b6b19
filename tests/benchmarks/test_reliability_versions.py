"""The matrix of versions: floors read, pins chosen, pytest's record read, the table made; and which rows there are."""

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.reliability import versions
from benchmarks.reliability.versions import Result, floor, pins_of, pip_error, read_junit, read_ranges, report


PYPROJECT = """
[project]
dependencies = [
    "trl>=1.15,<1.17",
    "torch<3,>=2.11",
    "winonly>=1; sys_platform == 'nowhere'",
    "everywhere>=2; sys_platform != 'nowhere'",
]
[project.optional-dependencies]
plot = ["matplotlib>=3.10"]
dev = ["pytest"]
"""
RANGES = {text.split(">")[0]: Requirement(text) for text in ("trl>=1.15,<1.17", "torch>=2.11,<3", "tqdm>=4.66.3")}


@pytest.fixture
def ranges(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text(PYPROJECT)
    return read_ranges(path)


def test_floors_are_those_of_pyproject(ranges):
    assert [floor(it) for it in ranges.values()] == ["trl==1.15", "torch==2.11", "everywhere==2", "matplotlib==3.10"]


def test_every_dependency_of_this_project_has_a_floor():
    ranges = read_ranges()
    assert set(versions.ALONE) <= ranges.keys()
    assert all(floor(it).startswith(f"{name}==") for name, it in ranges.items())


@pytest.mark.parametrize("text", ["trl<2", "trl", "trl>1.15"])
def test_a_range_without_floor(text):
    with pytest.raises(ValueError, match=r"has no floor to test: write `trl>=X`"):
        floor(Requirement(text))


@pytest.mark.parametrize(
    ("row", "given", "pins"),
    [
        ("oldest", {}, ["trl==1.15", "torch==2.11", "tqdm==4.66.3"]),
        ("oldest", {"torch": "torch==2.13.0"}, ["trl==1.15", "torch==2.13.0", "tqdm==4.66.3"]),
        ("trl", {}, ["trl==1.15"]),
        ("trl", {"torch": "torch==2.13.0"}, ["trl==1.15", "torch==2.13.0"]),
        ("torch", {}, ["torch==2.11"]),
        ("newest", {}, []),
        ("newest", {"torch": "torch==2.13.0"}, ["torch==2.13.0"]),
    ],
)
def test_pins(row, given, pins):
    assert pins_of(row, RANGES, given) == pins


def test_pytests_record(tmp_path):
    """Of tests that really ran: two pass, one fails, one breaks before it starts, one is skipped."""
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError\n"
        "@pytest.mark.parametrize('number', [1, 2])\n"
        "def test_good(number): assert number\n"
        "def test_bad(): assert False\n"
        "def test_broken(broken): pass\n"
        "@pytest.mark.skip\n"
        "def test_skipped(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "--junitxml=record.xml"]
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    passed, skipped, failed, seconds = read_junit(tmp_path / "record.xml")
    assert (passed, skipped, failed) == (2, 1, ["test_some::test_bad", "test_some::test_broken"])
    assert 0 < seconds < 60


def test_what_pip_says():
    log = "Collecting trl\nWARNING: old\nERROR: Cannot install these.\n\nThe conflict is caused by:\n    trl\n"
    assert pip_error(log) == "ERROR: Cannot install these.\n\nThe conflict is caused by:\n    trl"
    assert pip_error("Killed\n") == "Killed"


def test_table():
    results = [
        Result("oldest", error="ERROR: Cannot install these."),
        Result("trl", {"trl": "1.15.0", "torch": "2.13.0", "tqdm": "4.70.1"}, "", 7, 1, ["test_x::test_y"], 61.6),
        Result("newest", {"trl": "1.16.0", "torch": "2.13.0", "tqdm": "4.70.1"}, "", 8, 1, [], 59.5),
    ]
    assert report(results, RANGES) == (
        "| package | range | oldest | trl | newest |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| trl | >=1.15,<1.17 | – | 1.15.0 | 1.16.0 |\n"
        "| torch | >=2.11,<3 | – | 2.13.0 | 2.13.0 |\n"
        "| tqdm | >=4.66.3 | – | 4.70.1 | 4.70.1 |\n"
        "| tests passed |  | 0 | 7 | 8 |\n"
        "| skipped |  | 0 | 1 | 1 |\n"
        "| failed |  | does not install | 1 | 0 |\n"
        "| seconds |  | 0 | 62 | 60 |\n"
        "\n"
        "oldest: ERROR: Cannot install these.\n"
        "\n"
        "trl: test_x::test_y"
    )


@pytest.mark.parametrize(
    ("result", "holds"),
    [
        (Result("newest", passed=8), True),
        (Result("newest", passed=8, failed=["test_x::test_y"]), False),
        (Result("newest", error="ERROR: Cannot install these."), False),
        (Result("newest"), False),  # no test ran at all
    ],
)
def test_a_row_holds_if_tests_ran_and_none_failed(result, holds):
    assert result.holds is holds


def test_the_chosen_tests_are_there():
    folder = Path(__file__).parents[1]
    assert [name for name in versions.TESTS if not (folder / f"{name}.py").exists()] == []
