"""What a model file says about pictures: `edgelab predict`.

Everything that may crash, the runtime and the decoders of images, runs in a child process (`isolated`, `_seeing`). No
framework is loaded on the way, and here not even NumPy, so that the answer is there within a second.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgelab import isolated
from edgelab.errors import EdgelabError

SHIPPED = Path(__file__).parent / "models" / "ds_cnn_int8.tflite"
MODELS = (".tflite", ".onnx")
NO_IMAGES = (".h5", ".keras", ".pb", ".pt", ".pth", ".safetensors", ".tfl")
PIXELS = ("auto", "centred", "unit", "raw")
STDIN = "-"
CHUNK = 64
MOST_THREADS = 256
WIDTH = 120


@dataclass
class Prediction:
    """The answers for some pictures.

    `images` has a dict for each, in order: `image`, and either its own `size` and `classes` (dicts with `class`, its
    name or None, `index` and `probability`, the best first) or `error`. `latency` (`ms`, `on` and in `words`) is the
    median of the runtime's own call for one image. `images_per_second` counts from the files to the answers: reading,
    resizing and running, but not the start.
    """

    model: str
    card: dict[str, Any]
    images: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    latency: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def answered(self) -> list[dict[str, Any]]:
        """The images that have an answer."""
        return [image for image in self.images if "classes" in image]

    @property
    def errors(self) -> list[str]:
        """What is wrong with the others, a line each."""
        return [image["error"] for image in self.images if "error" in image]

    @property
    def images_per_second(self) -> float | None:
        """Images answered in a second."""
        return len(self.answered) / self.seconds if self.seconds else None

    def as_json(self) -> dict[str, Any]:
        """All of it by name."""
        card = self.card
        told = {name: card[name] for name in ("runtime", "height", "width", "channels", "ending", "labels")}
        told |= {"model": self.model, "pixels": card["fed"], "images": self.images}
        told |= {"latency_ms": self.latency.get("ms"), "latency_on": self.latency.get("on")}
        told |= {"images_per_second": self.images_per_second, "notes": self.notes}
        return {name: told[name] for name in JSON_KEYS}


JSON_KEYS = (
    "model",
    "runtime",
    "labels",
    "height",
    "width",
    "channels",
    "pixels",
    "ending",
    "images",
    "latency_ms",
    "latency_on",
    "images_per_second",
    "notes",
)


def predict(
    arguments: Sequence[str], *, top: int = 3, threads: int = 1, pixels: str = "auto", stdin: Any = None
) -> Prediction:
    """What a model says about images: `arguments` are a .tflite or .onnx file, or none, then images and folders.

    Without a file it is the one that comes with edgelab (`SHIPPED`). "-" reads an image from `stdin`, a binary stream.
    `top` classes are given for each image; `pixels` is what a float input is fed where the file does not say
    (`artifact.PIXELS`, "auto": centred). An image that cannot be read is an error in its place and loses no others.
    Raises EdgelabError, one line, for whatever is wrong with the file or the options, or where there are no images.
    """
    if top < 1:
        raise EdgelabError(f"expected one class or more to show, got {top}")
    if not 1 <= threads <= MOST_THREADS:
        raise EdgelabError(f"expected 1 to {MOST_THREADS} threads, got {threads}")
    if pixels not in PIXELS:
        raise EdgelabError(f"expected pixels {', '.join(PIXELS)}, got {pixels!r}")
    model, names = _split(arguments)
    with _files(names, stdin) as files, isolated.Worker() as worker:
        card = worker.call("edgelab._seeing:prepare", model, threads, pixels)
        found = Prediction(str(model), card)
        step = CHUNK if card["height"] and card["width"] else 1
        for part in _chunks(files, step):
            _add(found, worker, part, threads, top)
    found.notes = _notes(found)
    return found


def _split(arguments: Sequence[str]) -> tuple[Path | str, list[str]]:
    """The model and the images."""
    first, *rest = arguments
    suffix = Path(first).suffix.lower()
    if suffix in MODELS and not os.path.isdir(first):
        if not rest:
            raise EdgelabError(f"expected an image, a folder of images or - after {first}, got nothing")
        return first, rest
    if suffix in NO_IMAGES:
        hint = ": make one with edgelab export" if suffix == ".safetensors" else ""
        raise EdgelabError(f"expected an image, or a model that ends in .tflite or .onnx, got {first!r}{hint}")
    if late := next((name for name in rest if Path(name).suffix.lower() in MODELS and not os.path.isdir(name)), None):
        raise EdgelabError(f"expected the model before the images, got {late!r} behind {first!r}")
    return SHIPPED, [first, *rest]


@contextmanager
def _files(names: Sequence[str], stdin: Any) -> Iterator[list[tuple[str, str | None]]]:
    """(name to show, path) of every image; a None for a folder without any."""
    from tempfile import TemporaryDirectory

    if STDIN not in names:
        yield [file for name in names for file in _listed(name)]
        return
    from edgelab._images import MAX_IMAGE

    with TemporaryDirectory() as folder:
        path = Path(folder, "standard input")
        path.write_bytes(stdin.read(MAX_IMAGE + 1))
        yield [file for name in names for file in ([(STDIN, str(path))] if name == STDIN else _listed(name))]


def _listed(name: str) -> list[tuple[str, str | None]]:
    if not os.path.isdir(name):
        return [(name, name)]
    from edgelab._images import listed
    from edgelab.pictures import SUFFIXES

    found = [path for _, path, is_folder in listed(Path(name), SUFFIXES) if not is_folder]
    return [(path, path) for path in found] or [(name, None)]


def _chunks(files: list[tuple[str, str | None]], step: int) -> Iterator[list[tuple[str, str | None]]]:
    """`files` in parts of `step`, with a progress bar on a terminal where there are many."""
    parts = [files[i : i + step] for i in range(0, len(files), step)]
    if len(parts) < 2:
        yield from parts
        return
    from tqdm import tqdm

    with tqdm(desc="predicting", total=len(files), unit="image", leave=False, disable=None, delay=1) as bar:
        for part in parts:
            yield part
            bar.update(len(part))


def _add(
    found: Prediction, worker: isolated.Worker, part: list[tuple[str, str | None]], threads: int, top: int
) -> None:
    """The answers for a part of the images. A picture that takes the child down is found by taking one after another.

    Where every image has the same size, a file that fails on one fails on all: that is raised.
    """
    card, paths = found.card, [path for _, path in part if path]
    size = (card["height"], card["width"], card["channels"] or 3)
    try:
        seen = worker.call("edgelab._seeing:look", found.model, paths, size)
    except EdgelabError as error:
        if len(part) > 1:
            for single in part:
                _add(found, worker, [single], threads, top)
            return
        seen = {"seconds": 0.0, "found": [str(error)]}
    rows: list[Any] = []
    trouble = ""
    if any(isinstance(one, list) for one in seen["found"]):
        try:
            answered = worker.call("edgelab._seeing:answer", found.model, threads, card, top)
            card["classes"], rows = answered["classes"], answered["rows"]
            found.seconds += seen["seconds"] + answered["seconds"]
            found.latency = found.latency or worker.call("edgelab._seeing:latency", found.model, threads, card)
        except EdgelabError as error:
            if card["height"] and card["width"]:
                raise
            trouble = str(error)
    _place(found, part, seen["found"], rows, trouble)


def _place(
    found: Prediction, part: list[tuple[str, str | None]], seen: list[Any], rows: list[Any], trouble: str
) -> None:
    """Put `rows` and what is wrong beside the names of the images."""
    left, answers = iter(seen), iter(rows)
    for name, path in part:
        if path is None:
            found.images.append({"image": name, "error": f"there are no images in the folder {name}"})
            continue
        one = next(left)
        error = trouble if isinstance(one, list) else one.replace(path, "standard input") if name == STDIN else one
        if error:
            found.images.append({"image": name, "error": error})
            continue
        classes = [{"class": _name(found.card, i), "index": i, "probability": share} for i, share in next(answers)]
        found.images.append({"image": name, "size": one, "classes": classes})


def _names_fit(card: dict[str, Any]) -> bool:
    return card["labels"] is not None and len(card["labels"]) == card["classes"]


def _name(card: dict[str, Any], index: int) -> str | None:
    return card["labels"][index] if _names_fit(card) else None


def _notes(found: Prediction) -> list[str]:
    card, notes = found.card, []
    wanted = [card["height"], card["width"]]
    if None not in wanted and any(image["size"] != wanted for image in found.answered):
        notes.append(f"images resized to {wanted[0]}x{wanted[1]} (squeezed, not cropped), which the file takes")
    if card["channels"] == 1:
        notes.append("images turned to grey, for the file takes one channel")
    if card["labels"] is None:
        notes.append("the file names no classes: they are shown by number, from 0")
    elif not _names_fit(card):
        count = len(card["labels"])
        notes.append(f"the file names {count} classes but has {card['classes']} outputs: shown by number, from 0")
    if card["ending"] == "sigmoid":
        notes.append("the network ends in a sigmoid: each class has a probability of its own")
    if Path(found.model) == SHIPPED:
        notes.append(f"it knows {', '.join(card['labels'])}, and takes every picture for one of them")
    return notes


def in_words(found: Prediction) -> str:
    """The prediction as lines to read: an image a line, then how it was done."""
    card = found.card
    form = "x".join(str(card[name] or "any") for name in ("height", "width", "channels"))
    head = f"{Path(found.model).name}: {card['input']['dtype']} input {form}, run by {card['runtime']}"
    if Path(found.model) == SHIPPED:
        head += ", the model that comes with edgelab"
    width = min(48, max(len(image["image"]) for image in found.answered))
    lines = [f"{image['image']:<{width}}  {_shares(image['classes'])}" for image in found.answered]
    done = f"{len(found.answered)} image{'s' * (len(found.answered) > 1)} in {found.seconds:.3f} s"
    rows = [("pixels", card["why"])]
    if found.latency:
        rows.append(("latency", found.latency["words"]))
    if rate := found.images_per_second:
        rows.append(("speed", f"{rate:,.0f} images a second from file to answer: {done}"))
    rows += [("note", note) for note in found.notes]
    told = [textwrap.fill(f"{name:<9}{text}", WIDTH, subsequent_indent=" " * 9) for name, text in rows]
    return "\n".join([head, "", *lines, "", *told])


def _shares(classes: list[dict[str, Any]]) -> str:
    return "  ".join(f"{one['class'] or one['index']} {100 * one['probability']:.1f} %" for one in classes)


def from_stdin() -> Any:
    """The binary standard input."""
    return sys.stdin.buffer
