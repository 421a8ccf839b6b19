r"""Works on single items and sides: names and values, expanded sets, renamed letters, and their LaTeX."""

import re

from .formulas import rounds_to as formula_rounds_to
from .latex import GREEK, Words, latex
from .reading import BRACKETS, Formula, Item, Side, bracket, elements, substituted
from .words import canonical


MIRRORED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne", r"\equiv": r"\equiv"}
_VARIABLES = {"\\" + name for name in (*GREEK, *(name.capitalize() for name in GREEK), "ell", "hbar")} - {r"\pi"}


def without_braces(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """The elements of a set, which are a list like others, and the equations of a system."""
    group = bracket(items[0].sides[0][0]) if len(items) == 1 and is_formula_alone(items[0]) else None
    if group and (group.open == r"\{" or group.open == "cases" and "&" not in group.children):
        inner = elements(group)
        is_set_of_a_set = inner and len(inner) == 1 and re.match(r"\\(?:\{|emptyset)", latex_of_item(inner[0]))
        return items if not inner or is_set_of_a_set else inner
    return items


def expanded(items: tuple[Item, ...]) -> tuple[Item, ...]:
    r"""`x \in \{1, 2\}` as `x = 1, x = 2`, and `(x, y) = (1, 2)` as `x = 1, y = 2`."""
    if len(items) != 1 or len(items[0].relations) != 1 or name(items[0]) is None or not is_formula(items[0].sides[1]):
        return items
    left, right = items[0].sides
    names, values = bracket(left[0]), bracket(right[0])
    if values is None or not (inner := elements(values)) or any(item.relations for item in inner):
        return items
    sides = [item.sides[0] for item in inner]
    if values.open == r"\{":
        return tuple(Item((left, side), ("=",)) for side in sides)
    named = elements(names) if names else None
    if named and len(named) == len(inner) and values.open in BRACKETS:
        return tuple(Item((name.sides[0], side), ("=",)) for name, side in zip(named, sides, strict=True))
    return items


def oriented(item: Item) -> Item:
    """`5 = x` as `x = 5`."""
    if item.relations == ("=",) and not has_letters(item.sides[0]) and name(Item(item.sides[::-1], ("=",))):
        return Item(item.sides[::-1], ("=",))
    return item


def is_member(item: Item) -> bool:
    r"""Whether an item says which set something is in: `x \in [1, 2]`."""
    if item.relations != (r"\in",) or not is_formula(item.sides[1]):
        return False
    return (
        bracket(item.sides[1][0]) is not None
        or re.search(r"\\(?:cup|mathbb|setminus|emptyset)", latex_of_side(item.sides[1])) is not None
    )


def with_letter(item: Item, letter: str) -> Item:
    """The condition of a set-builder, rewritten for another letter."""

    def renamed(side: Side) -> Side:
        trees = [p if isinstance(p, Words) else tuple(substituted(p.nodes, item.letter or "", letter)) for p in side]
        return tuple(tree if isinstance(tree, Words) else Formula(latex(tree), tree) for tree in trees)

    return Item(tuple(map(renamed, item.sides)), item.relations, letter)


def exact_and_rounded(item: Item) -> list[Item]:
    r"""Both values of `\frac{1}{3} \approx 0.33`; `x \approx 0.33` is an equation."""
    if r"\approx" not in item.relations:
        return [item]
    place = item.relations.index(r"\approx")
    exact, rounded = item.sides[place : place + 2]
    if is_formula(exact) and rounds_to(exact, rounded):
        named = item.sides[:place]
        return [Item((*named, side), item.relations[:place]) for side in ((*exact, *rounded[1:]), item.sides[-1])]
    return [Item(item.sides, tuple("=" if relation == r"\approx" else relation for relation in item.relations))]


def rounds_to(exact: Side, rounded: Side, to_whole: bool = True) -> bool:
    if not (is_formula(exact[:1]) and is_formula(rounded[:1])):
        return False
    return formula_rounds_to(exact[0].latex, rounded[0].latex, to_whole)  # type: ignore[union-attr]


def name(item: Item) -> str | None:
    r"""The name that an equation gives a value to: `x`, `f(2)`, `y_{max}`, `\angle ABC`; not `x^2 + y^2`."""
    if not item.relations or not set(item.relations) <= {"=", r"\in"} or len(item.sides[0]) != 1:
        return None
    piece = item.sides[0][0]
    if isinstance(piece, Words):
        return canonical(piece)
    bare = re.sub(r"_\{[^{}]*\}|\^\{(?:-1|\\text\{prime+\})\}|\([^()]*\)|(?<=[A-Za-z])\{[^{}]*\}", "", piece.latex)
    is_name = re.search(r"[A-Za-z]", piece.latex) and not re.search(r"[\d+\-*/^]|\\times|\\cdot|\\sqrt", bare)
    return piece.latex if is_name else None


def renamed(gold_name: str | None, answer_name: str | None, side: Side) -> Side | None:
    """A side with the gold's letter in place of its own, if both define the same function, else `None`."""
    functions = [re.fullmatch(r"([A-Za-z])\(([A-Za-z])\)", name or "") for name in (gold_name, answer_name)]
    if not functions[0] or not functions[1] or functions[0][1] != functions[1][1] or not is_formula(side):
        return None
    nodes = side[0].nodes  # type: ignore[union-attr]
    if functions[0][2] in re.sub(r"\\[A-Za-z]+", "", latex(nodes)):
        return None
    nodes = tuple(substituted(nodes, functions[1][2], functions[0][2]))
    return (Formula(latex(nodes), nodes),)


def is_formula(side: Side) -> bool:
    return len(side) == 1 and isinstance(side[0], Formula)


def ordered(item: Item) -> tuple[str, str, str] | None:
    """Relation, smaller and larger side of an inequality."""
    if len(item.relations) != 1 or not all(map(is_formula, item.sides)):
        return None
    one, other = map(latex_of_side, item.sides)
    relation = item.relations[0]
    if relation in ("<", r"\le"):
        return relation, one, other
    return (MIRRORED[relation], other, one) if relation in (">", r"\ge") else None


def is_formula_alone(item: Item) -> bool:
    return not item.relations and is_formula(item.sides[0])


def has_letters(side: Side) -> bool:
    """Whether a side names a variable, a function or a word, and is not just a number."""
    for piece in side:
        if isinstance(piece, Words) or piece.latex in ("e", "i"):
            return True
        letters = re.findall(r"\\[A-Za-z]+|[A-Za-z]", piece.latex)
        if any(letter in _VARIABLES or len(letter) == 1 and letter not in "ei" for letter in letters):
            return True
    return False


def latex_of_side(side: Side) -> str:
    return " ".join(piece.latex if isinstance(piece, Formula) else rf"\text{{{piece.text}}}" for piece in side)


def latex_of_item(item: Item) -> str:
    if is_member(item):
        return latex_of_side(item.sides[1])  # x \in [1, 2] means the same as [1, 2]
    return " ".join(
        text for pair in zip(map(latex_of_side, item.sides), (*item.relations, ""), strict=True) for text in pair
    )
