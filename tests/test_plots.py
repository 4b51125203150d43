"""A figure says in words and numbers what it draws, and stays readable in grey and on any background."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from edgelab import boards, energy, plots
from edgelab.errors import EdgelabError
from edgelab.plots import _base, tradeoffs

HISTORIES = {
    "plain_cnn": [
        {"epoch": i + 1, "loss": 2.3 / (i + 1), "validation_accuracy": 0.4 + 0.02 * i, "seconds": 1.0}
        for i in range(20)
    ],
    "resnet8 <b>": [{"epoch": 1, "loss": 1.5, "validation_accuracy": 0.5, "seconds": 2.0}],
}
LEDGER = pd.DataFrame(
    [
        ("plain_cnn", "baseline", "tensorflow", "digits", 0, 2_485_388, 0.80, 0.79, 0.81),
        ("plain_cnn", "baseline", "pytorch", "digits", 0, 2_483_474, 0.81, 0.80, 0.82),
        ("ds_cnn", "ptq_int8", "tensorflow", "digits", 0, 120_000, 0.84, 0.83, 0.85),
    ],
    columns=["model", "technique", "framework", "data", "seed", "bytes", "accuracy", "accuracy_low", "accuracy_high"],
)
VOID = {"img", "br"}


class Outline(HTMLParser):
    """Elements in order, with a check that all are closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def attributes(self, tag: str) -> dict:
        return next(attributes for name, attributes in self.found if name == tag)

    def tags(self) -> list[str]:
        return [name for name, _ in self.found]


@pytest.fixture(params=["curves", "sizes"])
def figure(request: pytest.FixtureRequest) -> plots.Figure:
    return plots.learning_curves(HISTORIES) if request.param == "curves" else plots.accuracy_against_size(LEDGER)


def test_a_figure_is_an_image_with_words_and_its_table(figure: plots.Figure) -> None:
    html = figure._repr_html_()
    outline = Outline(html)
    assert [tag for tag in outline.tags() if tag in ("figure", "img", "figcaption", "details", "summary", "table")] == [
        *("figure", "img", "figcaption", "details", "summary", "table")
    ]
    image = outline.attributes("img")
    kind, _, content = image["src"].partition(",")
    assert kind == "data:image/svg+xml;base64" and base64.b64decode(content) == figure.svg
    assert image["alt"] == figure.alt and len(figure.alt) > 60
    assert "background:#fff" in image["style"]
    assert figure.caption in outline.text
    assert "\n" not in html and "http" not in re.sub(r"base64,[^\"]*", "", html)
    assert repr(figure) == f"[figure: {figure.alt}]"


def test_a_figure_is_white_and_the_same_bytes_each_time(figure: plots.Figure) -> None:
    again = plots.learning_curves(HISTORIES) if "Learning" in figure.alt else plots.accuracy_against_size(LEDGER)
    assert again.svg == figure.svg
    assert b"fill: #ffffff" in figure.svg and b"dc:date" not in figure.svg


def test_learning_curves_in_words_and_numbers() -> None:
    figure = plots.learning_curves(HISTORIES)
    assert "plain_cnn: from 40.0% after the first epoch to 78.0% after 20, best 78.0% in epoch 20." in figure.alt
    outline = Outline(figure._repr_html_())
    assert outline.tags().count("tr") == 21
    heads = outline.text[outline.text.index("epoch") :][:5]
    assert heads[1:3] == ["plain_cnn: loss", "plain_cnn: validation accuracy, %"]
    assert "resnet8 <b>: loss" in heads, "names must be escaped"
    assert outline.text.count("78") == 1


def test_accuracy_against_size_in_words_and_numbers() -> None:
    figure = plots.accuracy_against_size(LEDGER)
    assert "3 model files" in figure.alt
    assert "Most accurate: ds_cnn (ptq_int8, tensorflow) with 84.0% at 120,000 bytes" in figure.alt
    text = Outline(figure._repr_html_()).text
    for cell in ("2,485,388", "2,483,474", "120,000", "84", "83", "85"):
        assert cell in text
    assert "digits" in figure.caption


