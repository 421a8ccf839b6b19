"""An inspected batch as one HTML page that needs nothing from outside."""

from importlib.resources import files
from typing import Any, NamedTuple

import jinja2

from .. import __version__
from .measuring import Inspection, Token


LEVELS = 10  # shades of each colour
NUM_LISTED = 10  # tokens that raise and lower entropy most
CONTEXT = 40  # characters in front of a listed token


class View(NamedTuple):
    """One way to colour the tokens: its key, what the switch says, and what the colours mean."""

    key: str
    label: str
    meaning: str


VIEWS = (
    View("entropy", "entropy", "darker: the model was less certain what to write here (H, nats)"),
    View("surprise", "probability", "darker: the model gave this token a lower probability (p)"),
    View(
        "change",
        "entropy change",
        "orange, underlined: training on this token raises entropy; blue, dotted: lowers it (d = A·s, weighted)",
    ),
)


def render_page(inspection: Inspection, model: str, compared: str | None = None) -> str:
    """
    Args:
        inspection ([`~opefo_trl.inspection.measuring.Inspection`]):
            What to show.
        model (`str`):
            Name of the model, for the title.
        compared (`str`, *optional*):
            Name of the second model, if there is one.

    Returns:
        `str`: the page. Texts of prompts and completions are escaped.
    """
    tokens = [token for _, group in inspection.groups for completion in group for token in completion.tokens]
    # The same scale for both models
    largest_entropy = max((max(token.entropy, token.other_entropy or 0.0) for token in tokens), default=0.0)
    largest_change = max((abs(token.change) for token in tokens), default=0.0)
    scales = {"entropy": largest_entropy, "surprise": 1.0, "change": largest_change}
    views = list(VIEWS)
    if compared is not None:
        views += [
            View("other_entropy", f"entropy, {compared}", f"the same, for {compared}"),
            View("other_surprise", f"probability, {compared}", f"the same, for {compared}"),
        ]
        scales |= {"other_entropy": largest_entropy, "other_surprise": 1.0}
    groups: list[dict[str, Any]] = []
    listed: list[dict[str, Any]] = []
    number = 0
    for prompt, completions in inspection.groups:
        shown = []
        for completion in completions:
            row, before = [], ""
            for token in completion.tokens:
                row.append({"number": number, "token": token, "levels": levels_of(token, scales)})
                listed.append({"number": number, "token": token, "before": before[-CONTEXT:]})
                before += token.text
                number += 1
            shown.append({"completion": completion, "tokens": row})
        groups.append({"prompt": prompt, "completions": shown})
    by_change = sorted(listed, key=lambda entry: entry["token"].change)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["visible"] = visible
    template = environment.from_string(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        model=model,
        compared=compared,
        inspection=inspection,
        groups=groups,
        views=views,
        levels=range(1, LEVELS + 1),
        raising=[entry for entry in reversed(by_change[-NUM_LISTED:]) if entry["token"].change > 0],
        lowering=[entry for entry in by_change[:NUM_LISTED] if entry["token"].change < 0],
        num_tokens=len(tokens),
        version=__version__,
    )


def visible(text: str) -> str:
    """A token's text with a sign for each line end, which could not be pointed at otherwise."""
    return text.replace("\n", "⏎\n")


def levels_of(token: Token, scales: dict[str, float]) -> dict[str, Any]:
    """
    The shade of a token in each view, from 0 to [`LEVELS`]; of a change that lowers entropy the negative. Changes are
    on a square-root scale, since few tokens hold most of the flow.
    """
    values = {
        "entropy": token.entropy,
        "surprise": 1.0 - token.probability,
        "change": abs(token.change),
        "other_entropy": token.other_entropy,
        "other_surprise": None if token.other_probability is None else 1.0 - token.other_probability,
    }
    levels = {}
    for view, scale in scales.items():
        share = (values[view] or 0.0) / scale if scale > 0 else 0.0
        levels[view] = round(LEVELS * (share**0.5 if view == "change" else min(share, 1.0)))
    if token.change < 0:
        levels["change"] = -levels["change"]
    return levels
