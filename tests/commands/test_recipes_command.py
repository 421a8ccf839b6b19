"""`opefo recipes` lists what there is and prints it unchanged."""

from pathlib import Path

from opefo_trl.commands import cli, recipes


ROOT = Path(__file__).parents[2]


def test_every_recipe_is_listed_with_what_it_is(capsys):
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {str(path.relative_to(ROOT / "recipes").with_suffix("")) for path in ROOT.glob("recipes/*/*.yaml")}
    assert names == {line for line in lines[:-2] if not line.startswith(" ")}
    place = lines.index("Qwen2.5-Math-7B/opefo")
    assert lines[place + 1] == "    OPEFO: the two flows of each rollout batch cancel."
    assert "opefo train --config recipe.yaml" in lines[-1]


def test_one_is_printed_as_it_is(capsys):
    for name in ("Qwen2.5-Math-7B/opefo", "recipes/Qwen2.5-Math-7B/opefo.yaml"):
        assert cli.main(["recipes", name]) == 0
        assert capsys.readouterr().out == (ROOT / "recipes/Qwen2.5-Math-7B/opefo.yaml").read_text()


def test_one_that_is_not_there(capsys):
    assert cli.main(["recipes", "Qwen2.5-Math-7B/opeffo"]) == 2
    assert (
        "There is no recipe `Qwen2.5-Math-7B/opeffo`: did you mean `Qwen2.5-Math-7B/opefo`?" in capsys.readouterr().err
    )


def test_the_folder_of_an_installed_package_comes_first(monkeypatch, tmp_path):
    monkeypatch.setattr(recipes, "__file__", str(tmp_path / "opefo_trl" / "commands" / "recipes.py"))
    assert recipes.recipes_folder() == tmp_path / "recipes"
    (tmp_path / "opefo_trl" / "recipes").mkdir(parents=True)
    assert recipes.recipes_folder() == tmp_path / "opefo_trl" / "recipes"
