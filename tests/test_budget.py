"""Limits, verdicts and the page they are told on."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from small_files import tflite_file

from edgelab import budget, labels, micro, report
from edgelab.budget import Budget, judge
from edgelab.design import Design
from edgelab.errors import EdgelabError
from edgelab.ledger import Record

NASTY = '<script>alert("x")</script>&\'"'
RECORD = Record(
    chapter="14_device_budget",
    technique="ptq_int8",
    framework="tensorflow",
    runtime="ai-edge-litert 2.3",
    model="plain_cnn",
    data="digits",
    data_fingerprint="0" * 64,
    seed=0,
    n_test=1000,
    accuracy=0.82,
    accuracy_low=0.795,
    accuracy_high=0.843,
    bytes=200_000,
    gzip_bytes=150_000,
    parameters=190_000,
    nonzero=190_000,
    macs=3_000_000,
    effective_macs=3_000_000,
    relative_energy=3.0,
    energy_uj=14.0,
    ram_bytes=20_000,
    latency_ms=0.2,
    latency_on="ai-edge-litert 2.3, 1 thread",
    versions="edgelab 0.1",
    commit="abc",
    machine="a machine",
    wall_s=10.0,
    when="2026-11-21T12:00:00+00:00",
)
ENOUGH = Budget(200_000, 20_000, 14.0, 0.795)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tflite_file(tmp_path_factory.mktemp("budget") / "small.tflite", quantized=True)


# Limits and verdicts.


def test_limits_that_are_just_met_are_met():
    checks = judge(RECORD, ENOUGH)
    assert [check.name for check in checks] == ["flash", "RAM", "energy", "accuracy"]
    assert all(check.met and check.margin == pytest.approx(0) for check in checks)
    assert budget.verdict(checks) == "Meets the budget: all 4 limits are kept."


@pytest.mark.parametrize(
    ("limit", "value", "name", "told"),
    [
        ("flash_bytes", 199_999, "flash", "1 bytes over the limit"),
        ("ram_bytes", 19_000, "RAM", "1,000 bytes over the limit"),
        ("energy_uj", 13.5, "energy", "0.50 uJ over the limit"),
        ("accuracy", 0.80, "accuracy", "0.50 points below the limit"),
    ],
)
def test_a_verdict_flips_at_its_own_limit_only(limit: str, value: float, name: str, told: str):
    checks = judge(RECORD, replace(ENOUGH, **{limit: value}))
    assert [check.name for check in checks if not check.met] == [name]
    assert budget.verdict(checks) == f"Does not meet the budget: {name} {told}."


def test_accuracy_is_judged_by_the_lower_end_of_its_interval():
    (below,) = judge(RECORD, Budget(accuracy=0.81))
    assert not below.met and below.measured == pytest.approx(79.5)
    assert "82.00 % of 1,000 images, would pass" in below.note and below.note in below.in_words()
    (far,) = judge(RECORD, Budget(accuracy=0.83))
    (kept,) = judge(RECORD, Budget(accuracy=0.79))
    assert not far.met and far.note == "" and kept.met and kept.note == ""
    more = replace(RECORD, n_test=100_000, accuracy_low=0.8176)
    assert judge(more, Budget(accuracy=0.81))[0].met, "more images, a narrower interval"


def test_ram_is_the_arena_where_it_is_known():
    (alone,), (arena,) = (judge(RECORD, Budget(ram_bytes=22_000), bytes_) for bytes_ in (None, 25_000))
    assert alone.met and "activations alone" in alone.how
    assert not arena.met and arena.measured == 25_000 and "arena" in arena.how


def test_what_was_not_measured_keeps_no_limit():
    checks = judge(replace(RECORD, energy_uj=None), ENOUGH)
    assert [check.name for check in checks if not check.met] == ["energy"]
    assert budget.verdict(checks).endswith("energy not measured.")
    assert (
        judge({}, Budget(flash_bytes=1))[0]
        .in_words()
        .startswith("flash    NOT MET  not measured (the model file, without runtime), at most 1 bytes")
    )


def test_limits_that_are_not_given_are_not_judged_and_rows_do_as_well_as_records():
    checks = judge(asdict(RECORD), Budget(energy_uj=20))
    assert [check.name for check in checks] == ["energy"]
    assert budget.verdict(checks) == "Meets the budget: its one limit is kept."


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({}, "a budget needs a limit"),
        ({"flash_bytes": 0}, "flash_bytes as a whole number of bytes above 0, got 0"),
        ({"ram_bytes": 1.5}, "ram_bytes as a whole number of bytes"),
        ({"flash_bytes": True}, "got True"),
        ({"energy_uj": float("nan")}, "energy_uj as a number above 0, got nan"),
        ({"energy_uj": "9"}, "got '9'"),
        ({"accuracy": 80}, "write 0.8 for 80 %"),
        ({"accuracy": -0.1}, "above 0"),
    ],
)
def test_limits_that_cannot_be_are_one_line(limits: dict, told: str):
    with pytest.raises(EdgelabError, match=re.escape(told)) as error:
        Budget(**limits)
    assert "\n" not in str(error.value)


def test_bytes_are_read_in_powers_of_two():
    read = {text: budget.parse_bytes(text, "--flash") for text in ("1000", "256k", "1M", "64kB", "2KiB", "3G")}
    assert read == {"1000": 1000, "256k": 262_144, "1M": 1_048_576, "64kB": 65_536, "2KiB": 2048, "3G": 3 * 2**30}
    for text in ("", "k", "1.5k", "-1", "1t", "1" * 13):
        with pytest.raises(EdgelabError, match="expected --ram in bytes, such as 262144, 256k, 1M or 1G "):
            budget.parse_bytes(text, "--ram")


# The page.


class Parsed(HTMLParser):
    """Tags that are open, what would be fetched, and the text."""

    VOID = ("meta", "img", "br", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.fetched, self.told, self.unnamed = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.fetched += [known[name] for name in ("src", "href", "action", "data", "poster") if name in known]
        if (tag == "img" and not known.get("alt")) or (known.get("role") == "img" and not known.get("aria-label")):
            self.unnamed.append(tag)
        assert tag not in ("script", "link", "iframe", "object", "embed"), tag
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.told.append(text)


def page_of(file: Path, tmp_path: Path, record: Record = RECORD, design: Design | None = None) -> str:
    budget.report(file, record, ENOUGH, tmp_path / "page.html", design)
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_is_one_file_with_everything_on_it(file: Path, tmp_path: Path):
    design = Design("plain_cnn", speed_up=3)
    text = page_of(file, tmp_path, design=design)
    parsed = Parsed(text)
    told = " ".join(parsed.told)
    assert parsed.open == [] and parsed.unnamed == []
    assert parsed.fetched and all(source.startswith("data:image/svg+xml;base64,") for source in parsed.fetched)
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in text
    for value in asdict(RECORD).values():
        assert str(value) in told, "the whole ledger row"
    needs = micro.needs(file)
    for part in (
        design.in_words(),
        f"{needs.arena:,} bytes",
        "82.00 % (79.50 to 84.30)",
        "BBC micro:bit V2",
        "200,000",
    ):
        assert part in told
    assert f"{report.macs(str(file)).macs:,}" in told, "the layers are those of the file"
    assert "color-scheme: light" in text and "@media print" in text and "width=device-width" in text
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"], "written in one step"


def test_the_verdict_stands_on_the_page_as_it_is_returned(file: Path, tmp_path: Path):
    checks = budget.report(file, RECORD, replace(ENOUGH, accuracy=0.9), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert budget.verdict(checks) in text and 'class="verdict missed"' in text and "does not meet" in text
    assert text.count("✗ not met") == sum(not check.met for check in checks) > 0


def test_names_are_escaped(tmp_path: Path):
    file = tflite_file(tmp_path / "<b>&'x'.tflite", quantized=True)
    record = replace(RECORD, data=NASTY, machine=NASTY, versions=NASTY, runtime=NASTY, latency_on=NASTY, commit=NASTY)
    text = page_of(file, tmp_path, record)
    assert NASTY in " ".join(Parsed(text).told), "shown as it is"
    assert "<script" not in text and "<b>&'x'" not in text and "&lt;b&gt;&amp;" in text


def test_a_file_that_microcontrollers_do_not_run_is_judged_without_boards(tmp_path: Path):
    from mean_files import onnx_file

    file = onnx_file(tmp_path / "means.onnx")
    checks = budget.report(file, RECORD, ENOUGH, tmp_path / "page.html")
    assert "activations alone" in checks[1].how and budget.arena_of(file) is None
    assert "Boards were not asked: only .tflite files run there." in (tmp_path / "page.html").read_text(
        encoding="utf-8"
    )


def test_outputs_and_files_that_cannot_be_are_one_line(file: Path, tmp_path: Path):
    for output, told in ((tmp_path / "page.pdf", "ends in .html, got 'page.pdf'"), (tmp_path, "ends in .html")):
        with pytest.raises(EdgelabError, match=re.escape(told)):
            budget.report(file, RECORD, ENOUGH, output)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(EdgelabError, match="is a folder"):
        budget.report(file, RECORD, ENOUGH, tmp_path / "folder.html")
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"TFL3" * 9)
    with pytest.raises(EdgelabError, match=r"bad\.tflite"):
        budget.report(bad, RECORD, ENOUGH, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_page_fits_wide_and_phone_wide_windows(file: Path, tmp_path: Path, browser: Any):
    page_of(file, tmp_path, design=Design("ds_cnn", speed_up=2, sparsity=0.5, teacher=True))
    asked: list[str] = []
    for width in (1280, 390):
        window = browser.new_page(viewport={"width": width, "height": 800})
        window.on("request", lambda request: asked.append(request.url))
        window.goto((tmp_path / "page.html").as_uri())
        assert window.evaluate("document.documentElement.scrollWidth") == width
        assert window.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        window.close()
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}


# The command.


def test_the_command_judges_any_file(tmp_path: Path, command: Any):
    from mean_files import picture_folder
    from mean_files import tflite_file as means

    file, pictures = means(tmp_path / "means.tflite", "int8"), picture_folder(tmp_path / "pictures", 12)
    labels.write(file, ("red", "green", "blue"))
    page = tmp_path / "page.html"
    asked = ("budget", str(file), "--data", str(pictures), "-o", str(page))
    done = command(*asked, "--flash", "1M", "--ram", "64k", "--accuracy", "0.2")
    assert done.returncode == 0, done.stderr
    assert "Meets the budget: all 3 limits are kept." in done.stdout and str(page) in done.stdout
    told = page.read_text(encoding="utf-8")
    assert "share of 12 images of pictures" in told and "how it was made is not known" in told
    done = command(*asked, "--flash", "100")
    assert done.returncode == 1 and "Does not meet the budget: flash" in done.stdout and done.stderr == ""
    done = command(*asked[:2], "--flash", "1M", "-o", page)
    assert done.returncode == 0 and f"report: {page}" in done.stdout
    told = page.read_text(encoding="utf-8")
    assert "accuracy not measured" in told and "None" not in told
    page.unlink()
    done = command(*asked[:2], "--flash", "1M", "--ram", "1")
    assert done.returncode == 1 and "report" not in done.stdout and done.stderr == "" and not page.exists()
    arena = budget.arena_of(file)
    assert (
        f"{arena:,} bytes (the smallest arena TensorFlow" in done.stdout
        if arena
        else "activations alone" in done.stdout
    )
    for options, told in (
        (["--flash", "many"], "expected --flash in bytes"),
        ([], "a budget needs a limit"),
        (["--accuracy", "80"], "write 0.8 for 80 %"),
    ):
        done = command(*asked, *options)
        assert done.returncode == 2 and done.stdout == "" and told in done.stderr
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("edgelab: ")
