"""Hostile texts, those of `corpus` and new ones from a seed, against the properties of `benchmarks/reliability`."""

import random
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.reliability import properties
from benchmarks.reliability.fuzz import CORPUS, INPUTS, write_dictionary


ROOT = Path(__file__).parents[2]
TEXTS = sorted(CORPUS.glob("*.txt"))


def random_text(rng: random.Random, fragments: list[str]) -> str:
    return "".join(
        rng.choice(fragments) if rng.random() < 0.9 else chr(rng.choice([rng.randrange(128), rng.randrange(0x3000)]))
        for _ in range(rng.randrange(20))
    )


@pytest.mark.parametrize("path", TEXTS, ids=[path.stem for path in TEXTS])
def test_corpus(path):
    text = path.read_bytes().decode()
    for target in INPUTS:
        getattr(properties, f"check_{target}")(text)


@pytest.mark.parametrize(
    ("target", "texts"),
    {
        "completion": 20_000,
        "gold": 20_000,
        "countdown": 20_000,
        "growth": 100,
        "memory": 20,
        "reward": 30,
        "changed": 500,
    }.items(),
)
def test_seeded_texts(target, texts):
    rng = random.Random(0)
    fragments = properties.COUNTDOWN_FRAGMENTS if target == "countdown" else properties.FRAGMENTS
    for _ in range(texts):
        text = random_text(rng, fragments)
        try:
            getattr(properties, f"check_{target}")(text)
        except Exception as error:
            raise AssertionError(f"{target} of {text!r}") from error


def test_countdown_texts_are_not_all_refused():
    rng = random.Random(0)
    texts = [random_text(rng, properties.COUNTDOWN_FRAGMENTS) for _ in range(20_000)]
    values = [properties.countdown_value(text) for text in texts]
    assert sum(value is not None and len(value[1]) > 1 for value in values) > 100


@pytest.mark.parametrize(
    ("target", "name", "broken"),
    [
        ("completion", "completion_answer", lambda text: "34"),
        ("gold", "gold_answer", lambda value: str(value).strip()),
        ("countdown", "evaluate", lambda text: (7, [7])),
        ("growth", "completion_answer", lambda text: [a == b for a in text[::20] for b in text[::20]]),
        ("memory", "gold_answer", lambda text: bytearray(2000 * len(text) + 100_000)),
        ("changed", "equal", lambda gold, answer: True),
        ("reward", "math_reward", lambda completions, solution: [1.0] * len(completions)),
    ],
)
def test_properties_can_fail(monkeypatch, target, name, broken):
    monkeypatch.setattr(properties, name, broken)
    with pytest.raises(AssertionError):
        getattr(properties, f"check_{target}")("\\boxed{3}7 z")


def test_dictionary(tmp_path):
    write_dictionary(["\\boxed{", "é"], tmp_path / "dictionary")
    assert (tmp_path / "dictionary").read_text() == '"\\x5c\\x62\\x6f\\x78\\x65\\x64\\x7b"\n"\\xc3\\xa9"\n'


@pytest.mark.skipif(find_spec("atheris") is None, reason="needs the extra `fuzz`")
@pytest.mark.parametrize("is_broken", [False, True])
def test_the_fuzz_itself(tmp_path, is_broken):
    """With a reader that takes no digit but 7, every text with another one is a find, and one is kept."""
    breaking = "import examples.countdown.countdown as c; c.DIGITS = '7'; " if is_broken else ""
    script = f"{breaking}from benchmarks.reliability.fuzz import fuzz; fuzz('countdown', 3000, None, 0, Path('finds'))"
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; {script}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    finds = [path.read_text() for path in (tmp_path / "finds").iterdir()]
    assert done.returncode == int(is_broken) and len(finds) == int(is_broken), done.stderr[-2000:]
    assert re.search(rf"^countdown: 3,000 texts, \d+ s, seed 0, {len(finds)} finds$", done.stdout, re.MULTILINE)
    assert all(properties.countdown_value(find) is not None for find in finds)
