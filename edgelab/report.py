"""One report for one model file: what `edgelab measure` and `edgelab macs` gather in a child process and print.

Nothing is measured here: accuracy, sizes, work, energy, memory and latency each have a module that does it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from edgelab import _against, _fitting, artifact, data, isolated, labels
from edgelab._columns import aligned
from edgelab.artifact import Artifact, ImageShape
from edgelab.errors import EdgelabError
from edgelab.profiles import MODELS

if TYPE_CHECKING:
    from edgelab.latency import Ratio
    from edgelab.layers import LayerTable
    from edgelab.measure import Accuracy

OPEN_SIZE = (32, 32)
WIDTH = 120
MOST_THREADS = 256
Result = TypeVar("Result")


@dataclass
class Report:
    """What was measured of one file; None where it could not be. `KEYS` names the fields that the JSON form has.

    `accuracy_ci95` is the 95 % Wilson interval (low, high); `relative_energy` has no unit; `energy_uj` is an estimate.
    All are for one image, `latency_ms` too where the file takes several at once. `explain` has the verdicts by name
    and, of an int8 file, its `operators` with their times, see `explain.Int8Report.to_frame`.
    `told` says in words what there is to say beyond the numbers, and `notes` what a reader should know.
    """

    file: str
    runtime: str
    accuracy: float | None = None
    accuracy_ci95: Sequence[float] | None = None
    n_images: int | None = None
    bytes: int = 0
    gzip_bytes: int = 0
    parameters: int | None = None
    nonzero_parameters: int | None = None
    macs: int | None = None
    effective_macs: int | None = None
    relative_energy: float | None = None
    energy_uj: float | None = None
    ram_bytes: int | None = None
    latency_ms: float | None = None
    data: str | None = None
    data_fingerprint: str | None = None
    explain: dict[str, Any] | None = None
    against: dict[str, Any] | None = None
    told: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The measurements by their names, in order; `explain` and `against` only where they were asked for."""
        asked = [key for key in ("explain", "against") if getattr(self, key) is not None]
        return {key: getattr(self, key) for key in (*KEYS, *asked)}


KEYS = tuple(Report.__dataclass_fields__)[:17]


def measure(
    path: Path | str,
    name_or_path: str | None = None,
    *,
    limit: int | None = None,
    threads: int = 1,
    pixels: str = "auto",
    explain: bool = False,
    against: Path | str | None = None,
) -> Report:
    """The report on the model file at `path`, gathered in a child process.

    The images are the test split of `name_or_path`, a data set's name, an image folder or an archive; all of it where
    it is not split. Where nothing is named, data sets on this machine are tried (`_fitting.at_hand`), and without any
    the accuracy stays None. `limit` takes a fixed sample of so many images (`data.stratified_sample`). `threads` is how
    many the runtime may use. `pixels` is what a float input is fed (`artifact.PIXELS`), "auto" finds out by trying.
    `explain` adds why the file is as slow or as large as it is. `against` is another file of the same network, such as
    its float32 original: the report then says how answers and speed differ (`_against.Against`).
    Raises EdgelabError, one line, for whatever is wrong with the file, the data or both together.
    """
    for file in (path, against):
        if file is not None:
            _check_file(file)
    if name_or_path is not None and not name_or_path.strip():
        raise EdgelabError("expected the name of a data set or a path to images, got nothing")
    if limit is not None and limit < 1:
        raise EdgelabError(f"expected a limit of one image or more, got {limit}")
    if not 1 <= threads <= MOST_THREADS:
        raise EdgelabError(f"expected 1 to {MOST_THREADS} threads, got {threads}")
    if pixels not in ("auto", *artifact.PIXELS):
        raise EdgelabError(f"expected pixels auto, {', '.join(artifact.PIXELS)}, got {pixels!r}")
    other = None if against is None else str(against)
    with isolated.Worker() as worker:
        found = worker.call("edgelab.report:gather", path, name_or_path, limit, threads, pixels, explain, other)
    report = Report(**found)
    _add_arena(report)
    return report


