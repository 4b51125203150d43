"""The figure of accuracy against sparsity: every number can be read without seeing it."""

from __future__ import annotations

import pytest

from edgelab import plots
from edgelab.errors import EdgelabError

CURVES = {"conv1": {0.5: 0.81, 0.0: 0.9, 0.95: 0.4}, "fc": {0.95: 0.875}}


def test_words_table_and_picture_say_the_same() -> None:
    figure = plots.accuracy_by_sparsity(CURVES, "Layers pruned alone, on 2,000 validation images.")
    assert figure.alt == (
        "Layers pruned alone, on 2,000 validation images. conv1: from 90.0% at 0% to 40.0% at 95%; fc: 87.5% at 95%."
    )
    assert figure.svg.count(b"<svg") == 1
    assert figure.svg == plots.accuracy_by_sparsity(CURVES, "Layers pruned alone, on 2,000 validation images.").svg
    for text in ("zero, %", "conv1, %", "fc, %", "81", "40", "87.5", "95"):
        assert f">{text}</" in figure.table.html


@pytest.mark.parametrize("curves", [{}, {"conv1": {}}])
def test_nothing_to_draw(curves: dict) -> None:
    with pytest.raises(EdgelabError, match=r"^no accuracies to draw: expected at least one curve"):
        plots.accuracy_by_sparsity(curves, "x")
