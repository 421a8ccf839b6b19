"""The pages: links lead somewhere, commands exist, and the README's script runs as it stands."""

import re
import runpy
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import letter_reward, make_model, make_tokenizer
from datasets import Dataset

from opefo_trl.commands import cli, evaluate, inspect, plot, recipes
from opefo_trl.commands.fields import check_names


ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(path for folder in ("docs", "recipes", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.md")),
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Programs that a page may call, beside `opefo`, `make` and `python`
OTHERS = {"pip", "source", "trl", "accelerate", "cp", "git", "export", "for", "do", "done", "pre-commit"}
PARSERS = {"plot": plot.make_parser, "recipes": recipes.make_parser}


def name(path):
    return str(path.relative_to(ROOT))


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_somewhere(path):
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        found = path if not target else (path.parent / target).resolve()
        assert found.exists(), link
        assert not anchor or anchor in anchors(found), link


def commands(path):
    """The commands in the bash blocks of a page, comments left out, lines that end in a backslash joined."""
    blocks = re.findall(r"```bash\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    parts = [part for line in lines for part in re.split(r"&&|;|\|", re.split(r"(?:^|\s)#\s", line)[0])]
    return [shlex.split(part.split(">")[0]) for part in parts if part.split(">")[0].strip()]


def check(words):
    """Raise or fail if a command cannot be what the page says."""
    while words and re.fullmatch(r"\w+=\S*|do|then", words[0]):
        words = words[1:]
    program, *args = words or ["done"]
    program = Path(program).name
    args = [word for word in args if word != "&"]
    if "--config" in args and not (ROOT / args[args.index("--config") + 1]).exists():  # a file of the reader's
        assert re.fullmatch(r"(FILE|recipe|.*\$.*)\.yaml", args[args.index("--config") + 1])
        args = [word for place, word in enumerate(args) if place - args.index("--config") not in (0, 1)]
    if program == "opefo" and args[0] == "train":
        check_names([word for word in args[1:] if word not in ("--help", "-h")])
    elif program == "opefo" and args[0] == "inspect":
        check_names(inspect.make_parser().parse_known_args(args[1:])[1])
    elif program == "opefo" and args[0] == "evaluate":
        evaluate.make_parser().parse_args(args[1:])
    elif program == "opefo" and args[0] in PARSERS:
        PARSERS[args[0]]().parse_args(args[1:])
    elif program == "opefo":
        assert args[0] in ("--version", "--help")
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in args if "=" not in word and word not in targets] == []
    elif program in ("python", "python3") and args[:1] == ["-m"]:
        assert find_spec(args[1]) is not None, args[1]
    elif program in ("python", "python3") and args and args[0].endswith(".py"):
        assert (ROOT / args[0]).is_file(), args[0]
    else:
        assert program in OTHERS | {"python", "python3"}, words


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_exist(path):
    for words in commands(path):
        check(words)


def test_the_check_of_commands_can_fail():
    for line in (
        "opefo trian",
        "opefo train --lerning_rate 1",
        "make nothing",
        "python -m benchmarks.gone",
        "opefoo x",
    ):
        with pytest.raises((AssertionError, ValueError)):
            check(shlex.split(line))


def test_the_first_page_is_short():
    assert len(README.splitlines()) <= 120


def test_the_script_of_the_first_page_runs(tmp_path, monkeypatch):
    (script,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    # What a hub and a GPU would give
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    rows = Dataset.from_list([{"problem": f"a{i}", "solution": rf"\boxed{{{i}}}"} for i in range(32)])
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: rows)
    monkeypatch.setattr("opefo_trl.grading.rewards.math_reward", letter_reward)
    changes = {
        '"Qwen/Qwen2.5-Math-1.5B"': repr(str(tmp_path / "model")),
        '"outputs/opefo"': f"{str(tmp_path / 'out')!r}, use_cpu=True, bf16=False, report_to='none', max_steps=1",
        "gradient_accumulation_steps=16": "gradient_accumulation_steps=2, logging_steps=1",
        "max_completion_length=1024": "max_completion_length=8",
    }
    for old, new in changes.items():
        assert old in script
        script = script.replace(old, new)
    # The tokenizer of the tests has neither the letters of the prompt nor room for it
    script = script.replace(
        re.search(r"^prompt = .*$", script, re.MULTILINE).group(), "assert prompt_of_page; prompt = '{}'"
    )
    page_prompt = re.search(r'^prompt = (".*")$', README, re.MULTILINE).group(1)
    (tmp_path / "script.py").write_text(f"prompt_of_page = {page_prompt}.format('x')\n{script}")
    done = runpy.run_path(str(tmp_path / "script.py"))
    assert done["prompt_of_page"] == "x\nReason step by step, and put your final answer within \\boxed{}.\n"
    log = done["trainer"].state.log_history
    assert log[0]["entropy_flow/target"] == pytest.approx(0.8 * log[0]["entropy"], rel=1e-3)


def test_every_command_is_on_the_first_page_or_in_the_index():
    text = README + "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert all(f"opefo {command}" in text for command in ("train", "evaluate", "plot", "inspect", "recipes"))
