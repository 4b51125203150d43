"""Text in aligned columns."""

from __future__ import annotations

from edgelab._columns import aligned


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_without_spaces() -> None:
    rows = [("name", "bytes", "note"), ("a", "1,024", ""), ("longer", "7", "yes")]
    assert aligned(rows, right=(1,)) == ["name    bytes  note", "a       1,024", "longer      7  yes"]
