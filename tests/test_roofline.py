"""The roofline is the least of two rates, its constants have sources, and no measured board is above its roof."""

from __future__ import annotations

import configparser
import importlib.util
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plots import Outline

from edgelab import boards, plots, roofline
from edgelab.energy import Constant
from edgelab.errors import EdgelabError
from edgelab.layers import Layer, LayerTable
from edgelab.plots import bounds
from edgelab.roofline import CORTEX_M4, ETHOS_U55, Roof, bytes_moved, points

DENSE = Layer("fc", "fully connected", (100,), (10,), (), (), 1, 1010, 1010, 1000, 1000, 8, 8)
CONV = Layer("conv", "convolution", (8, 8, 16), (8, 8, 32), (3, 3), (1, 1), 1, 4640, 4640, 294_912, 294_912, 8, 8)
POOL = Layer("pool", "AVERAGE_POOL_2D", (8, 8, 32), (32,))
TABLE = LayerTable((CONV, POOL, DENSE), {})
CHIP = Roof("a chip", 1000.0, 50.0, 8, "made up for a test")


def test_bytes_are_parameters_input_and_output_once_at_their_widths() -> None:
    assert bytes_moved(DENSE) == 1010 + 100 + 10
    assert bytes_moved(CONV) == 4640 + 8 * 8 * 16 + 8 * 8 * 32
    assert bytes_moved(replace(DENSE, weight_bits=4)) == 505 + 110
    assert bytes_moved(replace(DENSE, weight_bits=8, activation_bits=32)) == 1010 + 440
    assert bytes_moved(replace(DENSE, weight_bits=32, activation_bits=None)) == 4 * 1120


@pytest.mark.parametrize("broken", [{"weight_bits": None}, {"weight_bits": 0}])
def test_a_layer_without_a_width_is_refused(broken: dict) -> None:
    with pytest.raises(
        EdgelabError, match=r"^layer 'fc': expected positive shapes and bit widths, got \(100,\) to \(10"
    ):
        bytes_moved(replace(DENSE, **broken))


def test_a_network_by_hand() -> None:
    conv, dense = points(TABLE, CHIP)
    assert CHIP.ridge == 20
    assert (conv.layer.name, conv.bound, dense.layer.name, dense.bound) == ("conv", "compute", "fc", "memory")
    assert conv.intensity == pytest.approx(294_912 / 7712) and dense.intensity == pytest.approx(1000 / 1120)
    assert conv.attainable == 1000 and dense.attainable == pytest.approx(50 * 1000 / 1120)
    assert conv.seconds == pytest.approx(294.912) and dense.seconds == pytest.approx(1120 / 50)


def test_a_layer_at_the_ridge_waits_for_arithmetic() -> None:
    (point,) = points(LayerTable((replace(DENSE, macs=1120 * 20),), {}), CHIP)
    assert point.intensity == CHIP.ridge and point.bound == "compute" and point.attainable == 1000


RATES = st.floats(1e-3, 1e15)


@given(st.integers(1, 10**9), st.integers(1, 10**7), RATES, RATES)
@settings(max_examples=200, deadline=None)
def test_time_is_the_longer_of_moving_and_multiplying(
    macs: int, parameters: int, peak: float, bandwidth: float
) -> None:
    layer = replace(DENSE, macs=macs, parameters=parameters)
    (point,) = points(LayerTable((layer,), {}), Roof("x", peak, bandwidth, 8, "y"))
    moving, multiplying = (parameters + 110) / bandwidth, macs / peak
    assert point.seconds == pytest.approx(max(moving, multiplying))
    if abs(math.log(moving / multiplying)) > 1e-9:
        assert point.bound == ("memory" if moving > multiplying else "compute")


def test_what_cannot_be_placed_is_one_line() -> None:
    with pytest.raises(EdgelabError, match=r"^expected a network with convolution or fully connected layers, got none"):
        points(LayerTable((POOL,), {}), CHIP)
    wide = LayerTable((CONV, replace(DENSE, activation_bits=16)), {})
    with pytest.raises(
        EdgelabError, match=r"^the roof of a chip holds for 8-bit operands, layer 'fc' has 16: give a q"
    ):
        points(wide, CHIP)
    assert len(points(wide, replace(CHIP, bits=16))) == 2
    with pytest.raises(EdgelabError, match=r"holds for 8-bit operands, layer 'fc' has 32"):
        points(LayerTable((replace(DENSE, weight_bits=32, activation_bits=None),), {}), CHIP)


@pytest.mark.parametrize(
    "wrong", [{"macs_per_second": 0}, {"bytes_per_second": -1}, {"bits": 0}, {"macs_per_second": math.inf}]
)
def test_a_roof_that_cannot_be_is_refused(wrong: dict) -> None:
    with pytest.raises(EdgelabError, match=r"^roof 'a chip': expected rates and bits above 0, got \("):
        replace(CHIP, **wrong)


@pytest.mark.parametrize("wrong", [{"name": " "}, {"source": ""}])
def test_a_roof_without_a_name_or_a_source_is_refused(wrong: dict) -> None:
    with pytest.raises(EdgelabError, match=r"^expected a roof with a name and a source, got "):
        replace(CHIP, **wrong)


def test_every_constant_has_a_unit_and_a_source_and_makes_its_roof() -> None:
    constants = {name: value for name, value in vars(roofline).items() if isinstance(value, Constant)}
    own = {name: value for name, value in constants.items() if name.startswith(("M4_", "U55_"))}
    assert len(own) == 6 and not [name for name, c in constants.items() if len(c.source) < 10 or not c.unit]
    assert (CORTEX_M4.macs_per_second, CORTEX_M4.bytes_per_second, CORTEX_M4.ridge) == (240e6, 480e6, 0.5)
    assert (ETHOS_U55.macs_per_second, ETHOS_U55.bytes_per_second, ETHOS_U55.ridge) == (128e9, 4e9, 32)


