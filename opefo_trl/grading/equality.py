r"""Whether an answer equals the gold one, by its parts: items, sides, pieces, and formulas in the end.

docs/math_reward.md has the rules in words. A doubt is no.
"""

import re
from dataclasses import replace

from .formulas import read_formula, rounds_to, same_by_math_verify, same_equations, same_inequalities
from .latex import GREEK, Words, latex
from .notations import is_based, is_marked, same_in_notation
from .numbers import number
from .policy import DEFAULT_POLICY, Policy
from .reading import BRACKETS, TABLES, Formula, Item, Side, bracket, cells, elements, read, substituted
from .words import canonical, choice, is_approximately, is_unit, plain


_MIRRORED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne", r"\equiv": r"\equiv"}
_VARIABLES = {"\\" + name for name in (*GREEK, *(name.capitalize() for name in GREEK), "ell", "hbar")} - {r"\pi"}
_MAX_WORDS = 3


def equal(gold: str, answer: str, policy: Policy = DEFAULT_POLICY) -> bool:
    """
    Whether an answer equals the gold one.

    Args:
        gold (`str`):
            LaTeX without its box.
        answer (`str`):
            LaTeX without its box.
        policy (`Policy`, *optional*):
            What users differ on.
    """
    if plain(gold) == plain(answer):
        return True
    gold_choice, answer_choice = choice(gold), choice(answer)
    if gold_choice and answer_choice and not (gold_choice[1] and answer_choice[1]):
        return gold_choice[0] == answer_choice[0]
    gold_items, answer_items = read(gold), read(answer)
    if not gold_items or not answer_items:
        return False
    return _Comparison(policy).lists(gold_items, answer_items)


def is_text_alone(gold: str) -> bool:
    """Whether only the same spelling can equal a gold: more than three words, or LaTeX that cannot be read."""
    items = read(gold)
    return not items or any(_is_text(piece) for item in items for side in item.sides for piece in side)


def _is_text(piece: Formula | Words) -> bool:
    if isinstance(piece, Words):
        return len(piece.text.split()) > _MAX_WORDS
    group = bracket(piece)
    inner = elements(group) if group else None
    if inner is not None:
        return any(_is_text(element) for item in inner for side in item.sides for element in side)
    return not number(piece.latex) and not is_based(piece.latex) and read_formula(piece.latex) is None