def macs(path_or_model: str, image_size: tuple[int, int, int] | None = None) -> LayerTable:
    """The layer table of a model file, counted in a child process, or of a network of the course by name.

    `image_size` is (height, width, channels); needed only where the file leaves it open.
    Raises EdgelabError, one line, for a missing or damaged file, an unknown name, or a size that does not fit.
    """
    from edgelab.layers import Layer, LayerTable, layer_table

    if path_or_model in MODELS:
        from edgelab.pytorch import models

        height, width, channels = image_size or (32, 32, 3)
        return layer_table(models.build(path_or_model), (channels, height, width))
    if not Path(path_or_model).suffix:
        raise EdgelabError(f"expected a .tflite or .onnx file or one of {', '.join(MODELS)}, got {path_or_model!r}")
    _check_file(path_or_model)
    with isolated.Worker() as worker:
        found = worker.call("edgelab.report:count", path_or_model, image_size)
    shapes = ("input_shape", "output_shape", "kernel", "stride")
    rows = ({**row, **{name: tuple(row[name]) for name in shapes}} for row in found["layers"])
    return LayerTable(tuple(Layer(**row) for row in rows), found["uncounted"])


def _check_file(path: Path | str) -> None:
    artifact.check_suffix(Path(path))
    if not Path(path).is_file():
        raise EdgelabError(f"there is no model file at {path}: check the path or make the file first")


def count(path: str, image_size: Sequence[int] | None) -> dict[str, Any]:
    """`macs` of a file, in this process."""
    from edgelab.layers import layer_table

    if image_size is not None:
        wanted = artifact.load(path).image_shape()
        if not all(want in (None, got) for want, got in zip(wanted[:3], image_size, strict=True)):
            raise EdgelabError(f"{path} takes images of {_text(wanted[:3])}, got {_text(image_size)} as input")
        height, width, channels = image_size
        return asdict(layer_table(path, _own(ImageShape(height, width, channels, wanted.channels_last))))
    try:
        return asdict(layer_table(path))
    except EdgelabError:
        if None in artifact.load(path).image_shape()[:3]:
            raise EdgelabError(
                f"{path} leaves the size of its images open: give --input HEIGHTxWIDTHxCHANNELS"
            ) from None
        raise


def _own(shape: ImageShape) -> tuple[int, int, int]:
    """A shape without open sizes in the file's own order."""
    height, width, channels = (size or 0 for size in shape[:3])
    return (height, width, channels) if shape.channels_last else (channels, height, width)


class _Asked(NamedTuple):
    """Options of `measure` that choose the images, what they are fed as, and the other file."""

    name: str | None
    limit: int | None
    pixels: str
    against: str | None


def gather(
    path: str,
    name_or_path: str | None,
    limit: int | None,
    threads: int,
    pixels: str,
    explain: bool,
    against: str | None = None,
) -> dict[str, Any]:
    """`measure` in this process, less the arena: the fields of a Report."""
    from edgelab.measure import sizes

    file = artifact.load(path, threads)
    report = Report(path, file.runtime, against=asdict(_against.Against(against)) if against else None)
    report.bytes, report.gzip_bytes = sizes(Path(path))
    wanted = _image_shape(file, name_or_path is not None or against is not None)
    if wanted is None:
        _add_work(report, None)
        report.notes.append("the file takes no images: its accuracy was not measured, its latency on noise")
        _or_note(report, lambda: file.prepare(None))
        isolated.limit(False)
        _add_latency(report, file, None)
        if explain:
            _add_explanation(report, file, None, None)
    else:
        image, other = _add_run(report, file, wanted, _Asked(name_or_path, limit, pixels, against))
        ratio = _add_explanation(report, file, image, other) if explain else None
        if other:
            _add_speed(report, file, other, image, ratio)
    _add_form(report, file)
    return asdict(report)


