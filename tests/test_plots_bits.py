"""The figure of accuracy against bits: every number can be read without seeing it."""

from __future__ import annotations

import pytest

from edgelab import plots
from edgelab.errors import EdgelabError

CURVES = {"not trained": {2: 0.1, 8: 0.9, 4: 0.825}, "trained": {4: 0.875}}


def test_words_table_and_picture_say_the_same() -> None:
    figure = plots.accuracy_by_bits(CURVES, "On validation images.")
    assert figure.alt == (
        "On validation images. not trained: 90.0% with 8 bits, 82.5% with 4 bits, 10.0% with 2 bits; "
        "trained: 87.5% with 4 bits."
    )
    assert figure.svg.count(b"<svg") == 1
    for text in ("bits", "not trained, %", "trained, %", "82.5", "87.5", "90", "10"):
        assert f">{text}</" in figure.table.html
    rows = figure.table.html.split("<tr>")
    assert [row.count(f">{bits}</") for row, bits in zip(rows[-3:], (8, 4, 2), strict=True)] == [1, 1, 1]


@pytest.mark.parametrize("curves", [{}, {"trained": {}}])
def test_nothing_to_draw(curves: dict) -> None:
    with pytest.raises(EdgelabError, match=r"^no accuracies to draw: expected at least one curve"):
        plots.accuracy_by_bits(curves, "x")