def test_the_npu_is_the_one_of_its_compiler() -> None:
    """Vela's own files hold the figures that are cited."""
    found = importlib.util.find_spec("ethosu")
    if found is None or not found.submodule_search_locations:
        pytest.skip("ethos-u-vela is not installed here")
    config = configparser.ConfigParser()
    assert config.read(Path(found.submodule_search_locations[0]) / "config_files" / "Arm" / "vela.ini")
    system = config["System_Config.Ethos_U55_High_End_Embedded"]
    assert float(system["core_clock"]) == roofline.U55_CLOCK.value
    assert system["axi0_port"] == "Sram" and float(system["Sram_clock_scale"]) == 1
    assert float(system["OffChipFlash_clock_scale"]) == 1 / 8, "as the note beside ETHOS_U55 says"


def test_no_measured_board_is_above_its_roof() -> None:
    measured = boards.systems("latency_ms")
    own = measured[measured.index.get_level_values("board") == "NUCLEO-L4R5ZI"]
    assert len(own) > 10
    for network in boards.NETWORKS:
        least = 1000 * sum(point.seconds for point in points(boards.network_table(network), CORTEX_M4))
        fastest = own[network].min()
        assert least < fastest < 5 * least, network


def drawn(monkeypatch: pytest.MonkeyPatch, table: LayerTable, roof: Roof) -> Any:
    kept = []
    keep: Callable[..., bytes] = lambda canvas: kept.append(canvas) or b""  # noqa: E731
    monkeypatch.setattr(bounds, "to_svg", keep)
    plots.roofline(table, roof)
    return kept[0]


def test_the_figure_in_words_and_numbers() -> None:
    figure = plots.roofline(TABLE, CHIP)
    assert figure.alt == (
        "Roofline of a chip: 1 of 2 layers wait for memory, with 0% of the MACs and 7% of the least time. "
        "Ridge point at 20 MACs a byte; the layers go from 0.893 (fc) to 38.2 (conv)."
    )
    assert "at most 0.001 million MACs and 5e-05 million bytes a second (made up for a test)." in figure.caption
    assert "Bytes are parameters, input and output, each moved once." in figure.caption
    assert "doi:10.1145/1498765.1498785" in figure.caption
    text = Outline(figure.table.html).text
    assert text[1:6] == ["layer", "kind", "MACs", "bytes", "MACs a byte"] and "least time, us" in text
    assert {"294,912", "7,712", "38.24", "1,120", "0.8929", "arithmetic", "memory", "2.24e+07"} <= set(text)
    assert figure.svg == plots.roofline(TABLE, CHIP).svg


def test_points_lie_on_the_roof_and_are_told_apart_by_marker_and_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    canvas = drawn(monkeypatch, boards.network_table("ic"), ETHOS_U55)
    above, below = canvas.axes
    roof = above.lines[0]
    assert list(roof.get_xdata())[1] == 32 and list(roof.get_ydata())[1:] == [128, 128]
    assert roof.get_ydata()[0] / roof.get_xdata()[0] == pytest.approx(4), "4 GB/s"
    found = [(line.get_xdata(), line.get_ydata(), line) for line in above.lines if line.get_linestyle() == "None"]
    marks = [line for (x, _, line) in found if len(x)]
    assert len(marks) == 10
    for line in marks:
        x, y = float(line.get_xdata()[0]), float(line.get_ydata()[0])
        assert y == pytest.approx(min(128, 4 * x))
        look = ("s", "#D55E00", "white") if x < 32 else ("o", "#0072B2", "#0072B2")
        assert (line.get_marker(), line.get_color(), line.get_markerfacecolor()) == look
    rows = [line for line in below.lines if line.get_linestyle() == "None"]
    assert [float(line.get_xdata()[0]) for line in rows] == [float(line.get_xdata()[0]) for line in marks]
    assert [line.get_marker() for line in rows] == [line.get_marker() for line in marks]
    assert [label.get_text() for label in below.get_yticklabels()][-1] == "dense"
    assert below.get_ylim()[0] > below.get_ylim()[1], "the first layer is on top"
    assert [text.get_text() for text in above.texts] == ["ridge point: 32 MACs a byte"]
    legend = [text.get_text() for text in canvas.legends[0].get_texts()]
    assert legend == ["waits for memory", "waits for arithmetic"]


@pytest.mark.parametrize(("network", "roof"), [("ad", CORTEX_M4), ("vww", ETHOS_U55)], ids=["m4", "u55"])
def test_no_text_is_cut_or_on_another(network: str, roof: Roof, monkeypatch: pytest.MonkeyPatch) -> None:
    canvas = drawn(monkeypatch, boards.network_table(network), roof)
    canvas.draw_without_rendering()
    above, below = canvas.axes
    (ridge,) = [text.get_window_extent() for text in above.texts]
    assert above.bbox.x0 < ridge.x0 and ridge.x1 < above.bbox.x1 and ridge.y1 < above.bbox.y1
    points_above = [line for line in above.lines if line.get_linestyle() == "None" and len(line.get_xdata())]
    assert not any(ridge.contains(*above.transData.transform(line.get_xydata()[0])) for line in points_above)
    names = [label.get_window_extent() for label in below.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(names))
    assert min(box.x0 for box in names) >= 0