def _image_shape(file: Artifact, must_be: bool) -> ImageShape | None:
    """The shape of the images the file takes; None where it takes none and no images are given."""
    try:
        return file.image_shape()
    except EdgelabError:
        if must_be:
            raise
        return None


def _add_run(report: Report, file: Artifact, wanted: ImageShape, asked: _Asked) -> tuple[np.ndarray, Artifact | None]:
    """Everything that takes images; returns one of noise, in the file's size, and the other file, if there is one.

    Until the first inference of each file has succeeded, `isolated` limits time and memory.
    """
    found, name = None, asked.name
    if name is not None and None in wanted[:2]:
        isolated.limit(False)
        found = _fitting.find(name, file, wanted[:2])
        isolated.limit(True)
    height, width = found[0].test.images.shape[1:3] if found else OPEN_SIZE
    shape = wanted._replace(height=wanted.height or height, width=wanted.width or width, channels=wanted.channels or 3)
    if shape != wanted and not found:
        report.notes.append(f"the file leaves the size of its images open: {_text(shape[:2])} was taken")
    _add_work(report, shape)
    image = np.random.default_rng(0).integers(0, 256, (1, *(size or 0 for size in shape[:3])), np.uint8)
    model = _fitting.Model(file, shape, file.predict(image).shape[1], labels.read(file.path))
    other = _against.load(asked.against, model, image) if asked.against else None
    isolated.limit(False)
    if name is not None and not found:
        found = _fitting.find(name, file, shape[:2])
    images = (
        _fitting.given(model, found[0], asked.limit) if found else _fitting.at_hand(model, asked.limit, asked.pixels)
    )
    report.notes += found[1] if found else []
    if images is None:
        report.notes.append("no data was named, and none at hand fits: give --data NAME or PATH for the accuracy")
    else:
        predicted = _add_accuracy(report, model, images, asked.pixels)
        if other:
            _add_told(report, _against.compare_answers(file, other, images, predicted, asked.pixels))
    _add_latency(report, file, image)
    return image, other and other.file


def _add_accuracy(report: Report, model: _fitting.Model, images: _fitting.Images, pixels: str) -> np.ndarray:
    """The accuracy, what the file was fed and on which images; returns the class it gave each of them."""
    from edgelab.measure import predictions, score

    fed = _fitting.feed(model, images, pixels)
    predicted = predictions(replace(model.file, pixels=fed.pixels), images.test)
    found = score(predicted, images.test.labels)
    report.accuracy, report.accuracy_ci95, report.n_images = found.value, (found.low, found.high), found.n
    dataset = images.dataset
    report.data, report.data_fingerprint = dataset.name, dataset.fingerprint
    which = "test images" if len(dataset.train) else "images, not split"
    part = "" if found.n == len(dataset.test) else f"a fixed sample of {found.n} of the "
    report.told |= {"accuracy": str(found), "pixels": fed.why, "data": f"{part}{len(dataset.test)} {which}"}
    report.notes += images.notes + data.find_problems(dataset)
    if is_guessing(found, model.classes):
        report.notes.append(
            f"no better than guessing among {model.classes} classes: does the file know these, in this order?"
        )
    if dataset.name == "cifar10-jpeg":
        report.notes.append(
            "so this is not the published accuracy of a network that was trained and measured on the official pixels"
        )
    return predicted


def is_guessing(found: Accuracy, classes: int) -> bool:
    """Whether an accuracy holds chance in its interval, and little more."""
    return found.low <= 1 / classes and found.high < 1 / classes + _fitting.BEYOND_CHANCE


