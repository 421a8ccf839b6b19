r"""Normalizes the many ways to write the same LaTeX, and parses it into a tree of groups.

[`spell`] works on the text: Unicode becomes LaTeX, synonyms become one command, and layout commands are removed.
[`parse`] makes a tree of it, in which every bracket, environment and piece of prose is a node, and completes shorthand
(`\frac12`). Nothing here knows what an answer means: see `reading`.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass


class Unreadable(ValueError):
    """The text has no clear meaning as LaTeX: for example, an unmatched bracket or two numbers side by side."""


@dataclass(frozen=True)
class Words:
    """Prose: the content of `\\text{}`, or a run of letters that is a word."""

    text: str


@dataclass(frozen=True)
class Group:
    """The content of two brackets, `("(", children, "]")`, or of an environment, with its name in place of both."""

    open: str
    children: tuple["Node", ...]
    close: str


Node = str | Words | Group

GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega"
).split()

_UNICODE = str.maketrans(
    {
        **{"−": "-", "–": "-", "—": "-", "‐": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*"},
        **{"÷": r"\div ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx "},
        **{"±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "},
        **{"∅": r"\emptyset "},
        **{"°": r"\degree ", "º": r"\degree ", "′": "'", "’": "'", "″": "''", "％": "%", "∠": r"\angle ", "…": "..."},
        **{"ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}"},
        **{"⟨": r"\langle ", "⟩": r"\rangle ", "∣": "|", "→": r"\to ", "⇒": r"\Rightarrow ", "∖": r"\setminus "},
        **{"€": r"\$", "£": r"\$", "¥": r"\$", "₹": r"\$", "√": r"\sqrt√", "∛": r"\sqrt[3]√"},
        **{"℃": r"\degree \text{C}", "℉": r"\degree \text{F}"},
        **{"。": ".", "“": '"', "”": '"', "‘": "'", "¢": " cents"},
        **{letter: f"\\{name} " for letter, name in zip("αβγδεζηθικλμνξπρστυφχψω", GREEK, strict=True)},
        **{"ϕ": r"\phi ", "Δ": r"\Delta ", "Σ": r"\Sigma ", "Ω": r"\Omega ", "Γ": r"\Gamma ", "Π": r"\Pi "},
    }
)  # fmt: skip

_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "₀₁₂₃₄₅₆₇₈₉₊₋"

# One name for each thing
_SYNONYMS = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac"),
    **dict.fromkeys(("dbinom", "tbinom"), r"\binom"),
    **dict.fromkeys(("leq", "leqslant", "leqq"), r"\le"),
    **dict.fromkeys(("geq", "geqslant", "geqq"), r"\ge"),
    **{"neq": r"\ne", "lt": "<", "gt": ">", "varnothing": r"\emptyset", "ast": "*", "cdotp": r"\cdot", "colon": ":"},
    "centerdot": r"\cdot",
    **{"lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")"},
    **dict.fromkeys(("vert", "lvert", "rvert", "mid"), "|"),
    **{"tg": r"\tan", "ctg": r"\cot", "arctg": r"\arctan", "arcctg": r"\arccot", "lg": r"\log", "cosec": r"\csc"},
    **dict.fromkeys(("dots", "cdots", "dotsc", "dotsb"), r"\ldots"),
    **dict.fromkeys(("rightarrow", "longrightarrow", "mapsto"), r"\to"),
    **dict.fromkeys(("simeq", "cong", "fallingdotseq", "doteq"), r"\approx"),
    **{"varepsilon": r"\epsilon", "varphi": r"\phi", "vartheta": r"\theta", "backslash": r"\setminus"},
    **{"top": "T", "intercal": "T"},
    **{"R": r"\mathbb{R}", "Z": r"\mathbb{Z}", "N": r"\mathbb{N}", "Q": r"\mathbb{Q}", "infin": r"\infty"},
}
# They only change the layout
_LAYOUT = (
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle "
    "scriptstyle limits nolimits boxed fbox hfill noindent"
).split()
_SPACES = ("space", "enspace", "thinspace", "hfill", "newline", "allowbreak")


def _repeating(whole: str, decimals: str, repeated: str) -> str:
    r"""0.1\overline{6} as a fraction."""
    top = int(whole + decimals + repeated) - int(whole + decimals)
    return rf"\frac{{{top}}}{{{'9' * len(repeated)}{'0' * len(decimals)}}}"


_TAB = {"\t": "\\t", "\f": "\\f", "\x08": "\\b", "\r": "\\r"}
_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (
            r"\t(?=ext|imes|heta|an\b|au\b|frac)|\f(?=rac)|\x08(?=oxed|eta)|\r(?=ight|ho)",
            lambda match: _TAB[match[0]],
        ),  # Python without r""
        (r"\*\*(?=\s*[\d({a-z-])", "^"),  # Python's power
        (r"\*\*", " "),  # bold type
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"!=", r"\\ne "),
        (r"==", "="),
        (r"\.{2,}", r"\\ldots "),
        (r"(?<=\d)\s*(?:\{,\}|,?\\[,!]|\\ |')\s*(?=\d{3}(?!\d))", ""),  # 1{,}000, 1,\!000, 1\,000 and 1'000
        (r"(?<=\d)\s*x\s*(?=10\s*\^)", r"\\times "),  # 3 x 10^8
        (r"(?<![\d.\w^])(\d{1,3})((?: \d{3})+)(?![\d\w])", lambda match: match[0].replace(" ", "")),  # 1 000
        (r"\\\\(?=\s*\[[^\]]*\])|(?<!\\)\\[,;:! >](?!\d{3})|(?<!\\)\\[,;:! >]|~", " "),
        (rf"\\q?quad|\\(?:{'|'.join(_SPACES)})(?![A-Za-z])|\\[hv]space\*?\s*\{{[^{{}}]*\}}", " "),
        (rf"\\(?:{'|'.join(_LAYOUT)})(?![A-Za-z])\s?", ""),
        (r"\\(?:\$|textdollar|pounds|euro)\s*(\d[\d,]*(?:\.\d+)?)", r"\1 \\text{ dollars}"),
        (r"\\(?:\$|(?:textdollar|pounds|euro)(?![A-Za-z]))|\"", ""),
        (
            r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\}|o(?![A-Za-z])|\{o\})|\\textdegree(?![A-Za-z])|(?<=[\d\s}])degrees?\b",
            r"\\degree ",
        ),
        (r"\\degree\s*([CF])(?![A-Za-z])", r"\\degree \\text{\1}"),
        (r"\\?%|(?<=[\d\s])(?:percent(?:age)?|pct)\b", r"\\percent "),
        (
            r"\^\s*\{?\s*\\(?:text|mathrm|rm|textrm)\s*\{?\s*(?:st|nd|rd|th)\s*\}?\s*\}?|(?<=\d)(?:st|nd|rd|th)\b"
            r"|(?<=\d)\s*\\(?:text|mathrm)\{\s*(?:st|nd|rd|th)\s*\}",
            "",
        ),
        (r"\^\s*\{\s*((?:\\prime\s*)+)\}", lambda match: "'" * match[1].count("p")),
        (r"\^\s*\\prime(?![A-Za-z])", "'"),
        (r"\\sqrt(\[3\])?√\s*(\d+(?:\.\d+)?|[A-Za-z])", r"\\sqrt\1{\2}"),  # √13 is the root of 13, \sqrt13 is not
        (r"√", ""),
        (r"\{\\(?:rm|bf|it|sf)\s+([^{}]*)\}", r"\\text{\1}"),
        (r"(?<![\\A-Za-z])(arc(?:sin|cos|tan)|sqrt|sin|cos|tan|cot|csc|log|ln|exp|pi)(?![A-Za-z])", r"\\\1"),  # Python
        (r"(?<![\\A-Za-z])(?:oo|inf(?:inity)?)(?![A-Za-z])", r"\\infty "),
        (r"(?<![\\A-Za-z])(max|min|gcd|lcm|sec)(?=\s*\()", r"\\\1"),
        (r"(?<![\d.])\.(?=\d)", "0."),  # .5
        (r"(\d+)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?", lambda match: _repeating(*match.groups())),
        (r"(?<=\d)\.(?!\d)", " "),  # 3. and 1./3
        (r"(?<![\d.^_{A-Za-z}])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"\1\\frac{\2}{\3}"),  # 3 1/2
    )
]
_COMMAND = re.compile(r"\\([A-Za-z]+)")

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|'+|\s+|.", re.DOTALL)
_CLOSERS = {"(": ")]", "[": ")]", "{": "}", r"\{": (r"\}",), r"\langle": (r"\rangle",)}
_ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1, r"\overline": 1, r"\bar": 1, r"\mathbb": 1, r"\mathcal": 1}
_TEXT = {r"\text", r"\textbf", r"\textit", r"\textrm", r"\textnormal", r"\mbox", r"\hbox", r"\textsf", r"\emph"}
_UPRIGHT = {r"\mathrm", r"\operatorname", r"\mathsf", r"\mathtt", r"\texttt"}
_LETTER_STYLES = {r"\mathbf", r"\mathit", r"\boldsymbol", r"\bm", r"\pmb", r"\vec", r"\hat", r"\overrightarrow"}
# Products of vectors, which are not products of numbers
_VECTOR_PRODUCTS = {r"\times": r"\wedge", r"\cdot": r"\bullet"}
FUNCTIONS = (
    "arcsin arccos arctan arccot sinh cosh tanh sin cos tan cot sec csc log ln exp max min gcd lcm det sqrt pi"
).split()


def spell(text: str) -> str:
    """The same LaTeX in the normalized form that [`parse`] expects."""
    for letters, command in ((_RAISED, "^"), (_LOWERED, "_")):
        text = re.sub(f"([{letters}]+)", rf"{command}{{\1}}", text)
    text = unicodedata.normalize("NFKC", text.translate(_UNICODE)).replace("−", "-")
    text = re.sub(r"(\d+)\N{FRACTION SLASH}(\d+)", r"\\frac{\1}{\2}", text)  # ½, by now 1⁄2
    if r"\begin" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)  # escaped twice
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return _COMMAND.sub(lambda match: _SYNONYMS.get(match[1], match[0]), text)


def parse(text: str) -> tuple[Node, ...]:
    r"""
    The tree of a text that [`spell`] returned.

    Raises:
        `Unreadable`: if a bracket or an environment is unmatched, or a command lacks an argument.
    """
    tokens = _TOKEN.findall(text)
    stack: list[tuple[str, list[Node]]] = [("", [])]
    position = 0
    while position < len(tokens):
        token, opener = tokens[position], stack[-1][0]
        position += 1
        if token in _TEXT or token in _UPRIGHT:
            content, position = _raw_argument(tokens, position)
            stack[-1][1].extend(_prose(content, token in _UPRIGHT, stack[-1][1]))
        elif token in _LETTER_STYLES:
            content, position = _raw_argument(tokens, position)
            stack[-1][1].extend(parse(content))
            following = next((place for place in range(position, len(tokens)) if not tokens[place].isspace()), None)
            if following is not None and content.strip().isalpha():
                tokens[following] = _VECTOR_PRODUCTS.get(tokens[following], tokens[following])
        elif token == r"\begin":
            name, position = _raw_argument(tokens, position)
            if name == "array":  # skip the alignment of its columns
                position = _raw_argument(tokens, position)[1]
            stack.append((name, []))
        elif token == r"\end":
            name, position = _raw_argument(tokens, position)
            _close(stack, name, name)
        elif token in _CLOSERS:
            stack.append((token, []))
        elif token in (")", "]", "}", r"\}", r"\rangle"):
            if opener not in _CLOSERS or token not in _CLOSERS[opener]:
                raise Unreadable
            _close(stack, opener, token)
        else:
            stack[-1][1].append(" " if token.isspace() else token)
    if len(stack) != 1:
        raise Unreadable
    return _completed(stack[0][1])


def latex(nodes: Iterable[Node]) -> str:
    """The text of a tree, without needless spaces."""
    parts: list[str] = []
    for node in nodes:
        if isinstance(node, Words):
            parts.append(r"\text{" + re.sub(r"[^A-Za-z]", "", node.text) + "}")
        elif isinstance(node, Group) and node.open[-1:].isalpha() and not node.open.startswith("\\"):
            parts.append(rf"\begin{{{node.open}}}{latex(node.children)}\end{{{node.close}}}")
        elif isinstance(node, Group):
            parts.append(f"{node.open}{latex(node.children)}{node.close}")
        elif node != " ":
            parts.append(node + " " if node[0] == "\\" and node[-1].isalpha() else node)
    return "".join(parts)


def _close(stack: list[tuple[str, list[Node]]], opener: str, closer: str) -> None:
    if len(stack) == 1 or stack[-1][0] != opener:
        raise Unreadable
    children = stack.pop()[1]
    if r"\over" in children:
        place = children.index(r"\over")
        top, bottom = (Group("{", _completed(part), "}") for part in (children[:place], children[place + 1 :]))
        children = [r"\frac", top, bottom]
    stack[-1][1].append(Group(opener, _completed(children), closer))


def _raw_argument(tokens: list[str], position: int) -> tuple[str, int]:
    """The text of the argument that begins at a position, and where it ends."""
    while position < len(tokens) and tokens[position].isspace():
        position += 1
    if position == len(tokens):
        raise Unreadable
    if tokens[position] != "{":
        return tokens[position], position + 1
    depth, start = 0, position + 1
    while position < len(tokens):
        depth += {"{": 1, "}": -1}.get(tokens[position], 0)
        position += 1
        if depth == 0:
            return "".join(tokens[start : position - 1]), position
    raise Unreadable


def _prose(content: str, is_upright: bool, before: list[Node]) -> list[Node]:
    """The content of `\\text{}`: a number stays a number, a lone letter may be a variable, the rest is words."""
    stripped = content.strip(" ()")
    last = next((node for node in reversed(before) if node != " "), "")
    may_be_unit = not isinstance(last, str) or last[:1].isdigit() or last in ("/", r"\cdot", "-", r"\degree")
    if stripped.removeprefix("\\") in FUNCTIONS and not (may_be_unit and stripped in ("min", "sec")):
        return ["\\" + stripped.removeprefix("\\")]
    if len(stripped) == 1 and stripped.isalpha() and (stripped in "eid" and is_upright or not may_be_unit):
        return [stripped]
    nodes: list[Node] = []
    for word, other in re.findall(r"([^\W\d_][^\d$\\{}^=<>+;,]*)|((?:\\[A-Za-z]+|[\W\d_])+)", content):
        nodes += [Words(word)] if word else parse(other)
    return nodes


def _completed(nodes: list[Node]) -> tuple[Node, ...]:
    """Write out shorthand: put all arguments of commands, exponents and indices in braces."""
    done: list[Node] = []
    position = 0

    def argument(opens_round: bool, takes_digit: bool = False) -> Group:
        nonlocal position
        while position < len(nodes) and nodes[position] == " ":
            position += 1
        if position == len(nodes):
            raise Unreadable
        node = nodes[position]
        if takes_digit and isinstance(node, str) and node[:1].isdigit():
            # \frac12 is a half: an argument without braces is one digit
            digit, rest = node[0], node[1:]
            if rest:
                nodes[position] = rest
            else:
                position += 1
            return Group("{", (digit,), "}")
        position += 1
        if isinstance(node, Group) and (node.open == "{" or opens_round and node.open == "("):
            return Group("{", node.children, "}")
        if isinstance(node, str) and node in _ARGUMENTS:  # x^\frac12
            return Group("{", (node, *(argument(node == r"\sqrt", True) for _ in range(_ARGUMENTS[node]))), "}")
        if isinstance(node, str) and node in ("+", "-") and position < len(nodes):
            inner = argument(opens_round)
            return Group("{", (node, *inner.children), "}")
        return Group("{", (node,), "}")

    while position < len(nodes):
        node = nodes[position]
        position += 1
        if isinstance(node, str) and node in _ARGUMENTS:
            done.append(node)
            if node == r"\sqrt" and position < len(nodes):
                root = nodes[position]
                if isinstance(root, Group) and root.open == "[" and root.close == "]":
                    done.append(root)
                    position += 1
            for _ in range(_ARGUMENTS[node]):
                done.append(argument(node == r"\sqrt", True))
        elif isinstance(node, str) and node in ("^", "_"):
            done += [node, argument(node == "^")]
        elif isinstance(node, Group) and node.open == "{":  # not an argument of a command
            done += _bare_braces(node)
        else:
            done.append(node)
    return tuple(done)


def _bare_braces(group: Group) -> tuple[Node, ...]:
    """Braces that no command needs: around one thing they mean nothing, around several they act as parentheses."""
    if "," in group.children:
        return (Group(r"\{", group.children, r"\}"),)
    is_one = len([node for node in group.children if node != " "]) <= 1
    return (
        group.children
        if is_one or all(_is_letter(node) for node in group.children)
        else (Group("(", group.children, ")"),)
    )


def _is_letter(node: Node) -> bool:
    return isinstance(node, Words) or isinstance(node, str) and (node.isalpha() or node == " ")
