"""Markdown for the pages of the book."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

DASH = "\N{EN DASH}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> str:
    """A table; the columns in `right` are aligned to the right. Pipes in cells are escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "| " + " | ".join("--:" if i in right else "---" for i in range(len(header))) + " |"
    return "\n".join([line(header), rule, *map(line, rows)])