def test_model_framework_and_interval_are_drawn_apart() -> None:
    from matplotlib.figure import Figure as Canvas

    ax = Canvas().subplots()
    for i, row in enumerate(LEDGER.to_dict("records")):
        tradeoffs._point(ax, row, i // 2)
    points = [container.lines[0] for container in ax.containers]
    assert points[0].get_marker() == points[1].get_marker() != points[2].get_marker()
    assert points[0].get_color() == points[1].get_color() != points[2].get_color()
    assert points[0].get_markerfacecolor() == points[0].get_color()
    assert points[1].get_markerfacecolor() == "none", "a ring shows the point it surrounds"
    assert points[1].get_markersize() > 1.5 * points[0].get_markersize()
    segment = ax.containers[2].lines[2][0].get_segments()[0]
    assert segment[:, 1].tolist() == pytest.approx([83, 85])


def test_no_two_of_many_models_look_the_same() -> None:
    looks = {(style["color"], style["marker"]) for style in map(_base.style_of, range(56))}
    assert len(looks) == 56


def test_nothing_to_draw_is_one_line() -> None:
    with pytest.raises(EdgelabError, match="no learning curve to draw: train a model first"):
        plots.learning_curves({})
    with pytest.raises(EdgelabError, match="no learning curve to draw for resnet8: train"):
        plots.learning_curves({"resnet8": []})
    with pytest.raises(EdgelabError, match="no measurements to draw: run a chapter"):
        plots.accuracy_against_size(LEDGER[:0])


def test_a_table_shows_numbers_to_the_right_and_escapes_text() -> None:
    frame = pd.DataFrame(
        {"name": ["<script>", None], "n": [1234567, 2], "share": [0.123456, np.nan], "on": [True, False]}
    )
    shown = plots.table(frame, "a & b")
    outline = Outline(shown._repr_html_())
    assert outline.text == [
        "a & b",
        "name",
        "n",
        "share",
        "on",
        "<script>",
        "1,234,567",
        "0.1235",
        "True",
        "2",
        "False",
    ]
    assert "script" not in outline.tags()
    cells = [attributes["style"].rpartition(":")[2] for tag, attributes in outline.found if tag == "td"]
    assert cells[:3] == ["left", "right", "right"]
    assert repr(shown) == "[table: a & b]"


def record(**changes: object) -> SimpleNamespace:
    values = {"model": "resnet8", "technique": "baseline", "runtime": "onnxruntime 1.2.3", "bytes": 312_769}
    values |= {"accuracy": 0.8372, "accuracy_low": 0.8298, "accuracy_high": 0.8443, "gzip_bytes": 288_000}
    values |= dict.fromkeys(("energy_uj", "ram_bytes", "latency_ms", "latency_on"))
    values |= {"parameters": 77_946, "nonzero": 40_123, "macs": 12_501_632, "effective_macs": 6_250_816}
    return SimpleNamespace(**(values | {"relative_energy": 50.0065} | changes))


def test_results_name_the_technique_only_where_there_are_several() -> None:
    shown = Outline(plots.results([record(), record(model="ds_cnn")], "Baselines").html)
    assert {"resnet8", "ds_cnn", "ONNX Runtime", "83.72 (82.98 to 84.43)"} <= set(shown.text)
    assert {"312,769", "77,946", "40,123", "12,501,632", "6,250,816", "50.01"} <= set(shown.text)
    assert "baseline" not in shown.text
    several = Outline(plots.results([record(), record(technique="ptq_int8", relative_energy=None)], "Two").html)
    assert {"baseline", "ptq_int8", "technique"} <= set(several.text)
    with pytest.raises(EdgelabError, match="no records to show"):
        plots.results([], "nothing")


GIVES = ["model", "runtime", "accuracy, %", "bytes", "gzip", "parameters", "not zero"]
TAKES = ["model", "runtime", "MACs", "effective", "energy"]


def heads(html: str) -> list[list[str]]:
    """The column heads of every table in `html`."""
    tables = [Outline(f"<table{part.partition('</table>')[0]}</table>") for part in html.split("<table")[1:]]
    starts = [shown.text.index("model") for shown in tables]
    return [shown.text[at : at + shown.tags().count("th")] for at, shown in zip(starts, tables, strict=True)]


def test_results_show_what_was_measured_and_name_its_units() -> None:
    bare = plots.results([record(), record()], "Baselines")
    assert heads(bare.html) == [GIVES, TAKES]
    assert bare.caption == (
        "Baselines. Accuracy with 95 % interval; bytes on disk and after gzip; "
        "parameters of all layers and how many of them are not zero. "
        "What a run takes. Effective: MACs with a weight that is not zero; "
        "energy: million MACs times bytes per operand."
    )
    costs = {"ram_bytes": 55_984, "energy_uj": 190.123, "latency_ms": 0.54321, "latency_on": "LiteRT, 1 thread, a chip"}
    other = costs | {"latency_ms": 12.0, "latency_on": "ORT, 2 threads, a chip", "ram_bytes": None}
    several = plots.results([record(**costs), record(**costs), record(**other), record()], "Baselines")
    shown = Outline(several.html)
    assert heads(several.html) == [GIVES, [*TAKES, "RAM", "uJ", "ms"]]
    assert {"55,984", "190", "0.543", "12"} <= set(shown.text)
    assert shown.text.count("55,984") == 2 and shown.text.count("0.543") == 2
    assert several.caption.endswith(
        "; RAM: bytes of activations at their peak; uJ: estimated energy of an inference; "
        "ms: median latency of an image, LiteRT, 1 thread, a chip; ORT, 2 threads, a chip."
    )


def test_whole_numbers_of_any_kind_have_their_thousands_marked() -> None:
    frame = pd.DataFrame({"n": pd.array([12_345, None], dtype="Int64"), "m": np.array([12_345, 6], np.uint16)})
    assert Outline(plots.table(frame, "x").html).text[3:] == ["12,345", "12,345", "6"]


def test_short_names_are_those_of_the_network() -> None:
    assert _base.short_names(["a/b/c", "a/b/d/e", "a/bb/f"]) == ["b/c", "b/d/e", "bb/f"]
    assert _base.short_names(["conv", "a/dense"]) == ["conv", "a/dense"]
    assert _base.short_names(["a/b/c"]) == ["a/b/c"]
    tflite = ["net/stem/relu/Relu", "net/a/bn/FusedBatchNormV3", "net/a/shortcut/BiasAdd", "StatefulPartitionedCall:0"]
    assert _base.short_names(tflite) == ["stem", "a", "a/shortcut", "...efulPartitionedCall:0"]
    assert _base.short_names(["net/a/Relu", "net/a/bn", "net/b/bn"]) == ["a/Relu", "a/bn", "b"], "two of a name stay"
    assert _base.short_names(["Relu", "bn"]) == ["Relu", "bn"], "a name is never empty"
    assert _base.short_names(["x" * 24, "start" + "y" * 21]) == ["x" * 24, "..." + "y" * 21]


def test_images_stand_under_their_labels_with_their_table() -> None:
    pixels = np.stack([np.full((8, 8, 3), 10 * i, np.uint8) for i in range(7)])
    figure = plots.images(pixels, [f"class {i}" for i in range(7)], "Seven classes")
    assert figure.alt == "Seven classes: " + ", ".join(f"class {i}" for i in range(7)) + "."
    assert figure.svg.count(b"<image") == 7
    assert {"class 6", "60"} <= set(Outline(figure.table.html).text)


def test_energy_is_told_by_layer_and_memory_level() -> None:
    spent = energy.estimate(boards.network_table("kws"))
    figure = plots.energy_by_layer(spent)
    assert "(compute: arithmetic; buffer: reads and writes of the buffer beside it; on chip: of" in figure.caption
    assert "off chip" not in figure.caption and "static" not in figure.caption
    outline = Outline(figure.table.html)
    assert outline.text[1:6] == ["layer", "compute, uJ", "buffer, uJ", "on chip, uJ", "total, uJ"]
    assert outline.tags().count("tr") == 1 + len(spent.by("layer"))
