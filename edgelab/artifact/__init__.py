"""Artifacts: the deployable file of a model (.tflite or .onnx) and how to run it.

A file is run the way a device would: one image at a time, on one thread, from uint8 pixels. So a result never depends
on how many images are measured together, not even for files that choose their quantization range at run time.
"""

from edgelab.artifact._formats import check_suffix, first_line, framework_of, quiet
from edgelab.artifact._metadata import RULES, Ending, Told, labelled
from edgelab.artifact._metadata import read as told
from edgelab.artifact._running import PIXELS, Artifact, ImageShape, Opened, Pixels, Port, Prepared, load
from edgelab.artifact._saving import save
from edgelab.artifact._sources import check_calibration
from edgelab.artifact._to_onnx import OPSET, TORCH_INPUT

__all__ = [
    "OPSET",
    "PIXELS",
    "RULES",
    "TORCH_INPUT",
    "Artifact",
    "Ending",
    "ImageShape",
    "Opened",
    "Pixels",
    "Port",
    "Prepared",
    "Told",
    "check_calibration",
    "check_suffix",
    "first_line",
    "framework_of",
    "labelled",
    "load",
    "quiet",
    "save",
    "told",
]
