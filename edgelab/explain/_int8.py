"""Why is my int8 network slower, or faster? Measured operator by operator, with a verdict made from the figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgelab import artifact, provenance
from edgelab.artifact import Artifact
from edgelab.errors import EdgelabError
from edgelab.explain import _litert, _onnxruntime
from edgelab.explain._processor import processor_sentence
from edgelab.explain._profile import Profile, counterparts, total
from edgelab.explain._verdict import better_without, check, difference, main_kernel, rate, spent, where
from edgelab.latency import Latency, Ratio, compare_latency, measure_latency, three
from edgelab.layers import layer_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Int8Report:
    """What an int8 file's time is made of, and where it gains or loses against the float32 file where one is given.

    `int8` and `float32` are the profiles, None where there is nothing to explain; `ratio` compares the whole files.
    """

    path: Path
    instructions: tuple[str, ...]
    latency: Latency | None = None
    int8: Profile | None = None
    ratio: Ratio | None = None
    float32: Profile | None = None

    @property
    def verdict(self) -> str:
        """One paragraph, made from the figures of this report alone."""
        if self.int8 is None or self.latency is None:
            return f"{self.path.name} is not quantized: no layer has 8-bit weights, there is no int8 to explain."
        said = [self._whole(), where(self.int8), spent(self.int8)]
        if self.float32 and self.ratio:
            said += difference(self.int8, self.float32, self.ratio.direction, self.instructions)
        said += [*better_without(self.int8), self._processor(), check(self.int8)]
        return " ".join(said)

    def to_frame(self) -> pd.DataFrame:
        """One row an operator in the order they run; times in milliseconds, `share` of the sum of all operators."""
        import pandas as pd

        operators = self.int8.operators if self.int8 else ()
        others = counterparts(operators, self.float32.operators) if self.float32 else [None] * len(operators)
        whole = total(operators) or math.nan
        rows = [
            {
                "operator": place,
                "kind": operator.kind,
                "layer": operator.layer.name,
                "runs_in": operator.kernel,
                "arithmetic": operator.arithmetic,
                "output": "x".join(map(str, operator.layer.output_shape)),
                "macs": operator.layer.macs,
                "ms": operator.ms,
                "share": operator.ms / whole,
                "gmacs_per_s": rate([operator]),
                "without_xnnpack_ms": operator.plain_ms,
                "float32_ms": other.ms if other else None,
                "times_float32": operator.ms / other.ms if other and other.ms else None,
            }
            for place, (operator, other) in enumerate(zip(operators, others, strict=True), 1)
        ]
        frame = pd.DataFrame(rows)
        optional = ["without_xnnpack_ms", "float32_ms", "times_float32"]
        return frame.drop(columns=[name for name in optional if name in frame and frame[name].isna().all()])

    def _whole(self) -> str:
        if self.ratio is None:
            return f"{self.path.name} takes {self.latency}."
        meaning = {"slower": "int8 is slower here", "faster": "int8 is faster here"}.get(self.ratio.direction)
        return f"{self.ratio.sentence()}{': ' + meaning if meaning else ''}."

    def _processor(self) -> str:
        """What the processor allows, and how far what was measured goes with it."""
        if self.int8 is None:
            return ""
        sentence = processor_sentence(self.instructions, main_kernel(self.int8))
        ours = rate([operator for operator in self.int8.operators if not operator.floats])
        if math.isnan(ours):
            return f"{sentence}."
        if not (self.float32 and self.ratio):
            return (
                f"{sentence}; measured: {three(ours)} GMAC/s. With the float32 file too it can be said what int8 gains."
            )
        theirs = rate(self.float32.operators)
        longer = self.int8.sum_ms > self.float32.sum_ms
        end = ""
        if self.ratio.direction == "slower" and longer and ours < theirs:
            end = ", so the narrower numbers gain nothing here"
        elif self.ratio.direction == "faster" and not longer and ours > theirs:
            end = ", which is where int8 gains"
        return f"{sentence}; measured: {three(ours)} int8 against {three(theirs)} float32 GMAC/s{end}."


def int8(
    path: Path | str, path_float: Path | str | None = None, image: np.ndarray | None = None, threads: int = 1
) -> Int8Report:
    """Explain the speed of the int8 file at `path`, against the float32 file of the same network where one is given.

    `image` is one image (1, H, W, C) uint8; noise where none is given. Takes a few seconds.
    Raises EdgelabError where a file cannot be run, the image does not fit, or `path_float` is not a float32 file of the
    same format.
    """
    file = artifact.load(path, threads)
    instructions = provenance.int8_instructions()
    image = noise(file) if image is None else image
    if not is_quantized(file, image):
        return Int8Report(file.path, instructions)
    measure = _litert.profiles if file.format == "tflite" else _onnxruntime.profiles
    if path_float is None:
        latency = measure_latency(file, image)
        (profile,) = measure([file], image)
        return Int8Report(file.path, instructions, latency, profile)
    other = artifact.load(path_float, threads)
    if other.format != file.format or is_quantized(other, image):
        got = other.path.name if other.format != file.format else f"{other.path.name}, which is quantized"
        raise EdgelabError(f"expected a float32 .{file.format} file to compare {file.path.name} with, got {got}")
    ratio = compare_latency(file, other, image)
    ours, theirs = measure([file, other], image)
    return Int8Report(file.path, instructions, ratio.first, ours, ratio, theirs)


def noise(file: Artifact) -> np.ndarray | None:
    """One image (1, H, W, C) uint8 of noise for `file`; None where it takes no images, see `Artifact.prepare`.

    Raises EdgelabError where the file leaves the size open.
    """
    if len(file.ports()[0].shape) != 4:
        return None
    shape = file.image_shape()
    if None in shape[:3]:
        raise EdgelabError(f"{file.path.name} takes images of any size: give one image (1, height, width, channels)")
    sizes = [size or 1 for size in shape[:3]]
    return np.random.default_rng(0).integers(0, 256, (1, *sizes), dtype=np.uint8)


def is_quantized(file: Artifact, image: np.ndarray | None) -> bool:
    """Whether any layer of `file` that makes MACs has weights of 8 bits or fewer. `image` is (1, H, W, C) uint8.

    Raises EdgelabError where the image does not fit the file or its layers cannot be counted.
    """
    table = layer_table(file.path, file.prepare(image).inputs.shape[1:])
    return any((layer.weight_bits or 32) <= 8 for layer in table.layers if layer.macs)
