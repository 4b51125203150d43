"""Writing a model as a file, quantized on the way or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgelab.artifact._formats import check_suffix, first_line, quiet
from edgelab.artifact._metadata import check_names, labelled
from edgelab.artifact._running import PIXELS, Artifact, Pixels, load
from edgelab.artifact._sources import check, source_of
from edgelab.errors import EdgelabError
from edgelab.files import atomic_path

if TYPE_CHECKING:
    import tf_keras as keras
    from torch import nn


def save(
    model: keras.Model | nn.Module | Artifact,
    path: Path | str,
    calibration: np.ndarray | None = None,
    scheme: str | None = None,
    keep_float: Sequence[str] = (),
    pixels: Pixels = "centred",
    labels: Sequence[str] | None = None,
) -> Artifact:
    """Write `model` to `path`: a tf_keras model as .tflite, a torch module or a float32 .onnx file as .onnx.

    Without a scheme the model is written as it is, or as `int8` where there are images to calibrate it with.

    - `float32`: both formats.
    - `float16`: weights of 16 bits, .tflite. `dynamic`: int8 weights (of layers with 1,024 or more), ranges of the
      activations found at run time, .tflite.
    - `int8`: weights int8 per channel, activations 8 bits; their range is from the least to the greatest value they
      take on the calibration images. A .tflite file has int8 inputs and outputs, an .onnx file float ones with the
      quantization inside, and its weights use 7 of their 8 bits.
    - `int8_per_tensor`: one scale for all weights of a layer. `int16x8`: int16 activations, .tflite.
    - `int8_full_range`: weights of all 8 bits, .onnx. `int8_entropy`, `int8_percentile`: ranges that leave out
      outliers, .onnx.

    `calibration` are uint8 NHWC images, from the training split, shown to the model as `pixels` says (see `Artifact`).
    `keep_float` names layers to leave in float32, such as "blocks.3" or "blocks.3.depthwise". A quantized torch module
    or quantization-aware model already knows its ranges: `int8` takes a Keras one without calibration.

    `labels`, the names of the classes in the order of the outputs, are written into the file together with what
    `pixels` says: some hundred bytes that `edgelab.predict` and others read (see `_metadata`).

    A torch module is exported for images of its attribute `input_shape` (channels, height, width), or 3x32x32 where it
    has none; files take any batch size. The same model gives the same bytes. Raises EdgelabError, before any work,
    where model, suffix, scheme and calibration do not go together, the images are no uint8 images of the model's size
    or all alike, weights are not finite or the model is quantized already; and where the converter fails.
    """
    path = Path(path)
    check_suffix(path)
    if pixels not in PIXELS:
        raise EdgelabError(f"expected pixels one of {', '.join(PIXELS)}, got {pixels!r}")
    source = source_of(model, path)
    if labels is not None:
        check_names(labels)
    chosen = scheme or ("float32" if calibration is None else "int8")
    check(source, path, chosen, calibration, keep_float)
    values = None if calibration is None else PIXELS[pixels](calibration)
    try:
        with quiet():
            content = source.convert(model, chosen, values, keep_float)
            if labels is not None:
                content = labelled(content, path.suffix, labels, pixels)
    except EdgelabError:
        raise
    except Exception as error:
        raise EdgelabError(f"{path.name}: the model cannot be converted ({first_line(error)})") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return load(path, pixels=pixels)