class _Comparison:
    def __init__(self, policy: Policy):
        self.policy = policy

    def lists(self, gold: tuple[Item, ...], answer: tuple[Item, ...]) -> bool:
        """Two lists: the same number of items, each with its counterpart, in any order."""
        gold, answer = _without_braces(gold), _without_braces(answer)
        if len(gold) > 1 and len(answer) == 1 and self.policy.several_golds == "any":
            return any(self.items(item, answer[0]) for item in gold)
        if self._tuple_and_list(gold, answer) or self._sentences(gold, answer):
            return True
        if len(gold) != len(answer):
            values = _set_of_a_name(gold, answer), _set_of_a_name(answer, gold)
            if values[0] or values[1]:
                return self.lists(values[0] or gold, values[1] or answer)
            return len(answer) == 1 and self._one_gold(gold, answer[0])
        if all(map(_name, gold)) and not any(item.relations for item in answer):
            return all(map(self.items, gold, answer))  # values without names follow the gold's order
        return self._matched(gold, answer)

    def _matched(self, gold: tuple[Item, ...], answer: tuple[Item, ...]) -> bool:
        """Whether each gold item has an answer's item of its own: as many, and as often."""
        left = list(answer)
        for item in gold:
            place = next((place for place, other in enumerate(left) if self.items(item, other)), None)
            if place is None:
                return False
            del left[place]
        return not left

    def _tuple_and_list(self, gold: tuple[Item, ...], answer: tuple[Item, ...]) -> bool:
        """(2, 3), and a bare list in its order."""
        for one, other in ((gold, answer), (answer, gold)):
            group = bracket(one[0].sides[0][0]) if len(one) == 1 < len(other) and _is_formula_alone(one[0]) else None
            inner = elements(group) if group and BRACKETS.get(group.open) == "(" and group.close != "]" else None
            if inner and len(inner) == len(other):
                return all(map(self.items, *((inner, answer) if one is gold else (gold, inner))))
        return False

    def _sentences(self, gold: tuple[Item, ...], answer: tuple[Item, ...]) -> bool:
        """5 hours and 30 minutes, 5 hours 30 minutes."""
        if any(item.relations for item in (*gold, *answer)) or (len(gold) == 1) == (len(answer) == 1):
            return False
        one, other = (tuple(piece for item in items for piece in item.sides[0]) for items in (gold, answer))
        return len(one) == len(other) >= 4 and self.sides(one, other)

    def _one_gold(self, gold: tuple[Item, ...], answer: Item) -> bool:
        """Several spellings of one gold, such as 4.4e7 and 4.4 * 10^7, are one gold."""
        if any(item.relations for item in gold) or len(set(gold)) < len(gold):
            return False
        strict = _Comparison(replace(self.policy, units="required"))
        return all(strict.items(item, answer) for item in gold)

    def items(self, gold: Item, answer: Item) -> bool:
        """Two items, by the exact or the rounded value of each."""
        return gold == answer or any(
            self._relations(one, other) for one in _exact_and_rounded(gold) for other in _exact_and_rounded(answer)
        )

    def _relations(self, gold: Item, answer: Item) -> bool:
        is_chain = [set(item.relations) <= {"=", r"\in"} for item in (gold, answer)]
        if not gold.relations and not answer.relations:
            return self.sides(gold.sides[0], answer.sides[0])
        if is_chain == [True, True] and not (gold.relations and answer.relations):
            # An equation and a value. What the gold's equation gives a value to must be a name: not in x^2 + y^2 = 1
            is_value = not gold.relations or _name(gold) or not any(map(_has_letters, gold.sides))
            return bool(is_value) and self.sides(gold.sides[-1], answer.sides[-1]) and self._is_consistent(answer)
        if is_chain == [True, True]:
            verdict = self._same_names(gold, answer)
            if verdict is not None:
                return verdict
        for sides, relations in (
            (answer.sides, answer.relations),
            (answer.sides[::-1], tuple(_MIRRORED.get(relation, "") for relation in answer.relations[::-1])),
        ):
            if relations == gold.relations and all(map(self.sides, gold.sides, sides)):
                return True
        if gold.relations == answer.relations == ("=",):
            return all(map(_is_formula, gold.sides + answer.sides)) and same_equations(
                (_latex_of(gold.sides[0]), _latex_of(gold.sides[1])),
                (_latex_of(answer.sides[0]), _latex_of(answer.sides[1])),
            )
        pairs = [_ordered(item) for item in (gold, answer)]
        if pairs[0] and pairs[1] and pairs[0][0] == pairs[1][0]:
            return same_inequalities(pairs[0][1:], pairs[1][1:])
        has_names = "=" in gold.relations + answer.relations or gold.relations == answer.relations == (r"\in",)
        return not has_names and same_by_math_verify(_latex(gold), _latex(answer))

    def _same_names(self, gold: Item, answer: Item) -> bool | None:
        """Two values of one name, `x = 5` and `x = 6`; `None` where the names differ, or stand in the values, too."""
        gold_name, answer_name = _name(gold), _name(answer)
        same_name = gold_name == answer_name
        value = answer.sides[-1] if same_name else _renamed(gold_name, answer_name, answer.sides[-1])
        if not gold_name or not value:
            return None
        if not self.sides(gold.sides[-1], value):
            is_defined = gold_name not in _latex_of(gold.sides[-1]) and gold_name not in _latex_of(value)
            return False if is_defined else None
        # What stands between has this value, too; where both have as much of it, that is seen
        has_middle = len(gold.sides) == len(answer.sides) > 2
        return self._is_consistent(answer) and (
            not has_middle or all(map(self.sides, gold.sides[1:-1], answer.sides[1:-1]))
        )

    def _is_consistent(self, chain: Item) -> bool:
        """Whether the numbers that a chain of equations calls equal are: not in `2 + 2 = 5`."""
        last = chain.sides[-1]
        return all(_has_letters(side) or self.sides(last, side) or _rounds_to(side, last) for side in chain.sides[:-1])

    def sides(self, gold: Side, answer: Side) -> bool:
        """Two sides, piece by piece; a unit at the end of one may be missing from the other."""
        if gold == answer:
            return True
        gold, answer = (
            side[1:] if len(side) > 1 and isinstance(side[0], Words) and is_approximately(side[0]) else side
            for side in (gold, answer)
        )
        if len(gold) == len(answer):
            return all(map(self._pieces, gold, answer))
        shorter, longer = sorted((gold, answer), key=len)
        if self.policy.units == "required" or len(shorter) != 1 or len(longer) != 2 or not _is_formula(longer[:1]):
            return False
        has_other_unit = isinstance(shorter[0], Formula) and is_marked(shorter[0].latex)
        is_optional = isinstance(longer[1], Words) and is_unit(longer[1]) and not has_other_unit
        return is_optional and self._pieces(gold[0], answer[0])

    def _pieces(self, gold: Formula | Words, answer: Formula | Words) -> bool:
        if isinstance(gold, Formula) and isinstance(answer, Formula):
            return self._formulas(gold, answer)
        if isinstance(gold, Words) and isinstance(answer, Words):
            return canonical(gold) == canonical(answer)
        # Letters that are a word to one reading and a product to the other
        texts = [canonical(piece) if isinstance(piece, Words) else piece.latex for piece in (gold, answer)]
        return all(len(text) > 1 and text.isalpha() for text in texts) and texts[0].lower() == texts[1].lower()

    def _formulas(self, gold: Formula, answer: Formula) -> bool:
        if gold.latex == answer.latex:
            return True
        one, other = bracket(gold), bracket(answer)
        if not one or not other or (one.open in TABLES) != (other.open in TABLES):
            return same_in_notation(gold.latex, answer.latex, self.policy)
        golds, answers = elements(one), elements(other)
        if golds is None or answers is None or len(golds) != len(answers):
            return False
        if one.open in TABLES:
            shapes = [[list(map(len, row)) for row in cells(group)] for group in (one, other)]
            return shapes[0] == shapes[1] and all(map(self.items, golds, answers))
        kinds = [(BRACKETS[group.open], group.close.replace(r"\rangle", ")")) for group in (one, other)]
        if kinds[0] != kinds[1]:
            return False
        return self._matched(golds, answers) if one.open == r"\{" else all(map(self.items, golds, answers))


