r"""Parses an answer into items: each is a chain of sides (`x`, `=`, `5`), and each side is formulas and words in turn.

`x = 5 \text{ cm}, y = 2` is two items, and `5 \text{ hours } 30 \text{ minutes}` is one side of four pieces. Two
answers are compared piece by piece (see `equality`), so that math-verify compares single formulas, and nothing is left
out.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from .latex import Group, Node, Unreadable, Words, latex, parse, spell
from .words import unit_at, with_words


@dataclass(frozen=True)
class Formula:
    """LaTeX without words, and its tree."""

    latex: str
    nodes: tuple[Node, ...]


Side = tuple[Formula | Words, ...]


@dataclass(frozen=True)
class Item:
    """
    One answer: n sides and the n - 1 relations between them.

    Args:
        sides (`tuple[Side, ...]`):
            Sides, each of formulas and words in turn.
        relations (`tuple[str, ...]`):
            Commands such as `=` and `\\le`.
        letter (`str`, *optional*):
            For the condition of a set-builder, the letter that it is about.
    """

    sides: tuple[Side, ...]
    relations: tuple[str, ...]
    letter: str | None = None


RELATIONS = {"=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\approx", r"\equiv", r"\to", r"\sim", r"\subset"}
# Brackets whose content is a list, with one name for those of the same kind, and environments that hold a table
BRACKETS = {"(": "(", "[": "[", r"\langle": "(", r"\{": r"\{"}
TABLES = {"cases", "array", "matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "aligned", "align*", "gathered"}
_LEADING = re.compile(r"[1-9]\d{0,2}(\d{3})*")


@lru_cache(maxsize=1024)  # golds repeat in a batch, and so do the answers of a group
def read(text: str) -> tuple[Item, ...] | None:
    """
    The items of an answer.

    Args:
        text (`str`):
            LaTeX without its box.

    Returns:
        `tuple[Item, ...]` or `None`: `None` if the text has no clear meaning as LaTeX.
    """
    try:
        return items_of(_thousands(with_words(parse(spell(text)))))
    except (Unreadable, RecursionError):
        return None


def items_of(nodes: Iterable[Node]) -> tuple[Item, ...]:
    """The items within a bracket or a cell. Raises `Unreadable` as [`parse`] does."""
    return tuple(item for part in _split(nodes) for item in _items(part))


def bracket(piece: Formula | Words) -> Group | None:
    """The bracket or the environment that is the whole piece."""
    group = piece.nodes[0] if isinstance(piece, Formula) and len(piece.nodes) == 1 else None
    return group if isinstance(group, Group) and group.open in (*BRACKETS, *TABLES) else None


def elements(group: Group) -> tuple[Item, ...] | None:
    """The items of a bracket, or of all cells of a table; `None` where they cannot be read."""
    try:
        if group.open in BRACKETS:
            return items_of(group.children)
        return tuple(item for row in cells(group) for cell in row for item in cell)
    except (Unreadable, RecursionError):
        return None


def cells(group: Group) -> list[list[tuple[Item, ...]]]:
    """The rows of a table, without empty ones. Raises `Unreadable` as [`parse`] does."""
    rows: list[list[list[Node]]] = [[[]]]
    for node in group.children:
        if node == r"\\":
            rows.append([[]])
        elif node == "&":
            rows[-1].append([])
        elif node != r"\hline":
            rows[-1][-1].append(node)
    read_rows = [[items_of(cell) for cell in row] for row in rows]
    return [row for row in read_rows if any(row)]


def _split(nodes: Iterable[Node]) -> list[list[Node]]:
    """Parts between commas, semicolons, "and" and "or", none of them empty."""
    parts: list[list[Node]] = [[]]
    for node in nodes:
        if node in (",", ";"):
            parts.append([])
        elif isinstance(node, Words):
            first, *others = re.split(r"\b(?:and|or|AND|OR)\b|[,;]", node.text)
            parts[-1] += [Words(first)] if first.strip() else []
            for other in others:
                parts.append([Words(other)] if other.strip() else [])
        else:
            parts[-1].append(node)
    return [part for part in parts if any(node != " " for node in part)]


def _thousands(nodes: list[Node]) -> list[Node]:
    """`1,234,567` is one number, `1, 234` two."""
    done: list[Node] = []
    for node in nodes:
        follows_comma = isinstance(node, str) and re.fullmatch(r"\d{3}(\.\d+)?", node)
        if (
            follows_comma
            and done[-1:] == [","]
            and isinstance(done[-2:][0], str)
            and _LEADING.fullmatch(str(done[-2]))
        ):
            done[-2:] = [f"{done[-2]}{node}"]
        else:
            done.append(node)
    return done


def _items(part: list[Node]) -> list[Item]:
    """One item, two if it has a `\\pm`, or those of the condition in a set-builder."""
    part = _trimmed(part)
    condition = _condition(part)
    if condition is not None:
        letter, nodes = condition
        return [replace(item, letter=letter) for piece in _split(nodes) for item in _items(piece)]
    if _has_sign(part):
        return [_item(_signed(part, upper)) for upper in (True, False)]
    return [_item(part)] if part else []


def _condition(part: list[Node]) -> tuple[str, list[Node]] | None:
    r"""The letter of a set-builder such as `\{t \mid t > 1\}`, and its condition."""
    if len(part) != 1 or not isinstance(part[0], Group) or part[0].open != r"\{":
        return None
    inside = list(part[0].children)
    bars = [place for place, node in enumerate(inside) if node in ("|", ":")]
    if len(bars) != 1:
        return None
    element, condition = _trimmed(inside[: bars[0]]), inside[bars[0] + 1 :]
    letter = element[0] if len(element) == 1 or element[1:2] == [r"\in"] or element[1:3] == [" ", r"\in"] else None
    if not isinstance(letter, str) or letter not in _letters(condition):
        return None
    return letter, condition


def substituted(nodes: Iterable[Node], old: str, new: str) -> list[Node]:
    """Nodes with one letter in place of another, at every depth."""
    return [
        Group(node.open, tuple(substituted(node.children, old, new)), node.close)
        if isinstance(node, Group)
        else (new if node == old else node)
        for node in nodes
    ]


def _item(part: list[Node]) -> Item:
    sides: list[list[Node]] = [[]]
    relations: list[str] = []
    for node in part:
        if isinstance(node, str) and node in RELATIONS:
            relations.append(node)
            sides.append([])
        else:
            sides[-1].append(node)
    if relations and not _trimmed(sides[0]):  # "= 5" and "\approx 5"
        sides, relations = sides[1:], relations[1:]
    return Item(tuple(_side(_trimmed(side)) for side in sides), tuple(relations))


def _side(nodes: list[Node]) -> Side:
    """Formulas and words in turn. A unit is one word, whatever it contains: `\\text{m}/\\text{s}^2`."""
    if any(isinstance(node, Words) for node in nodes) and all(
        isinstance(node, Words) or node in (" ", "-", "'", ".") or isinstance(node, str) and node.isalpha()
        for node in nodes
    ):
        return (Words("".join(node.text if isinstance(node, Words) else str(node) for node in nodes)),)
    pieces: list[Formula | Words] = []
    formula: list[Node] = []
    position = 0
    while position < len(nodes):
        node = nodes[position]
        if not isinstance(node, Words):
            formula.append(node)
            position += 1
            continue
        word, position = unit_at(nodes, position)
        if _trimmed(formula):
            pieces.append(_formula(formula))
            formula = []
        if pieces and isinstance(pieces[-1], Words):
            pieces[-1] = Words(f"{pieces[-1].text} {word}")
        else:
            pieces.append(Words(word))
    if _trimmed(formula):
        pieces.append(_formula(formula))
    return tuple(pieces)


def _formula(nodes: list[Node]) -> Formula:
    nodes = _products(_trimmed(nodes))
    while len(nodes) == 1 and isinstance(nodes[0], Group) and nodes[0].open == "(" and nodes[0].close == ")":
        if "," in nodes[0].children or ";" in nodes[0].children:
            break
        nodes = _trimmed(list(nodes[0].children))
    return Formula(latex(nodes), tuple(nodes))


def _products(nodes: list[Node]) -> list[Node]:
    r"""
    Write the product in `2(3)` and `(2)(3)` with a dot, since math-verify would read them as mixed numbers.

    Raises:
        `Unreadable`: for a number directly after another number or a letter, which is ambiguous.
    """
    done: list[Node] = []
    for node in nodes:
        before = next((other for other in reversed(done) if other != " "), "")
        after_number = isinstance(before, str) and before[:1].isdigit()
        after_fraction = len(done) > 2 and done[-3] == r"\frac" and before is done[-1]
        after_bracket = isinstance(before, Group) and before.open == "("
        is_number = isinstance(node, str) and node[:1].isdigit()
        is_bracket = isinstance(node, Group) and node.open == "("
        is_power_of_ten = before in ("e", "E") and str(done[-2:][0])[:1].isdigit()
        after_letter = isinstance(before, str) and before.isalpha() and not is_power_of_ten
        if (after_number or after_letter) and is_number:
            raise Unreadable
        if (after_number and is_bracket) or (after_bracket and (is_number or is_bracket or node == r"\frac")):
            done.append(r"\cdot")
        elif (after_number and node == r"\binom") or (after_fraction and (is_number or node in (r"\frac", r"\binom"))):
            done.append(r"\cdot")
        if isinstance(node, Group):
            node = Group(
                node.open,
                tuple(_products(_thousands(list(node.children)) if node.open == "{" else list(node.children))),
                node.close,
            )
        done.append(node)
    return done


def _trimmed(nodes: list[Node]) -> list[Node]:
    """Nodes without spaces and punctuation at both ends."""
    start, end = 0, len(nodes)
    while start < end and nodes[start] in (" ", ":", "?"):
        start += 1
    while end > start and nodes[end - 1] in (" ", ".", ":", "?", "*"):
        end -= 1
    return nodes[start:end]


def _letters(nodes: Iterable[Node]) -> set[str]:
    return set(re.findall(r"\\[A-Za-z]+|[A-Za-z]", latex(nodes)))


def _has_sign(nodes: Iterable[Node]) -> bool:
    return any(node in (r"\pm", r"\mp") or isinstance(node, Group) and _has_sign(node.children) for node in nodes)


def _signed(nodes: Iterable[Node], upper: bool) -> list[Node]:
    signs = {r"\pm": "+-"[not upper], r"\mp": "-+"[not upper]}
    return [
        Group(node.open, tuple(_signed(node.children, upper)), node.close)
        if isinstance(node, Group)
        else signs.get(node, node)  # type: ignore[arg-type]
        for node in nodes
    ]
