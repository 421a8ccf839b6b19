r"""Words in answers: which letters are words, which words are a unit, and which words mean the same."""

import re
from collections.abc import Iterable
from functools import lru_cache

from .latex import Group, Node, Unreadable, Words, latex, spell


# Short words, which would be read as products of variables inside a formula
_SHORT_WORDS = set(
    "is are if or and for all any odd yes no not the of in on to at by has an set was as be it we when then that thus "
    "per am pm day ten six one two red men who how its sq".split()
)
_UNITS = set("cm mm km dm kg mg lb lbs oz ft mph kph hr hrs min sec ml gal pts".split())
# Their index is a formula, not a name
_WITH_INDEX = (r"\lim", r"\sum", r"\prod", r"\int", r"\log")
_VOWELS = set("aeiouyAEIOUY")
_UNIT_GLUE = (r"\cdot", r"\times", "*", "/", "-", ".", " ")
_SAME_UNITS = {
    spelling: unit
    for unit, spellings in {
        "cm": "centimeter centimeters centimetre centimetres cms",
        "mm": "millimeter millimeters millimetre millimetres",
        "km": "kilometer kilometers kilometre kilometres",
        "m": "meter meters metre metres",
        "kg": "kilogram kilograms kgs",
        "g": "gram grams",
        "s": "sec secs second seconds",
        "min": "mins minute minutes",
        "h": "hr hrs hour hours",
        "day": "days",
        "ft": "foot feet",
        "in": "inch inches",
        "mi": "mile miles",
        "lb": "lbs pound pounds",
        "L": "liter liters litre litres",
        "unit": "units",
        "dollar": "dollars",
        "cent": "cents",
        "/": "per",
        "mi / h": "mph",
        "km / h": "kph",
    }.items()
    for spelling in spellings.split()
}
_UNIT_NAMES = {*_SAME_UNITS, *_SAME_UNITS.values(), *_UNITS} | set(
    "euro yuan rupee ruble degree radian rad percent people men women children teeth mice fish sheep year month week "
    "point hz hertz n newton j joule w watt v volt a amp ohm k kelvin c f pa pascal mol l t".split()
)
_PREFIXED = re.compile(r"[mM](?:W|m|g|Hz|J|V|Pa|s|L|l|N|A)")
_MAX_UNIT = 4
# Words that change the meaning of what comes before them
_DECIDING = set(
    "and or not no is are be if where for when with while until unless except all any every each then else more "
    "less than least most at over under above below between mod modulo base true false even odd times half double "
    "but does do infinity infinite undefined none only exactly never always negative minus plus such that am pm "
    "hundred hundreds thousand thousands million millions billion billions trillion dozen dozens square squared "
    "cubed factorial halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh eighth "
    "eighths ninth tenth tenths hundredth hundredths thousandths zero one two three four five six seven eight nine "
    "ten greater fewer higher lower larger smaller onward onwards upwards downwards inclusive exclusive included "
    "excluded maybe perhaps possibly wrong positive nonnegative to power this answers solutions".split()
)
_APPROXIMATELY = {"approximately", "about", "approx", "roughly", "around", "exactly"}
_CHOICE = re.compile(r"(?:(?:option|choice)\s+)?\(?((?-i:[A-J]))(\)|[.:](?!\d)|$)\s*(.*)", re.DOTALL | re.IGNORECASE)
_OTHER_CHOICE = re.compile(r"(?:^|[\s(,;])[A-Z](?=\s*(?:[).:,;]|$))")


def with_words(nodes: Iterable[Node], is_outside: bool = True) -> list[Node]:
    """Turns runs of letters that are words into [`Words`], at every depth. An index becomes one name."""
    done: list[Node] = []
    run = ""
    for node in [*nodes, ""]:
        if isinstance(node, str) and len(node) == 1 and node.isalpha():
            run += node
            continue
        if run:
            beside = (*done[-1:], node)
            is_alone = is_outside and all(isinstance(o, (Words, Group)) or o in ("", " ", ",", ";") for o in beside)
            done += _run(run, is_alone)
            run = ""
        if isinstance(node, Group) and done[-1:] == ["_"] and (len(done) < 2 or done[-2] not in _WITH_INDEX):
            done.append(Group("{", (re.sub(r"\\text|\\|[{}\s]", "", latex(node.children)),), "}"))
        elif isinstance(node, Group):
            inside = with_words(node.children, is_outside=False)
            if node.open == "(" and done and _is_words(inside):  # 9 (apples)
                done += inside
            else:
                done.append(Group(node.open, tuple(inside), node.close))
        elif isinstance(node, str) and node.startswith("'"):
            if not (done and isinstance(done[-1], str) and done[-1].isalpha()):
                raise Unreadable  # minutes of arc, feet
            done += ["^", Group("{", (Words("prime" * len(node)),), "}")]
        elif node != "":
            done.append(node)
    return done