def _add_work(report: Report, shape: ImageShape | None) -> None:
    """What follows from the graph. What cannot be counted of a file that runs is a note, no failure."""
    from edgelab import energy, memory
    from edgelab.layers import layer_table
    from edgelab.measure import operand_energy

    own = None if shape is None else _own(shape)
    if table := _or_note(report, lambda: layer_table(report.file, own)):
        report.parameters, report.nonzero_parameters = table.parameters, table.nonzero
        report.macs, report.effective_macs = table.macs, table.effective_macs
        report.relative_energy = round(operand_energy(table), 6)
        report.told["uncounted"] = ", ".join(f"{kind} {n}" for kind, n in table.uncounted.items())
        estimate = _or_note(report, lambda: energy.estimate(table).total_uj)
        report.energy_uj = None if estimate is None else round(estimate, 6)
    if peak := _or_note(report, lambda: memory.peak_activations(report.file, own)):
        report.ram_bytes, report.told["ram"] = peak.bytes, peak.at


def _or_note(report: Report, make: Callable[[], Result]) -> Result | None:
    try:
        return make()
    except EdgelabError as error:
        if str(error) not in report.notes:
            report.notes.append(str(error))
        return None


def _add_latency(report: Report, file: Artifact, image: np.ndarray | None) -> None:
    from edgelab.latency import measure_latency, three

    if latency := _or_note(report, lambda: measure_latency(file, image)):
        batch = file.ports()[0].shape[0] or 1
        report.latency_ms = round(latency.median_ms / batch, 6)
        an_image = f"{three(report.latency_ms)} ms an image; a run of {batch} images: " if batch > 1 else ""
        report.told["latency"] = f"{an_image}{latency}"


def _add_explanation(report: Report, file: Artifact, image: np.ndarray | None, other: Artifact | None) -> Ratio | None:
    """Why the file is as slow or large as it is; returns how its speed compares with `other`, if that was measured."""
    from edgelab import explain

    twins = _or_note(report, lambda: _against.twins(file, other, image)) if other and image is not None else None
    quick, dense = twins or (None, None)
    speed = _or_note(report, lambda: explain.int8(file.path, quick, image=image, threads=file.threads))
    size = _or_note(report, lambda: explain.sparsity(file.path, dense, image=image, threads=file.threads))
    report.explain = {name: found.verdict for name, found in (("int8", speed), ("sparsity", size)) if found}
    if speed and speed.int8:
        frame = speed.to_frame().dropna(axis="columns", how="all").astype(object)
        report.explain["operators"] = frame.where(frame.notna(), None).to_dict("records")
    ratios = [found.ratio for twin, found in ((quick, speed), (dense, size)) if twin and found]
    return next((ratio for ratio in ratios if ratio), None)


def _add_speed(report: Report, file: Artifact, other: Artifact, image: np.ndarray, known: Ratio | None) -> None:
    if told := _or_note(report, lambda: _against.compare_speed(file, other, image, known)):
        _add_told(report, told)


def _add_told(report: Report, told: _against.Told) -> None:
    report.against = {**(report.against or {}), **told.fields}
    report.told |= told.words


def _add_form(report: Report, file: Artifact) -> None:
    source, result = file.ports()
    inputs, outputs = _text(source.shape[1:]), _text(result.shape[1:])
    report.told["form"] = f"{source.dtype} input {inputs}, {result.dtype} output {outputs}"


def _add_arena(report: Report) -> None:
    """The arena of TensorFlow Lite Micro, for files it may take: a process of its own asks it."""
    from edgelab import memory

    if report.file.lower().endswith(".tflite"):
        try:
            report.told["arena"] = f"{memory.arena(report.file).bytes:,} bytes"
        except EdgelabError as error:
            report.told["arena"] = f"not known ({error})"


def _text(sizes: Sequence[int | None]) -> str:
    return "x".join("any" if size is None else str(size) for size in sizes)


