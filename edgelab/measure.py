"""Measuring a model file: accuracy with its interval, size and work, gathered in one ledger record."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from statistics import NormalDist

import numpy as np

from edgelab import provenance
from edgelab.artifact import Artifact, Opened
from edgelab.data import Dataset, Split
from edgelab.energy import estimate, relative_energy
from edgelab.errors import EdgelabError
from edgelab.latency import measure_latency
from edgelab.layers import LayerTable, layer_table
from edgelab.ledger import Record
from edgelab.memory import peak_activations

CONFIDENCE = 0.95
MOST_CORES = 8  # each has its own copy of the network
FEW, BRIEFLY = 500, 0.1  # test images; seconds of latency where there are fewer
PIECE = 256  # images that are measured at a time: who interrupts waits for them


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `n` images, as the share `value`, with its 95 % Wilson interval from `low` to `high`, all 0..1."""

    correct: int
    n: int
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Such as "81.30 % (95 % interval 80.53 to 82.05), 8130 of 10000"."""
        low, high = f"{100 * self.low:.2f}", f"{100 * self.high:.2f}"
        return f"{100 * self.value:.2f} % (95 % interval {low} to {high}), {self.correct} of {self.n}"


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95 % score interval (low, high) of the share `correct` / `n`.

    Unlike the textbook's normal interval it stays within 0..1 and keeps its promise near both ends and for small n.
    After Wilson 1927, J. Am. Stat. Assoc. 22:209-212; recommended by Brown, Cai and DasGupta 2001, Stat. Sci. 16:101.
    Raises EdgelabError unless 0 <= correct <= n and n >= 1.
    """
    if not 0 <= correct <= n or n < 1:
        raise EdgelabError(f"expected 0 <= correct <= n and n >= 1, got correct={correct} and n={n}")
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == n else centre + half)


_ANSWERED: dict[str, np.ndarray] = {}  # by what was asked; a chapter asks for a file's accuracy, and compares it later


def predictions(artifact: Artifact, split: Split) -> np.ndarray:
    """The class the file gives every image of `split`, int64 (n,), with a progress bar.

    Every core runs its images one at a time, or as many as the file itself takes at once: neither changes an answer.
    A process that asks again for the same file and images gets the same answer from memory.
    Raises EdgelabError where there are no images, or the images or the number of classes do not fit the file.
    """
    asked = _identity(artifact, split)
    if asked not in _ANSWERED:
        _ANSWERED[asked] = _run(artifact, split)
    return _ANSWERED[asked].copy()


def _identity(artifact: Artifact, split: Split) -> str:
    """A hash over everything the answers depend on: the file, how it is run, and the images."""
    about = (artifact.format, artifact.threads, artifact.pixels, split.images.shape, split.labels.max(initial=-1))
    digest = hashlib.sha256(f"{about}".encode())
    digest.update(artifact.path.read_bytes())
    digest.update(np.ascontiguousarray(split.images).data)
    return digest.hexdigest()


