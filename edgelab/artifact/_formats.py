"""What running and saving model files share: which file is which, and silence while others print."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from edgelab.errors import EdgelabError


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what converters and runtimes print, also what they print from C++; errors are raised as ever."""
    sys.stderr.flush()
    kept, nowhere, level = os.dup(2), os.open(os.devnull, os.O_WRONLY), logging.root.manager.disable
    try:
        os.dup2(nowhere, 2)
        logging.disable(logging.WARNING)
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def check_suffix(path: Path) -> None:
    """Raise EdgelabError unless `path` ends in .tflite or .onnx."""
    if path.suffix.lower() not in (".tflite", ".onnx"):
        raise EdgelabError(f"expected a model file ending in .tflite or .onnx, got {path.name!r}")


ONNX_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:\s*)?")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened to 160 characters, or its type where it has none.

    What ONNX Runtime puts before every message is left out.
    """
    message = ONNX_PREFIX.sub("", str(error))
    return next((line.strip() for line in message.splitlines() if line.strip()), type(error).__name__)[:160]


def framework_of(model: object) -> str:
    """`torch` for a torch module, `keras` for a tf_keras or Keras model, else the empty string; imports neither."""
    roots = {cls.__module__.split(".")[0]: cls.__name__ for cls in type(model).__mro__[:-1]}
    if "torch" in roots and hasattr(model, "named_modules"):
        return "torch"
    return "keras" if roots.keys() & {"tf_keras", "keras"} and hasattr(model, "layers") else ""
