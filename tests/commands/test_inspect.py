"""`opefo inspect`: a page from the settings of a training, and every refusal in one sentence."""

import pytest
from conftest import SYMBOLS, make_model, make_tokenizer
from train_runs import make_recipe

from opefo_trl.commands import cli


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    return make_recipe(tmp_path, monkeypatch)


def test_a_page_from_a_recipe(recipe, capsys):
    before = {path.name for path in recipe.iterdir()}
    options = "--num_processes 2 --accelerate_config zero2".split()  # of a command for `opefo train`
    assert cli.main(["inspect", "--config", "recipe.yaml", "--prompts", "2", "--compare", "model", *options]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("Wrote inspect.html: 2 prompts, mean entropy ")
    page = (recipe / "inspect.html").read_text()
    assert page.count('class="completion"') == 2 * 4 and page.count("<h2>Prompt") == 2
    assert 'value="other_entropy"' in page
    assert {path.name for path in recipe.iterdir()} - before <= {"inspect.html", "__pycache__"}, (
        "nothing else is written"
    )


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("--prompts 0", "`--prompts` must be at least 1, but it is 0."),
        ("--out gone/page.html", "`--out` gone/page.html cannot be written: there is no folder "),
        ("--out model", "`--out` model cannot be written: Is a directory."),
        ("--lerning_rate 1", "Unknown option `--lerning_rate`: did you mean `learning_rate`?"),
        ("--compare nowhere/at/all", "Model nowhere/at/all cannot be loaded"),
        ("--compare other", "other has another tokenizer than model: compare models with one tokenizer."),
        ("--dataset_name gone.jsonl", "gone.jsonl"),
    ],
)
def test_refusals(recipe, capsys, args, sentence):
    if "other" in args:
        tokenizer = make_tokenizer()
        tokenizer.add_tokens(["more"])
        tokenizer.save_pretrained(recipe / "other")
        make_model().save_pretrained(recipe / "other")
        assert len(tokenizer) == len(SYMBOLS) + 1
    assert cli.main(["inspect", "--config", "recipe.yaml", *args.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("opefo inspect: error: ") and sentence in error