def _run(artifact: Artifact, split: Split) -> np.ndarray:
    """On every core: each has the file loaded for itself, and takes the next images that nobody has."""
    from tqdm import tqdm

    if not len(split):
        raise EdgelabError(f"there are no images to measure {artifact.path.name} on")
    first = artifact.opened()
    step = first.batch * math.ceil(PIECE / first.batch)
    starts = range(0, len(split), step)
    workers = min(len(starts), max(1, min(os.cpu_count() or 1, MOST_CORES) // artifact.threads))
    free: SimpleQueue[Opened] = SimpleQueue()
    for file in [first, *(artifact.opened() for _ in range(workers - 1))]:
        free.put(file)

    def classes(start: int) -> np.ndarray:
        file = free.get()
        try:
            return np.concatenate(list(file.stream(split.images[start : start + step])))
        finally:
            free.put(file)

    predicted: list[np.ndarray] = []
    bar = tqdm(desc=f"measuring {artifact.path.name}", total=len(split), unit="image", leave=False)
    with bar, ThreadPoolExecutor(workers) as pool:
        for logits in pool.map(classes, starts):
            if split.labels.max() >= logits.shape[1]:
                known = int(split.labels.max()) + 1
                raise EdgelabError(f"{artifact.path.name} knows {logits.shape[1]} classes, the images have {known}")
            predicted.append(logits.argmax(1))
            bar.update(len(logits))
    return np.concatenate(predicted).astype(np.int64)


def accuracy(artifact: Artifact, split: Split) -> Accuracy:
    """How many images of `split` the file classifies correctly; raises EdgelabError where `predictions` does."""
    return score(predictions(artifact, split), split.labels)


def score(predicted: np.ndarray, labels: np.ndarray) -> Accuracy:
    """How many of the `predicted` classes are right by the `labels`: integers (n,) both, n >= 1."""
    correct = int((predicted == labels).sum())
    return Accuracy(correct, len(labels), correct / len(labels), *wilson(correct, len(labels)))


def sizes(path: Path) -> tuple[int, int]:
    """Bytes of the file on disk, and of the file compressed with gzip at level 9 without a time stamp."""
    content = path.read_bytes()
    return len(content), len(gzip.compress(content, compresslevel=9, mtime=0))


def image_shape(artifact: Artifact, split: Split) -> tuple[int, int, int]:
    """The shape of an image of `split` in the layout of the file's format: (H, W, C) in TFLite, (C, H, W) in ONNX."""
    height, width, channels = split.images.shape[1:]
    return (height, width, channels) if artifact.format == "tflite" else (channels, height, width)


def operand_energy(table: LayerTable) -> float:
    """The rule of thumb `energy.relative_energy` added up over the layers, each at the width it is stored in.

    A MAC has two operands, a weight and an input value; where their widths differ (int8 weights, float inputs) their
    mean is taken.
    """
    counted = (row for row in table.layers if row.weight_bits)
    return sum(
        relative_energy(
            row.effective_macs, ((row.weight_bits or 0) + (row.activation_bits or row.weight_bits or 0)) / 2
        )
        for row in counted
    )


def measure(
    artifact: Artifact, dataset: Dataset, *, chapter: str, technique: str, model: str, seed: int, train_seconds: float
) -> Record:
    """A ledger record of `artifact` on the test images of `dataset`, for `ledger.append`.

    `train_seconds` is how long making the model took. The energy is an estimate, the memory the peak of the activations
    by liveness, the latency a median with the file's own number of threads, batch 1 unless the file fixes another;
    with fewer than 500 test images, where accuracy is rough as well, from a tenth of a second, not from half of one.
    Raises EdgelabError where data and file do not go together.
    """
    score = accuracy(artifact, dataset.test)
    on_disk, compressed = sizes(artifact.path)
    shape = image_shape(artifact, dataset.test)
    table = layer_table(artifact.path, shape)
    latency = measure_latency(artifact, dataset.test.images[:1], BRIEFLY if score.n < FEW else None)
    origin = provenance.collect()
    return Record(
        chapter=chapter,
        technique=technique,
        framework=artifact.framework,
        runtime=artifact.runtime,
        model=model,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        seed=seed,
        n_test=score.n,
        accuracy=score.value,
        accuracy_low=score.low,
        accuracy_high=score.high,
        bytes=on_disk,
        gzip_bytes=compressed,
        parameters=table.parameters,
        nonzero=table.nonzero,
        macs=table.macs,
        effective_macs=table.effective_macs,
        relative_energy=round(operand_energy(table), 6),
        energy_uj=round(estimate(table).total_uj, 6) if table.macs else None,
        ram_bytes=peak_activations(artifact.path, shape).bytes,
        latency_ms=round(latency.median_ms, 6),
        latency_on=latency.on,
        versions=origin["versions"],
        commit=origin["commit"] or "unknown",
        machine=origin["machine"],
        wall_s=round(train_seconds, 3),
        when=origin["when"],
    )
