"""The pages that compute, in a browser, from the built book: pictures in, the same answers as in Python out."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from support import SWITCHES, browser_program

from edgelab import artifact, ledger, pareto
from edgelab.web import models, pages, runtime
from edgelab.web.pixels import to_pixels

ROOT = Path(__file__).parents[1]
LISTED = models.read(ROOT)["models"]
CLASSES = models.read(ROOT)["classes"]
DRAWN = pages.measured_files(ledger.read(ROOT / "book" / "results" / "ledger.csv"), "01_baseline").to_dict("records")
# Greatest difference that is no error: another order of float additions; for int8, one step of the output's scale.
FLOAT_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def site(pages: Path, address: str) -> str:
    """The address of the book; skipped, or failed where EDGELAB_REQUIRE_BROWSER is 1, without the runtime from npm."""
    if not runtime.files(ROOT):
        reason = f"the book has no runtime to test: {runtime.install(ROOT)}"
        if os.environ.get("EDGELAB_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return address


def opened(context: Any, address: str, name: str, problems: list[str]) -> Any:
    """A page of the book; what goes wrong in it, or is asked from elsewhere, is added to `problems`."""
    page = context.new_page()
    page.set_default_timeout(60_000)
    own = (address, "data:", "blob:")
    page.on("request", lambda asked: None if asked.url.startswith(own) else problems.append(f"asks {asked.url}"))
    page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{address}book/{name}.html")
    return page


@pytest.fixture(scope="module")
def classifier(browser: Any, site: str) -> Iterator[Any]:
    """The page with the models on a phone, its runtime loaded by a click on the airplane; nothing may go wrong."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    problems: list[str] = []
    page = opened(context, site, "in_your_browser", problems)
    assert not page.evaluate("performance.getEntriesByType('resource').some(r => /wasm|onnx/.test(r.name))")
    choose(page, "airplane")
    page.wait_for_selector(".edgelab-latency[data-ms]")
    yield page
    assert problems == []
    context.close()


def choose(page: Any, name: str) -> None:
    page.click(f"[data-sample={name}]")
    page.wait_for_function(f"edgelabModels.last.name?.endsWith(' {name}')")


def upload(page: Any, name: str, content: bytes) -> None:
    page.set_input_files("#edgelab-file", {"name": name, "mimeType": "image/png", "buffer": content})
    page.wait_for_function(f"edgelabModels.last.name === {json.dumps(name)}")


