"""`opefo recipes`: lists the recipes that come with the package, and prints one."""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from .fields import suggest


PROG = "opefo recipes"
WIDTH = 110


def recipes_folder() -> Path:
    """The folder of the recipes: inside an installed package, or beside the package in a checkout."""
    installed, checkout = (Path(__file__).parents[level] / "recipes" for level in (1, 2))
    return installed if installed.is_dir() else checkout


def find_recipes() -> dict[str, Path]:
    """Files by name, such as `Qwen2.5-Math-7B/opefo`."""
    folder = recipes_folder()
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.glob("*/*.yaml"))}


def describe(path: Path) -> str:
    """The first sentence of a recipe's comment."""
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip("# "):
            break
        comment.append(line.strip("# "))
    return " ".join(comment).split(". ")[0].removesuffix(".") + "."


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG, description="List the recipes for `opefo train`, or print one: `opefo recipes NAME > recipe.yaml`."
    )
    parser.add_argument("name", nargs="?", help="recipe to print, as the list names it (default: list all)")
    return parser


def main(argv: Sequence[str]) -> int:
    name = make_parser().parse_args(argv).name
    recipes = find_recipes()
    if name is None:
        for key, path in recipes.items():
            print(key)
            print(textwrap.fill(describe(path), WIDTH, initial_indent="    ", subsequent_indent="    "))
        print(f"\n`{PROG} NAME > recipe.yaml` writes one, `opefo train --config recipe.yaml --dry_run` checks it.")
        return 0
    key = name.removeprefix("recipes/").removesuffix(".yaml")
    if key not in recipes:
        print(f"{PROG}: error: There is no recipe `{name}`: {suggest(key, recipes)}", file=sys.stderr)
        return 2
    print(recipes[key].read_text(encoding="utf-8"), end="")
    return 0
