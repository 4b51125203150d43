"""The figure of an arena: every number can be read without seeing it."""

from __future__ import annotations

import pytest

from edgelab import plots
from edgelab.errors import EdgelabError
from edgelab.memory import Buffer

PLACED = [(0, Buffer("a", 4096, 0, 1)), (6144, Buffer("b", 2048, 1, 2))]


def test_words_table_and_picture_say_the_same() -> None:
    figure = plots.memory_map(PLACED, "An arena.")
    assert figure.alt == ("An arena. 2 buffers end at 8,192 bytes; the most that is in use at once, dashed, is 6,144.")
    assert figure.svg.count(b"<svg") == 1
    for text in ("buffer", "offset", "bytes", "a", "b", "6,144", "4,096"):
        assert f">{text}</" in figure.table.html


def test_nothing_to_draw() -> None:
    with pytest.raises(EdgelabError, match=r"^no buffers to draw: expected at least one$"):
        plots.memory_map([], "x")
