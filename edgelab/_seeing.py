"""What the child process of `edgelab.predict` does: read pictures, hold them, run the model on them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from edgelab import artifact, isolated
from edgelab.artifact import PIXELS, RULES, Artifact, Opened, Pixels
from edgelab.cards import PixelRule, describe, not_offered, probabilities
from edgelab.errors import EdgelabError

TIMED_SECONDS, TIMED_RUNS = 0.05, 20


class _Seen(NamedTuple):
    """Pictures that have been read and wait for their answers."""

    images: list[np.ndarray]


_seen = _Seen([])


@lru_cache(maxsize=1)
def _opened(path: str, threads: int, pixels: Pixels) -> tuple[Artifact, Opened]:
    file = artifact.load(path, threads, pixels)
    return file, file.opened()


def prepare(path: str, threads: int, asked: str) -> dict[str, Any]:
    """In the child: `describe`, with what the file will be fed and by which runtime; one image is tried if it can be.

    `fed` names the rule, `why` says it in words. Raises EdgelabError where the file does not run, or asks for another
    rule than there is.
    """
    card = describe(path)
    card |= _fed(path, card, asked)
    file, opened = _opened(path, threads, card["fed"])
    card |= {"runtime": file.runtime, "batch": opened.batch}
    if card["height"] and card["width"]:
        size = (1, card["height"], card["width"], card["channels"] or 3)
        noise = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        card["classes"] = _outputs(path, opened, noise).shape[1]
    return card


def _outputs(path: str, opened: Opened, images: np.ndarray) -> np.ndarray:
    """What the file gives for `images`, (n, classes). Raises EdgelabError where these are no values of classes."""
    outputs = opened.answer(images)
    if outputs.shape[1] < 2:
        raise EdgelabError(f"{path} gives {outputs.shape[1]} values for an image: expected one for each class")
    if not np.isfinite(outputs).all():
        raise EdgelabError(f"{path} gives values that are no numbers: make it anew")
    return outputs


def _fed(path: str, card: dict[str, Any], asked: str) -> dict[str, str]:
    if card["told_by"] == "input":
        port = card["input"]
        by = f"scale {port['scale']:.6g} and zero point {port['zero_point']}" if port["scale"] else "type"
        chosen, why = card["pixels"], f"for the {port['dtype']} input by its {by}"
    elif asked in PIXELS:
        chosen, why = asked, "as asked"
    elif card["pixels"]:
        chosen, why = card["pixels"], "as its metadata say"
    elif card["told_by"]:
        raise not_offered(path, PixelRule(*(card[name] for name in PixelRule._fields)))
    else:
        chosen = "centred"
        why = "the course's own, for the file does not say; if the answers look wrong, try --pixels unit or raw"
    centre, width = RULES[chosen]
    shown = "pixel" if chosen == "raw" else f"pixel / {width:g}" if not centre else f"(pixel - {centre:g}) / {width:g}"
    return {"fed": chosen, "why": f"{shown} ({chosen}), {why}"}


def look(path: str, pictures: Sequence[str], size: tuple[int | None, int | None, int]) -> dict[str, Any]:
    """In the child: read `pictures` for the file at `path` and hold them; `size` is height, width and channels.

    Returns the `seconds` it took and of each picture its own size, or what is wrong with it.
    """
    from edgelab.pictures import read

    global _seen
    found: list[Any] = []
    held = []
    start = time.perf_counter()
    for picture in pictures:
        isolated.about(picture)
        isolated.limit(True)
        try:
            pixels, own = read(picture, *size)
        except EdgelabError as error:
            found.append(str(error))
        else:
            held.append(pixels)
            found.append(own)
    _seen = _Seen(held)
    return {"seconds": time.perf_counter() - start, "found": found}


def answer(path: str, threads: int, card: dict[str, Any], top: int) -> dict[str, Any]:
    """In the child: the `top` classes of every picture held, as [number, probability], and the `seconds` they took."""
    _, opened = _opened(path, threads, card["fed"])
    turned = [image[..., ::-1] if card["order"] == "BGR" else image for image in _seen.images]
    rows: list[list[tuple[int, float]]] = []
    start = time.perf_counter()
    for i in range(0, len(turned), opened.batch):
        outputs = _outputs(path, opened, np.stack(turned[i : i + opened.batch]))
        for row in probabilities(outputs, card["ending"]):
            best = np.argsort(-row, kind="stable")[:top]
            rows.append([(int(place), float(row[place])) for place in best])
    return {"seconds": time.perf_counter() - start, "rows": rows, "classes": outputs.shape[1]}


def latency(path: str, threads: int, card: dict[str, Any]) -> dict[str, Any]:
    """In the child: median milliseconds `ms` an image of the runtime's own call, on the first picture held; `on` what,
    and `words` that say so.
    """
    from edgelab.latency import measure_latency, three

    file, opened = _opened(path, threads, card["fed"])
    measured = measure_latency(file, _seen.images[0][None], TIMED_SECONDS, TIMED_RUNS)
    took = measured.median_ms / opened.batch
    runs = f"median of {measured.repetitions} runs of the runtime's call alone"
    return {"ms": took, "on": measured.on, "words": f"{three(took)} ms an image ({runs}), {measured.on}"}
