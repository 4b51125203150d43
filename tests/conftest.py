"""What all tests share: one thread, a quiet TensorFlow, a cache of their own and small data sets."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgelab import data

for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[variable] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache or ledger."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGELAB_CACHE", str(folder))
    monkeypatch.delenv("EDGELAB_LEDGER", raising=False)
    return folder


def dataset_of(images: np.ndarray, labels: np.ndarray, name: str) -> data.Dataset:
    """A Dataset from images in order: the last fifth is the test split, a tenth of the rest is the validation split."""
    cut = len(images) * 4 // 5
    train, test = data.Split(images[:cut], labels[:cut]), data.Split(images[cut:], labels[cut:])
    kept, held = data.stratified_holdout(train.labels, data.VALIDATION_SHARE)
    class_names = tuple(str(c) for c in np.unique(labels))
    parts = (data.Split(train.images[i], train.labels[i]) for i in (kept, held))
    return data.Dataset(name, *parts, test, class_names, data.fingerprint(train, test, class_names))


@pytest.fixture(scope="session")
def digits() -> data.Dataset:
    """All handwritten digits of scikit-learn, 32x32 RGB: real images, ten classes."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = (images.reshape(-1, 8, 8) * 15.9).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    return dataset_of(np.repeat(grey[..., None], 3, 3), labels.astype(np.int64), "digits")


@pytest.fixture(scope="session")
def tiny() -> data.Dataset:
    """80 noisy images of two classes that differ in brightness: an epoch takes a fraction of a second."""
    rng = np.random.default_rng(0)
    labels = np.arange(80, dtype=np.int64) % 2
    images = rng.integers(0, 156, (80, 32, 32, 3)) + 100 * labels[:, None, None, None]
    return dataset_of(images.astype(np.uint8), labels, "tiny")
