"""The confusion matrix is read in words, in numbers, and in grey."""

from __future__ import annotations

import re

import numpy as np

from edgelab import plots
from edgelab.comparison import Confusion, confusion

CONFUSION = Confusion(np.array([[61, 3, 0], [7, 52, 41], [0, 0, 1030]]), ("cat", "dog <b>", "ship"))


def light(colour: tuple[float, ...]) -> float:
    """Relative luminance of an sRGB colour, WCAG 2.2."""
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))


def test_words_name_the_most_frequent_confusion() -> None:
    figure = plots.confusion_matrix(CONFUSION)
    assert figure.alt == (
        "Confusion matrix of 3 classes, 1,194 images, 1,143 of them classified correctly. "
        "Most frequent confusion: dog <b> taken for ship, 41 of 100 images. Lowest recall: dog <b>, 52.0%."
    )
    perfect = plots.confusion_matrix(confusion(np.arange(3), np.arange(3), CONFUSION.class_names))
    assert perfect.alt.endswith("No image was taken for another class.")


def test_the_table_behind_has_every_number_and_a_class_without_images() -> None:
    unseen = Confusion(np.array([[4, 1], [0, 0]]), ("seen", "unseen"))
    html = plots.confusion_matrix(unseen)._repr_html_()
    cells = [re.findall(r">([^<>]*)</t[dh]>", row) for row in html.split("<tr>")[1:]]
    assert cells[0] == ["class", "images", "as seen", "as unseen", "recall", "low", "high"]
    assert cells[1][:5] == ["seen", "5", "4", "1", "0.8"]
    assert cells[2] == ["unseen", "0", "0", "0", "", "", ""]


def test_every_count_but_zero_is_in_its_cell() -> None:
    svg = plots.confusion_matrix(CONFUSION).svg.decode()
    written = re.findall(r"<!-- (\d+) -->", svg)
    assert written == ["61", "3", "7", "52", "41", "1030"]
    assert svg == plots.confusion_matrix(CONFUSION).svg.decode()


def test_many_classes_are_shaded_only() -> None:
    names = tuple(f"class_{index}" for index in range(21))
    figure = plots.confusion_matrix(Confusion(np.diag(np.arange(1, 22)), names))
    assert re.findall(r"<!-- (\d+) -->", figure.svg.decode()) == []
    assert "empty cells" not in figure.caption and "class_20" in figure.table.html


def test_counts_stand_out_from_every_shade_also_in_grey() -> None:
    import matplotlib as mpl

    shades = [light(mpl.colormaps["Blues"](share)) for share in np.linspace(0, 1, 256)]
    assert all(np.diff(shades) < 0)
    totals = np.arange(101, 111)
    matrix = np.array([[total - 11 * k, *([0] * 8), 11 * k] for k, total in enumerate(totals)])
    svg = plots.confusion_matrix(Confusion(matrix, tuple("abcdefghij"))).svg.decode()
    inks = dict(re.findall(r'<!-- (\d+) -->\s*<g(?: style="fill: (#[0-9a-f]{6})")?', svg))
    assert set(inks.values()) == {"", "#ffffff"}
    for total, row in zip(totals, matrix, strict=True):
        for count in row[row > 0]:
            shade, ink = light(mpl.colormaps["Blues"]((count / total) ** 0.5)), float(inks[str(count)] == "#ffffff")
            assert (max(shade, ink) + 0.05) / (min(shade, ink) + 0.05) > 4.5