def in_words(report: Report) -> str:
    """The report as lines to read."""
    told, speed = report.told, report.told.get("speed", "")
    verdicts = {name: text for name, text in (report.explain or {}).items() if name != "operators"}
    rows = [
        ("accuracy", told.get("accuracy", "not measured")),
        (
            "data",
            f"{report.data}, {told['data']}, fingerprint {str(report.data_fingerprint)[:12]}" if report.data else "",
        ),
        ("pixels", told.get("pixels", "")),
        ("", told.get("other_pixels", "")),
        ("compared", told.get("compared", "")),
        ("size", f"{report.bytes:,} bytes, {report.gzip_bytes:,} with gzip"),
        *_work_rows(report),
        ("latency", told.get("latency", "not measured")),
        ("speed", "" if any(speed in verdict for verdict in verdicts.values()) else speed),
        *verdicts.items(),
        *[("note", note) for note in report.notes],
    ]
    head = f"{report.file}: {told['form']}, run by {report.runtime}"
    lines = [head, "", *(_row(name, text) for name, text in rows if text)]
    return "\n".join([*lines, *_operator_lines((report.explain or {}).get("operators", ()))])


def _operator_lines(operators: Sequence[dict[str, Any]]) -> list[str]:
    """The operators of an int8 file with their times, and those of the float32 file's where they were measured."""
    if not operators:
        return []
    head = ["operator", "runs in", "numbers", "output", "MACs", "ms", "share"]
    other = any("float32_ms" in row for row in operators)
    rows = [tuple(head + ["float32 ms"] * other)]
    for row in operators:
        times = [row["ms"], *([row.get("float32_ms")] if other else [])]
        own, *theirs = ("-" if ms is None else f"{ms:.4f}" for ms in times)
        share = "-" if row["share"] is None else f"{row['share']:.1%}"
        work = f"{row['macs']:,}" if row["macs"] else ""
        rows.append((row["kind"], row["runs_in"], row["arithmetic"], row["output"], work, own, share, *theirs))
    return ["", "operators, in the order they run:", *aligned(rows, right=(4, 5, 6, 7))]


def _row(name: str, text: str) -> str:
    return textwrap.fill(f"{name:<12}{text}", WIDTH, subsequent_indent=" " * 12, break_long_words=False)


def _work_rows(report: Report) -> list[tuple[str, str]]:
    told, rows = report.told, []
    if report.macs is not None:
        rows = [
            ("parameters", f"{report.parameters:,}, of which {report.nonzero_parameters:,} are not zero"),
            ("MACs", f"{report.macs:,} an image, of which {report.effective_macs:,} are on weights that are not zero"),
            ("not counted", told["uncounted"]),
            (
                "energy",
                f"{report.relative_energy:.2f} relative: an ESTIMATE by rule of thumb, for variants of one network",
            ),
        ]
    if report.energy_uj is not None:
        meant = "an ESTIMATE for a 45 nm accelerator; microcontrollers take far more"
        rows.append(("", f"{report.energy_uj:.3g} uJ an image: {meant}"))
    if report.ram_bytes is not None:
        rows.append(("RAM", f"{report.ram_bytes:,} bytes of activations at the peak, at {told['ram']}"))
    if "arena" in told:
        rows.append(("", f"{told['arena']}: arena of TensorFlow Lite Micro"))
    return rows


def table_in_words(table: LayerTable) -> str:
    """A layer table as aligned columns with its totals."""
    head = ("layer", "kind", "input", "output", "kernel", "parameters", "MACs")
    rows = [
        (
            _short(row.name),
            row.kind,
            _text(row.input_shape),
            _text(row.output_shape),
            _text(row.kernel),
            f"{row.parameters:,}" if row.parameters else "",
            f"{row.macs:,}" if row.macs else "",
        )
        for row in table.layers
    ]
    total = ("total", "", "", "", "", f"{table.parameters:,}", f"{table.macs:,}")
    lines = aligned([head, *rows, total], right=(5, 6))
    if table.uncounted:
        lines += ["", "not counted: " + ", ".join(f"{kind} {n}" for kind, n in table.uncounted.items())]
    return "\n".join(lines)


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"...{name[3 - most :]}"