def png(picture: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", **options)
    return buffer.getvalue()


def seen(page: Any) -> np.ndarray:
    """The pixels the networks were last given."""
    return np.array(page.evaluate("edgelabModels.last.pixels"), np.uint8).reshape(32, 32, 3)


def step(path: Path) -> float:
    """The scale of the output of an int8 file; 0 for a float one."""
    graph = onnx.load(path).graph
    last = next(node for node in graph.node if graph.output[0].name in node.output)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return float(constants[last.input[1]]) if last.op_type == "DequantizeLinear" else 0.0


@pytest.mark.parametrize("name", CLASSES)
def test_a_click_on_a_drawing_is_answered_rightly_and_as_in_python(classifier: Any, name: str):
    choose(classifier, name)
    answers = classifier.locator(".edgelab-answer").all_inner_texts()
    assert answers == [name] * len(LISTED)
    logits = classifier.evaluate("edgelabModels.last.logits")
    for shipped in LISTED:
        path = ROOT / models.PLACE / shipped.file
        expected = artifact.load(path).predict(seen(classifier)[None])[0]
        assert np.abs(expected - logits[shipped.file]).max() <= max(FLOAT_TOLERANCE, 1.01 * step(path)), shipped.file
    assert step(ROOT / models.PLACE / LISTED[1].file) > 0


def test_the_cards_say_what_the_networks_said(classifier: Any):
    choose(classifier, "horse")
    for shipped, logits in zip(LISTED, classifier.evaluate("Object.values(edgelabModels.last.logits)"), strict=True):
        powers = np.exp(np.array(logits) - max(logits))
        shares = 100 * powers / powers.sum()
        card = classifier.locator(f"[data-file='{shipped.file}']")
        names = card.locator(".name").all_inner_texts()
        assert names == [CLASSES[i] for i in np.argsort(-shares)[:5]]
        assert card.locator(".value").all_inner_texts() == [f"{shares[CLASSES.index(name)]:.1f} %" for name in names]
        assert f"{shipped.bytes:,} bytes" in card.inner_text()
    smaller = f"{LISTED[0].bytes / LISTED[1].bytes:.2f}x less"
    assert smaller in classifier.locator(f"[data-file='{LISTED[1].file}']").inner_text()
    assert classifier.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("size", [(61, 97), (32, 32), (20, 31), (333, 500), (64, 64)])
def test_a_file_gives_the_same_pixels_as_in_python(classifier: Any, size: tuple[int, int]):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    upload(classifier, f"noise {size}.png", png(picture))
    assert np.array_equal(seen(classifier), to_pixels(picture))


def test_what_is_transparent_is_white_and_a_turned_picture_is_upright(classifier: Any):
    picture = np.random.default_rng(1).integers(0, 256, (40, 40, 4), np.uint8)
    picture[..., 3] = np.where(picture[..., 3] < 128, 0, 255)
    upload(classifier, "holes.png", png(picture))
    on_white = np.where(picture[..., 3:] == 0, 255, picture[..., :3]).astype(np.uint8)
    assert np.array_equal(seen(classifier), to_pixels(on_white))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter to the left
    upload(classifier, "turned.png", png(on_white, exif=exif))
    assert np.array_equal(seen(classifier), to_pixels(np.rot90(on_white, -1)))


def test_a_file_can_be_dropped(classifier: Any):
    picture = np.full((50, 50, 3), 77, np.uint8)
    classifier.evaluate(
        """bytes => {
          const moved = new DataTransfer();
          moved.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
          document.querySelector(".edgelab-drop").dispatchEvent(new DragEvent("drop", {dataTransfer: moved}));
        }""",
        list(png(picture)),
    )
    classifier.wait_for_function("edgelabModels.last.name === 'dropped.png'")
    assert (seen(classifier) == 77).all()


def test_what_is_no_picture_is_said_and_the_next_one_works(classifier: Any):
    file = {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"}
    classifier.set_input_files("#edgelab-file", file)
    status = classifier.locator(".edgelab-status")
    status.filter(has_text="notes.png cannot be read as a picture: choose a PNG, JPEG, WebP or GIF file.").wait_for()
    choose(classifier, "ship")
    assert "ship" in status.inner_text()


def test_latency_is_measured_again_on_a_click(classifier: Any):
    before = classifier.evaluate("edgelabModels.last.times")
    assert [len(times) for times in before] == [31] * len(LISTED) and min(map(min, before)) > 0
    classifier.click("text=Measure latency again")
    classifier.wait_for_function(f"edgelabModels.last.times[0][0] !== {before[0][0]}")
    classifier.wait_for_selector("button:not([disabled]) >> text=Measure latency again")
    shown = classifier.locator(".edgelab-latency").all_inner_texts()
    assert all(" ms (" in text for text in shown)
    assert all(word in text for word in ("x ", " to ") for text in shown[1:]), "a ratio with its interval"


def test_a_frame_of_the_camera_is_looked_at(browser: Any, site: str):
    pretended = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with_camera = browser.browser_type.launch(executable_path=browser_program(), args=[*SWITCHES, *pretended])
    page = opened(with_camera.new_context(permissions=["camera"]), site, "in_your_browser", [])
    page.click("text=Camera")
    page.click("text=Take this frame")
    page.wait_for_function("edgelabModels.last.name === 'the camera\\'s frame'")
    assert seen(page).std() > 10, "the pretended camera shows a pattern"
    page.click("text=Switch off")
    assert page.evaluate("document.querySelector('.edgelab-drop video').srcObject.getTracks()[0].readyState") == "ended"
    with_camera.close()


def test_opened_as_a_file_the_page_says_how_to_serve_it(browser: Any, site: str, pages: Path):
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((pages / "book" / "in_your_browser.html").as_uri())
    text = page.locator("#edgelab-models").inner_text()
    assert "opened as a file" in text and "python -m http.server --directory build/book" in text
    assert "http://localhost:8000/book/in_your_browser.html" in text
    assert errors == []
    page.close()


def test_a_runtime_that_does_not_arrive_is_said_and_asked_for_again(browser: Any, site: str):
    context = browser.new_context()
    page = opened(context, site, "in_your_browser", [])
    context.route("**/*.wasm", lambda route: route.fulfill(status=404))
    page.click("[data-sample=cat]")
    status = page.locator(".edgelab-status")
    status.filter(has_text="ort-wasm-simd-threaded.wasm is missing (404): build the book again.").wait_for()
    context.unroute("**/*.wasm")
    choose(page, "cat")
    assert page.locator(".edgelab-answer").all_inner_texts() == ["cat"] * len(LISTED)
    context.close()


# The chart.


@pytest.fixture
def chart(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    problems: list[str] = []
    page = opened(context, address, "every_file", problems)
    page.wait_for_selector(".edgelab-plot .point")
    yield page
    assert problems == []
    context.close()


def drawn(page: Any) -> list[int]:
    return sorted(page.evaluate("[...document.querySelectorAll('.point')].map(p => Number(p.dataset.row))"))


def dominators(page: Any) -> dict[int, int]:
    """What the last column of the table says: row -> the row that dominates it."""
    cells = page.locator("#edgelab-chart-table tbody tr td:last-child").all_text_contents()
    return {row: int(text) - 1 for row, text in enumerate(cells) if text.isdigit()}


@pytest.mark.parametrize("cost", pages.COSTS)
def test_the_chart_marks_what_the_package_calls_dominated(chart: Any, cost: str):
    chart.select_option("select >> nth=0", cost)
    places = list(dict.fromkeys(row["latency_on"] for row in DRAWN if isinstance(row["latency_on"], str)))
    assert len(places) > 1
    for place in places if cost == "latency_ms" else [None]:
        if place:
            chart.select_option("select >> nth=1", place)
        shown = [None if place and row["latency_on"] != place else row[cost] for row in DRAWN]
        rows = [{**row, cost: value} for row, value in zip(DRAWN, shown, strict=True)]
        assert dominators(chart) == pareto.dominated(rows, cost)
        assert drawn(chart) == [index for index, value in enumerate(shown) if value is not None and value == value]
        crossed = chart.locator(".point:has(path[d^='M-7,-7'])").count()
        assert crossed == len(dominators(chart)), "more than a colour marks what is dominated"


def test_the_chart_is_filtered_with_its_table(chart: Any):
    chart.get_by_role("checkbox", name="post-training quantization").uncheck()
    chart.get_by_role("checkbox", name="PyTorch").uncheck()
    expected = [
        index
        for index, row in enumerate(DRAWN)
        if pages.family(row["technique"]) != "post-training quantization" and row["framework"] == "tensorflow"
    ]
    assert 0 < len(expected) < len(DRAWN)
    assert drawn(chart) == expected
    assert chart.locator("#edgelab-chart-table tbody tr:visible").count() == len(expected)
    chart.get_by_role("checkbox", name="PyTorch").check()
    chart.get_by_role("checkbox", name="only files within 3 points").check()
    best = max(row["accuracy"] for row in DRAWN if pages.family(row["technique"]) != "post-training quantization")
    assert all(DRAWN[index]["accuracy"] >= best - 0.03 for index in drawn(chart))
    for box in chart.locator("fieldset >> nth=0").locator("input").all():
        box.uncheck()
    assert "Nothing to draw: tick more boxes." in chart.locator("#edgelab-chart").inner_text()


def test_the_chart_is_read_with_the_keyboard_and_the_mouse(chart: Any):
    tip = chart.locator(".edgelab-tip")
    assert tip.is_hidden()
    chart.focus(".point[tabindex='0']")
    cheapest = min(range(len(DRAWN)), key=lambda index: (DRAWN[index]["bytes"], DRAWN[index]["accuracy"]))
    assert tip.inner_text().startswith(f"{cheapest + 1}")
    chart.keyboard.press("ArrowRight")
    assert tip.is_visible() and not tip.inner_text().startswith(f"{cheapest + 1} ")
    label = chart.evaluate("document.activeElement.getAttribute('aria-label')")
    focused = DRAWN[int(label.partition(":")[0]) - 1]
    assert focused["technique"] in label and ("dominated by" in label or "on the front" in label)
    chart.keyboard.press("Escape")
    assert tip.is_hidden()
    largest = max(range(len(DRAWN)), key=lambda index: DRAWN[index]["bytes"])
    chart.hover(f".point[data-row='{largest}']", force=True)
    assert DRAWN[largest]["model"] in tip.inner_text() and tip.is_visible()
    box, window = tip.bounding_box(), chart.viewport_size
    assert box["x"] >= 0 and box["x"] + box["width"] <= window["width"]


def test_the_chart_fits_a_phone_and_says_its_finding(chart: Any):
    chart.set_viewport_size({"width": 360, "height": 800})
    chart.wait_for_function("document.querySelector('.edgelab-plot svg').viewBox.baseVal.width < 360")
    assert chart.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    alt = chart.get_attribute(".edgelab-plot svg", "aria-label")
    assert alt.startswith(
        f"By file size, {len(DRAWN) - len(dominators(chart))} of {len(DRAWN)} files are on the front: "
    )


def test_without_javascript_the_table_is_there(browser: Any, address: str):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}book/every_file.html")
    assert page.locator("#edgelab-chart-table tbody tr").count() == len(DRAWN)
    assert page.locator("#edgelab-chart").inner_text() == "The chart needs JavaScript; the table below does not."
    context.close()
