r"""Compares an answer with the gold one part by part: items, sides, pieces, and finally formulas.

docs/math_reward.md explains the rules. If in doubt, two answers are not equal.
"""

import re
from dataclasses import replace

from .formulas import read_formula, same_by_math_verify, same_equations, same_inequalities
from .items import (
    MIRRORED,
    exact_and_rounded,
    expanded,
    has_letters,
    is_formula,
    is_formula_alone,
    is_member,
    latex_of_item,
    latex_of_side,
    name,
    ordered,
    oriented,
    renamed,
    rounds_to,
    with_letter,
    without_braces,
)
from .latex import Words
from .notations import is_based, is_marked, same_in_notation
from .numbers import number
from .policy import DEFAULT_POLICY, Policy
from .reading import BRACKETS, TABLES, Formula, Item, Side, bracket, cells, elements, read
from .words import canonical, choice, is_approximately, is_surely_unit, is_unit, plain


_MAX_WORDS = 3
_CONNECTIVES = re.compile(r"\bor\b"), re.compile(r"\band\b")
# A sum or a product of letters, which may name the value in an answer: m + n = 5
_LETTERS = re.compile(r"[A-Za-z](?:\+?[A-Za-z])*")
# Points, sides and other names of capital letters, and products of matrices and vectors, keep their order
_ORDERED = re.compile(r"(?:\\[a-z]+ )?\{?[A-Z]{2,}\}?|.*(?:\^\{T\}|[A-Z]\^\{-1\}[A-Z]|[A-Z][A-Z]\^\{-1\}|\\nabla ).*")


