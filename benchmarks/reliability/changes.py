r"""Gold answers drawn from a grammar, each with the same answer in another spelling and with one thing changed."""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """
    A gold answer with what must be equal to it and what must not.

    Args:
        gold (`str`):
            LaTeX.
        same (`str`):
            The same answer, spelled otherwise.
        changed (`str`):
            The gold with one digit, sign, letter, unit or base changed.
        kind (`str`):
            What was changed.
    """

    gold: str
    same: str
    changed: str
    kind: str


UNITS = ("cm", "kg", "apples", "miles per hour", "m^2")
LETTERS = "abkmnpqrtuvwxyz"


def draw_change(rng: random.Random) -> Change:
    """Draw a gold answer, and change one thing in it that changes what it says."""
    n, m, k = (rng.randrange(2, 10 ** rng.randrange(1, 7)) for _ in range(3))
    x, y = rng.sample(LETTERS, 2)
    unit, other_unit = rng.sample(UNITS, 2)
    base, other_base = rng.sample(range(3, 10), 2)
    # Spelling, the same in another spelling, and the ways to change it
    forms = [
        ("{n}", "{n}.0", "digit sign"),
        ("0.00000{n}", r"{n} \times 10^{{-{places}}}", "digit sign"),
        (r"\frac{{{n}}}{{{m}}}", r"{n}/{m}", "digit sign"),
        (r"{n}\sqrt{{{m}}}", r"\sqrt{{{m}}} \cdot {n}", "digit sign"),
        (r"{n}\pi", r"\pi{n}", "digit sign"),
        (r"\frac{{1}}{{2^{{{n}}}}}" if n < 500 else "{n}", r"2^{{-{n}}}" if n < 500 else "{n}", "digit"),
        ("{n}{x}+{m}{y}", "{m}{y}+{n}{x}", "digit letter"),
        (r"{x}^2-{n}{x}", r"{x}({x}-{n})", "digit letter"),
        ("{x}={n}", "{n}", "digit"),
        ("f({k})={n}", "{n}", "digit"),
        ("({n},{m})", r"\left( {n}, {m} \right)", "digit"),
        ("{n}, {m}, {k}", r"\{{ {k}, {n}, {m} \}}", "digit"),
        (r"{x} > {n}", r"{n} < {x}", "digit letter"),
        (r"[0, {n})", r"0 \le {x} < {n}", "digit"),
        (r"{n} \text{{ {unit}}}", "{n}", "digit unit"),
        (r"{n}_{base}", "{n}_{{{base}}}", "base"),
        (r"{n}^\circ", r"{n}°", "digit"),
        (r"{n}\%", r"{n}\%", "digit"),
        (r"\text{{between }} {n} \text{{ and }} {m}", r"between {n} and {m}", "digit"),
        (r"\begin{{pmatrix}} {n} \\ {x} \end{{pmatrix}}", r"\begin{{bmatrix}}{n}\\{x}\end{{bmatrix}}", "digit letter"),
    ]
    spelling, same, kinds = rng.choice(forms)
    kind = rng.choice(kinds.split())
    slots = {"n": n, "m": m, "k": k, "x": x, "y": y, "unit": unit, "base": base, "places": 5 + len(str(n))}
    digits = str(n)
    place = rng.randrange(len(digits))
    digit = rng.choice([d for d in "123456789" if d != digits[place]])
    others = {
        "digit": ("n", f"{digits[:place]}{digit}{digits[place + 1 :]}"),
        "sign": ("n", n),
        "letter": ("x", rng.choice([letter for letter in LETTERS if letter not in (x, y)])),
        "unit": ("unit", other_unit),
        "base": ("base", other_base),
    }
    changed = spelling.format(**{**slots, **dict([others[kind]])})
    return Change(spelling.format(**slots), same.format(**slots), f"-{changed}" if kind == "sign" else changed, kind)
