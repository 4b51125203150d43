"""Small data sets, a model file, references and the browser that several tests use."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from edgelab import artifact, data

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
SWITCHES = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


def browser_program() -> str | None:
    """The browser that is installed, if one is."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def workers() -> list[psutil.Process]:
    """This process's children that run Python; a browser another test has started is none."""
    return [child for child in psutil.Process().children() if child.name().lower().startswith("python")]


def dataset_of(images: np.ndarray, labels: np.ndarray, name: str) -> data.Dataset:
    """A Dataset from images in order: the last fifth is the test split, a tenth of the rest is the validation split."""
    cut = len(images) * 4 // 5
    train, test = data.Split(images[:cut], labels[:cut]), data.Split(images[cut:], labels[cut:])
    kept, held = data.stratified_holdout(train.labels, data.VALIDATION_SHARE)
    class_names = tuple(str(c) for c in np.unique(labels))
    parts = (data.Split(train.images[i], train.labels[i]) for i in (kept, held))
    return data.Dataset(name, *parts, test, class_names, data.fingerprint(train, test, class_names))


def digits_dataset() -> data.Dataset:
    """All handwritten digits of scikit-learn, 32x32 RGB: real images, ten classes."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = (images.reshape(-1, 8, 8) * 15.9).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    return dataset_of(np.repeat(grey[..., None], 3, 3), labels.astype(np.int64), "digits")


def tiny_dataset(seed: int = 0) -> data.Dataset:
    """80 noisy images of two classes that differ in brightness: an epoch takes a fraction of a second."""
    rng = np.random.default_rng(seed)
    labels = np.arange(80, dtype=np.int64) % 2
    images = rng.integers(0, 156, (80, 32, 32, 3)) + 100 * labels[:, None, None, None]
    return dataset_of(images.astype(np.uint8), labels, "tiny")


def brightest(path: Path, shape: list[int | str] | None = None) -> artifact.Artifact:
    """A file whose three logits are the means of the three channels."""
    from onnx import TensorProto, helper, numpy_helper, save

    constants = [
        numpy_helper.from_array(np.eye(3, dtype=np.float32)[:, :, None, None], "w"),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
    ]
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"]),
        helper.make_node("ReduceMean", ["c", "axes"], ["logits"], keepdims=0),
    ]
    sizes = {"images": shape or ["n", 3, 32, 32], "logits": ["n", 3]}
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in sizes.items()]
    graph = helper.make_graph(nodes, "brightest", ports[:1], ports[1:], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return artifact.load(path)


def coloured(n: int, wrong: int) -> data.Split:
    """Images in which one channel is brightest; the first `wrong` labels name another."""
    labels = np.arange(n) % 3
    images = np.random.default_rng(n).integers(0, 100, (n, 32, 32, 3), dtype=np.uint8)
    images[np.arange(n), :, :, labels] += 100
    labels[:wrong] = (labels[:wrong] + 1) % 3
    return data.Split(images, labels.astype(np.int64))


def crops_of(padded: np.ndarray, size: int, crop: int) -> dict[tuple[int, int, bool], np.ndarray]:
    """Every (row, column, mirrored) crop of one padded image, cut pixel by pixel: the slow reference of `augmented`."""
    found = {}
    for row in range(2 * crop + 1):
        for column in range(2 * crop + 1):
            cut = np.stack([[padded[row + y, column + x] for x in range(size)] for y in range(size)])
            found[row, column, False] = cut
            found[row, column, True] = np.stack([line[::-1] for line in cut])
    return found


@contextmanager
def eagerly() -> Iterator[None]:
    """TensorFlow without graphs: tracing a large network takes longer than a few of its steps."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings(action="ignore"):  # that tf.data still uses graphs
            yield
    finally:
        tf.config.run_functions_eagerly(False)


def assert_drawn_anew(arrays: dict[str, np.ndarray], learnt: dict[str, np.ndarray]) -> None:
    """`arrays` have the names and shapes of `learnt`, and no layer has its weights."""
    assert {name: array.shape for name, array in arrays.items()} == {name: a.shape for name, a in learnt.items()}
    assert not any(np.array_equal(array, learnt[name]) for name, array in arrays.items() if array.ndim > 1)


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Whether two sets of weights are the same, bit for bit."""
    return first.keys() == second.keys() and all(first[k].tobytes() == second[k].tobytes() for k in first)