def _without_braces(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """The elements of a set, which are a list like others, and the equations of a system."""
    group = bracket(items[0].sides[0][0]) if len(items) == 1 and _is_formula_alone(items[0]) else None
    if group and (group.open == r"\{" or group.open == "cases" and "&" not in group.children):
        return elements(group) or items
    return items


def _set_of_a_name(items: tuple[Item, ...], others: tuple[Item, ...]) -> tuple[Item, ...] | None:
    r"""The elements in `x \in \{1, 2\}`, where the other answer names nothing."""
    if len(items) != 1 or _name(items[0]) is None or any(item.relations for item in others):
        return None
    inner = _without_braces((Item(items[0].sides[-1:], ()),))
    return inner if len(inner) > 1 else None


def _exact_and_rounded(item: Item) -> list[Item]:
    r"""Both values of `\frac{1}{3} \approx 0.33`; `x \approx 0.33` is an equation."""
    if r"\approx" not in item.relations:
        return [item]
    place = item.relations.index(r"\approx")
    exact, rounded = item.sides[place : place + 2]
    if _is_formula(exact) and _rounds_to(exact, rounded):
        named = item.sides[:place]
        return [Item((*named, side), item.relations[:place]) for side in ((*exact, *rounded[1:]), item.sides[-1])]
    return [Item(item.sides, tuple("=" if relation == r"\approx" else relation for relation in item.relations))]


def _rounds_to(exact: Side, rounded: Side) -> bool:
    if not (_is_formula(exact[:1]) and _is_formula(rounded[:1])):
        return False
    return rounds_to(exact[0].latex, rounded[0].latex)  # type: ignore[union-attr]


def _name(item: Item) -> str | None:
    r"""What an equation gives a value to: `x`, `f(2)`, `y_{max}`, `\angle ABC`; not `x^2 + y^2`."""
    if not item.relations or not set(item.relations) <= {"=", r"\in"} or len(item.sides[0]) != 1:
        return None
    piece = item.sides[0][0]
    if isinstance(piece, Words):
        return canonical(piece)
    bare = re.sub(r"_\{[^{}]*\}|\^\{(?:-1|\\text\{prime+\})\}|\([^()]*\)|(?<=[A-Za-z])\{[^{}]*\}", "", piece.latex)
    is_name = re.search(r"[A-Za-z]", piece.latex) and not re.search(r"[\d+\-*/^]|\\times|\\cdot|\\sqrt", bare)
    return piece.latex if is_name else None


def _renamed(gold_name: str | None, answer_name: str | None, side: Side) -> Side | None:
    """A side with the gold's letter in place of its own, where both define one function; `None` where they do not."""
    functions = [re.fullmatch(r"([A-Za-z])\(([A-Za-z])\)", name or "") for name in (gold_name, answer_name)]
    if not functions[0] or not functions[1] or functions[0][1] != functions[1][1] or not _is_formula(side):
        return None
    nodes = side[0].nodes  # type: ignore[union-attr]
    if functions[0][2] in re.sub(r"\\[A-Za-z]+", "", latex(nodes)):
        return None
    nodes = tuple(substituted(nodes, functions[1][2], functions[0][2]))
    return (Formula(latex(nodes), nodes),)


def _is_formula(side: Side) -> bool:
    return len(side) == 1 and isinstance(side[0], Formula)


def _ordered(item: Item) -> tuple[str, str, str] | None:
    """Relation, smaller and larger side of an inequality."""
    if len(item.relations) != 1 or not all(map(_is_formula, item.sides)):
        return None
    one, other = map(_latex_of, item.sides)
    relation = item.relations[0]
    if relation in ("<", r"\le"):
        return relation, one, other
    return (_MIRRORED[relation], other, one) if relation in (">", r"\ge") else None


def _is_formula_alone(item: Item) -> bool:
    return not item.relations and _is_formula(item.sides[0])


def _has_letters(side: Side) -> bool:
    """Whether a side names something, a variable, a function or a word, and is no mere number."""
    for piece in side:
        if isinstance(piece, Words) or piece.latex in ("e", "i"):
            return True
        letters = re.findall(r"\\[A-Za-z]+|[A-Za-z]", piece.latex)
        if any(letter in _VARIABLES or len(letter) == 1 and letter not in "ei" for letter in letters):
            return True
    return False


def _latex_of(side: Side) -> str:
    return " ".join(piece.latex if isinstance(piece, Formula) else rf"\text{{{piece.text}}}" for piece in side)


def _latex(item: Item) -> str:
    if item.relations == (r"\in",):
        return _latex_of(item.sides[1])  # x \in [1, 2] says what [1, 2] does
    return " ".join(
        text for pair in zip(map(_latex_of, item.sides), (*item.relations, ""), strict=True) for text in pair
    )
