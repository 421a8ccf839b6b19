"""Tables in Markdown, as all benchmarks print them."""

from collections.abc import Iterable


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A line of heads, a rule, and a line per row."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])
