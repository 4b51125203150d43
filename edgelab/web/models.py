"""The model files that the book's page in_your_browser runs, and the list that says what they are.

`python -m edgelab.web.models` makes both again in book/_static/models/ from the kept checkpoints and the training
images of CIFAR-10, and measures every file on all test images.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgelab.errors import EdgelabError
from edgelab.files import atomic_path, file_hash
from edgelab.pruning import Magnitude

if TYPE_CHECKING:
    import pandas as pd

    from edgelab.artifact import Artifact
    from edgelab.data import Dataset
    from edgelab.pruning import Plan
    from edgelab.zoo import Checkpoint

PLACE = Path("book", "_static", "models")
LIST = "models.json"
MODEL = "resnet8"
CALIBRATION = 200
Source = Callable[["Dataset"], "tuple[Checkpoint, np.ndarray | None]"]
"""From the data to a checkpoint and, where the file is to be int8, the images to calibrate with."""


@dataclass(frozen=True)
class Shipped:
    """A model file of the page and all that is said about it; `measured` tells where the accuracy is from.

    `accuracy` and its 95 % interval are shares of the `n_test` test images of `data`. `bytes` and `sha256` are those of
    the file with class names, which a chapter's file does not carry; `checkpoint_sha256` is "" for one not kept.
    """

    file: str
    label: str
    about: str
    technique: str
    model: str
    bytes: int
    gzip_bytes: int
    sha256: str
    checkpoint: str
    checkpoint_sha256: str
    macs: int
    data: str
    n_test: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    measured: str


@dataclass(frozen=True)
class Wanted:
    """A model file to make: its name, what the page calls it and says about it, and what it is made from."""

    name: str
    label: str
    about: str
    technique: str
    source: Source


def _trained(dataset: Dataset) -> Checkpoint:
    from edgelab import profiles, zoo

    return zoo.load_or_train(MODEL, dataset, profiles.get("zoo").recipes[MODEL])


def _pruned(dataset: Dataset, plan: Plan) -> Checkpoint:
    """The trained network pruned by `plan` and trained on, as chapter 2 does it."""
    from edgelab import profiles
    from edgelab.pruning import Channels
    from edgelab.pytorch import pruning

    settings = profiles.get("zoo")
    recipe = (settings.retraining if isinstance(plan, Channels) else settings.fine_tuning)[MODEL]
    return pruning.load_or_prune(_trained(dataset), plan, dataset, recipe)


def _calibration(dataset: Dataset) -> np.ndarray:
    """The training images that chapters 6 and 12 calibrate with too."""
    chosen = np.random.default_rng(0).choice(len(dataset.train), CALIBRATION, replace=False)
    return dataset.train.images[np.sort(chosen)]


WANTED = (
    Wanted("resnet8-fp32", "float32", "as it was trained", "baseline", lambda data: (_trained(data), None)),
    Wanted(
        "resnet8-int8",
        "int8",
        "weights and activations in 8 bits, by post-training quantization",
        "ptq_int8",
        lambda data: (_trained(data), _calibration(data)),
    ),
    Wanted(
        "resnet8-pruned",
        "pruned",
        "four of five weights set to zero, the rest trained on; float32",
        "magnitude_pruning_80",
        lambda data: (_pruned(data, Magnitude(0.8)), None),
    ),
)


def make(root: Path, dataset: Dataset, wanted: tuple[Wanted, ...] = WANTED) -> list[Shipped]:
    """Write the `wanted` files and the list of them into the tree at `root`. Raises EdgelabError as `zoo` does."""
    folder = root / PLACE
    shipped = [_made(folder, each, dataset, root / "book" / "results" / "ledger.csv") for each in wanted]
    about = {"classes": list(dataset.class_names), "models": [asdict(each) for each in shipped]}
    with atomic_path(folder / LIST) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return shipped


def _made(folder: Path, wanted: Wanted, dataset: Dataset, ledger_path: Path) -> Shipped:
    from edgelab import artifact, labels, ledger, measure, zoo
    from edgelab.pytorch import pruning

    checkpoint, calibration = wanted.source(dataset)
    file = artifact.save(pruning.restore(checkpoint), folder / f"{wanted.name}.onnx", calibration)
    frame = ledger.read(ledger_path) if ledger_path.is_file() else None
    measured = _measured(file, wanted.technique, checkpoint.model, dataset, frame)
    labels.write(file.path, dataset.class_names)
    size, gzipped = measure.sizes(file.path)
    kept = zoo.path_of(checkpoint)
    return Shipped(
        file=file.path.name,
        label=wanted.label,
        about=wanted.about,
        technique=wanted.technique,
        model=checkpoint.model,
        checkpoint=checkpoint.key,
        checkpoint_sha256=file_hash(kept) if kept else "",
        bytes=size,
        gzip_bytes=gzipped,
        sha256=file_hash(file.path),
        **measured,
    )


def _measured(
    file: Artifact, technique: str, model: str, dataset: Dataset, frame: pd.DataFrame | None
) -> dict[str, Any]:
    """Work and accuracy of `file`, which has no class names yet, and whether a chapter has measured this very file."""
    from edgelab import measure
    from edgelab.layers import layer_table

    found = measure.accuracy(file, dataset.test)
    size, gzipped = measure.sizes(file.path)
    same = {"technique": technique, "model": model, "framework": "pytorch", "bytes": size, "gzip_bytes": gzipped}
    same |= {"accuracy": found.value, "data_fingerprint": dataset.fingerprint}
    rows = [] if frame is None else frame[(frame[list(same)] == list(same.values())).all(axis=1)].to_dict("records")
    return {
        "macs": layer_table(file.path).macs,
        "data": dataset.name,
        "n_test": found.n,
        "accuracy": found.value,
        "accuracy_low": found.low,
        "accuracy_high": found.high,
        "measured": f"in chapter {rows[0]['chapter']}" if rows else f"when it was made, with {file.runtime}",
    }


def read(root: Path) -> dict[str, Any]:
    """The list of the tree at `root`: `classes` and `models`.

    Raises EdgelabError where there is none, or a file is not the one it tells of.
    """
    path = root / PLACE / LIST
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        models = [Shipped(**each) for each in about["models"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EdgelabError(f"{path} is not the list of the page's models ({error}): make them again") from error
    for each in models:
        file = root / PLACE / each.file
        if not file.is_file() or file_hash(file) != each.sha256:
            raise EdgelabError(f"{file} is missing or not the file that {LIST} tells of: make them again")
    return {"classes": about["classes"], "models": models}


def main() -> None:
    """Make the files of this tree."""
    from edgelab import course, data

    for each in make(course.find_root(), data.load("cifar10")):
        print(f"{each.file}: {each.bytes:,} bytes, accuracy {each.accuracy:.4f} on {each.data}, {each.measured}")


if __name__ == "__main__":
    main()