def equal(gold: str, answer: str, policy: Policy = DEFAULT_POLICY) -> bool:
    """
    Whether an answer equals the gold one.

    Args:
        gold (`str`):
            LaTeX without its box.
        answer (`str`):
            LaTeX without its box.
        policy (`Policy`, *optional*):
            Options of the math reward.
    """
    if plain(gold) == plain(answer):
        return True
    gold_choice, answer_choice = choice(gold), choice(answer)
    if gold_choice and answer_choice and not (gold_choice[1] and answer_choice[1]):
        return gold_choice[0] == answer_choice[0] and not gold_choice[1].startswith(":")
    gold_items, answer_items = read(gold), read(answer)
    if not gold_items or not answer_items:
        return False
    if any(item.relations for item in gold_items) and _CONNECTIVES[0].search(gold + answer):
        # x < 1 or x > 3 is not x < 1 and x > 3
        if any(one.search(gold) and other.search(answer) for one, other in (_CONNECTIVES, _CONNECTIVES[::-1])):
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
        gold, answer = expanded(gold), expanded(answer)
        is_in_order = self._tuple_and_list(gold, answer)
        gold, answer = without_braces(gold), without_braces(answer)
        if len(gold) > 1 and len(answer) == 1 and self.policy.several_golds == "any":
            return any(self.items(item, answer[0]) for item in gold)
        if is_in_order or self._sentences(gold, answer):
            return True
        if len(gold) != len(answer):
            return len(answer) == 1 and self._one_gold(gold, answer[0])
        names = {re.sub(r"_\{.*?\}", "", name(item) or "") for item in gold}  # x_1 and x_2 are roots of one x
        if len(names) == len(gold) > 1 and "" not in names and not any(item.relations for item in answer):
            return all(map(self.items, gold, answer))  # values without names follow the gold's order
        return self._matched(gold, answer)

    def _matched(self, gold: tuple[Item, ...], answer: tuple[Item, ...]) -> bool:
        """Whether both lists have the same length, and each gold item a counterpart that is used once."""
        left = list(answer)
        for item in gold:
            place = next((place for place, other in enumerate(left) if self.items(item, other)), None)
            if place is None:
                return False
            del left[place]
        return not left

    def _tuple_and_list(self, gold: tuple[Item, ...], answer: tuple[Item, ...]) -> bool:
        """Whether one is a tuple such as (2, 3), and the other the same list without brackets, in its order."""
        for one, other in ((gold, answer), (answer, gold)):
            group = bracket(one[0].sides[0][0]) if len(one) == 1 < len(other) and is_formula_alone(one[0]) else None
            inner = elements(group) if group and BRACKETS.get(group.open) == "(" and group.close != "]" else None
            names = [name(item) or "" for item in other]
            has_order = not any(names) or names == sorted(set(names))
            if inner and len(inner) == len(other) and has_order:
                return all(map(self.items, *((inner, answer) if one is gold else (gold, inner))))
        return False

    def _sentences(self, gold: tuple[Item, ...], answer: tuple[Item, ...]) -> bool:
        """Whether they are equal without separators: 5 hours and 30 minutes, 5 hours 30 minutes."""
        if any(item.relations for item in (*gold, *answer)) or (len(gold) == 1) == (len(answer) == 1):
            return False
        one, other = (tuple(piece for item in items for piece in item.sides[0]) for items in (gold, answer))
        return len(one) == len(other) >= 4 and self.sides(one, other)

    def _one_gold(self, gold: tuple[Item, ...], answer: Item) -> bool:
        """Whether all golds are spellings of one value, such as 4.4e7 and 4.4 * 10^7, that the answer equals."""
        if any(item.relations for item in gold) or len(set(gold)) < len(gold):
            return False
        strict = _Comparison(replace(self.policy, units="required"))
        return all(strict.items(item, answer) for item in gold)

    def items(self, gold: Item, answer: Item) -> bool:
        """Two items, by the exact or the rounded value of each."""
        return gold == answer or any(
            self._relations(one, other) for one in exact_and_rounded(gold) for other in exact_and_rounded(answer)
        )

    def _relations(self, gold: Item, answer: Item) -> bool:
        if gold.letter and answer.letter and gold.letter != answer.letter:
            answer = with_letter(answer, gold.letter)
        gold, answer = oriented(gold), oriented(answer)
        is_chain = [set(item.relations) <= {"="} or is_member(item) for item in (gold, answer)]
        if not gold.relations and not answer.relations:
            return self.sides(gold.sides[0], answer.sides[0])
        if is_chain == [True, True] and not (gold.relations and answer.relations):
            # An equation and a value. The left side must be a number, or a name such as x, not x^2 + y^2
            equation = gold if gold.relations else answer
            left = equation.sides[0]
            unnamed = gold.sides if equation is gold else (left,)
            is_value = name(equation) or not any(map(has_letters, unnamed))
            is_sum = equation is answer and _LETTERS.fullmatch(latex_of_side(left)) is not None
            return (
                bool(is_value or is_sum)
                and self.sides(gold.sides[-1], answer.sides[-1])
                and self._is_consistent(answer)
            )
        if is_chain == [True, True]:
            verdict = self._same_names(gold, answer)
            if verdict is not None:
                return verdict
        for sides, relations in (
            (answer.sides, answer.relations),
            (answer.sides[::-1], tuple(MIRRORED.get(relation, "") for relation in answer.relations[::-1])),
        ):
            if relations == gold.relations and all(map(self.sides, gold.sides, sides)):
                return True
        if gold.relations == answer.relations == ("=",):
            return all(map(is_formula, gold.sides + answer.sides)) and same_equations(
                (latex_of_side(gold.sides[0]), latex_of_side(gold.sides[1])),
                (latex_of_side(answer.sides[0]), latex_of_side(answer.sides[1])),
            )
        pairs = [ordered(item) for item in (gold, answer)]
        if pairs[0] and pairs[1] and pairs[0][0] == pairs[1][0]:
            return same_inequalities(pairs[0][1:], pairs[1][1:])
        has_names = "=" in gold.relations + answer.relations or gold.relations == answer.relations == (r"\in",)
        return not has_names and same_by_math_verify(latex_of_item(gold), latex_of_item(answer))

    def _same_names(self, gold: Item, answer: Item) -> bool | None:
        """Two values of one name, `x = 5` and `x = 6`; `None` if the names differ or occur in the values."""
        gold_name, answer_name = name(gold), name(answer)
        same_name = gold_name == answer_name
        value = answer.sides[-1] if same_name else renamed(gold_name, answer_name, answer.sides[-1])
        if not gold_name or not value:
            return None
        if not self.sides(gold.sides[-1], value):
            is_defined = gold_name not in latex_of_side(gold.sides[-1]) and gold_name not in latex_of_side(value)
            return False if is_defined else None
        # If both chains have the same number of middle sides, these are compared, too
        has_middle = len(gold.sides) == len(answer.sides) > 2
        return self._is_consistent(answer) and (
            not has_middle or all(map(self.sides, gold.sides[1:-1], answer.sides[1:-1]))
        )

    def _is_consistent(self, chain: Item) -> bool:
        """Whether the numbers in a chain of equations are equal. In `2 + 2 = 5` they are not."""
        last = chain.sides[-1]
        return all(
            has_letters(side) or self.sides(last, side) or rounds_to(side, last, to_whole=False)
            for side in chain.sides[:-1]
        )

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
        if self.policy.units == "required" or len(shorter) != 1 or len(longer) != 2 or not is_formula(longer[:1]):
            return False
        has_other_unit = isinstance(shorter[0], Formula) and is_marked(shorter[0].latex)
        unit = longer[1]
        may_be_missing = is_unit if longer is gold else is_surely_unit
        is_optional = isinstance(unit, Words) and may_be_missing(unit) and not has_other_unit
        return is_optional and self._pieces(gold[0], answer[0])

    def _pieces(self, gold: Formula | Words, answer: Formula | Words) -> bool:
        if isinstance(gold, Formula) and isinstance(answer, Formula):
            return self._formulas(gold, answer)
        if isinstance(gold, Words) and isinstance(answer, Words):
            return canonical(gold) == canonical(answer)
        # The same letters may be read as a word in one and as a product in the other
        texts = [canonical(piece) if isinstance(piece, Words) else piece.latex for piece in (gold, answer)]
        return all(len(text) > 1 and text.isalpha() for text in texts) and texts[0].lower() == texts[1].lower()

    def _formulas(self, gold: Formula, answer: Formula) -> bool:
        if gold.latex == answer.latex:
            return True
        if _ORDERED.fullmatch(gold.latex) or _ORDERED.fullmatch(answer.latex):
            return False
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