def _run(letters: str, is_alone: bool) -> list[Node]:
    is_lower = letters[1:].islower()
    if len(letters) >= 4 and is_lower and _VOWELS & set(letters) or letters in _UNITS or not letters.isascii():
        return [Words(letters)]
    if is_alone and letters.lower() in _SHORT_WORDS:
        return [Words(letters)]
    return list(letters)


def _is_words(nodes: Iterable[Node]) -> bool:
    nodes = list(nodes)
    return any(isinstance(node, Words) for node in nodes) and all(isinstance(n, Words) or n == " " for n in nodes)


def unit_at(nodes: list[Node], position: int) -> tuple[str, int]:
    """The words that begin at a position, with the exponents and fraction bars of a unit, and where they end."""
    text, end = "", position
    while position < len(nodes):
        node = nodes[position]
        following = nodes[position + 1] if position + 1 < len(nodes) else None
        if isinstance(node, Words):
            text, position = text + node.text, position + 1
            end = position
        elif node == "^" and text and isinstance(following, Group):
            text, position = text + "^" + latex(following.children), position + 2
            end = position
        elif isinstance(node, Group) and node.open == "(" and _is_words(node.children):
            text, position = text + " " + " ".join(n.text for n in node.children if isinstance(n, Words)), position + 1
            end = position
        elif isinstance(node, str) and node in _UNIT_GLUE:
            rest = next((n for n in nodes[position:] if not (isinstance(n, str) and n in _UNIT_GLUE)), None)
            if not isinstance(rest, Words):
                break
            text, position = text + node, position + 1
        else:
            break
    return text, end


def canonical(words: Words) -> str:
    """Words to compare: units by their symbols. Case matters for single letters, and for a unit such as mW."""
    text = re.sub(r"\b([ap])\.\s?m\b", r"\1m", words.text, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:square|sq)\.?\s+([A-Za-z]+)", r"\1^2", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:cubic|cu)\.?\s+([A-Za-z]+)", r"\1^3", text, flags=re.IGNORECASE)
    listed = re.findall(r"[^\W\d_]+|[/^\d]+|\S", re.sub(r"[.,:;!?\"()\\{}$~]", " ", text))
    return " ".join(
        word if len(word) == 1 or _PREFIXED.fullmatch(word) else _SAME_UNITS.get(word.lower(), word.lower())
        for word in listed
    )


def is_unit(words: Words) -> bool:
    """Whether words may be just a unit, so that an answer may leave them out."""
    listed = re.findall(r"[^\W\d_]+", canonical(words).lower())
    return 0 < len(listed) <= _MAX_UNIT and not _DECIDING & set(listed)


def is_surely_unit(words: Words) -> bool:
    """Whether words surely are a unit, so that an answer may add them: a known unit, or a noun in the plural."""
    listed = re.findall(r"[^\W\d_]+", canonical(words).lower())
    return is_unit(words) and any(word in _UNIT_NAMES or word.endswith("s") and len(word) > 3 for word in listed)


def is_approximately(words: Words) -> bool:
    """Whether words before a number say no more than "about"."""
    return canonical(words) in _APPROXIMATELY


def choice(text: str) -> tuple[str, str] | None:
    """The letter of a choice, and its text: `B`, `(B)`, `B. 5`, `\\textbf{(B)}\\ 5`. Several choices are none."""
    flat = re.sub(r"\\(?:text\w*|math\w+|mbox)\s*\{([^{}]*)\}", r"\1", text)
    match = _CHOICE.fullmatch(re.sub(r"\\[ ,;:!]|~|\\q?quad", " ", flat).strip(" $*"))
    if match is None or _OTHER_CHOICE.search(match[3]):
        return None
    # `D: 4` may define D
    return match[1], f": {match[3]}" if match[2] == ":" else match[3].strip()


@lru_cache(maxsize=1024)
def plain(text: str) -> str:
    """A text without layout, to compare answers that use the same words."""
    text = re.sub(r"\\(?:text\w*|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 ", spell(text))
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)|\$", "", text)
    return re.sub(r"[.,]$", "", text)
