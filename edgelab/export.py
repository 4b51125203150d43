"""From a trained checkpoint to a model file that has been checked: `edgelab export`.

The file gives the network's own answers on held-out images or there is no file. The class names and what the pixels are
to become are written into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgelab import artifact, data, weights, zoo
from edgelab.artifact import Artifact
from edgelab.data import Dataset, Split
from edgelab.errors import EdgelabError
from edgelab.files import atomic_path
from edgelab.zoo import Checkpoint

FORMATS = ("tflite", "onnx")
CALIBRATION = 200  # training images that the ranges of the activations are read from
CHECKED = 500
LEAST = {False: 0.995, True: 0.9}  # of int8 or not
CLOSE = 1e-3
DIGITS = 4  # of a hash that tell files of one name apart


@dataclass(frozen=True)
class Exported:
    """A model file and what its check has found.

    `form` says what goes in and out, `agreeing` how many of `checked` validation images of the data set `data` the file
    and the network of the checkpoint `key` put into the same class, `largest` the largest difference of two logits as
    a share of the logits' range, `right` and `right_before` how many of the images file and network get right.
    """

    file: Artifact
    key: str
    form: str
    bytes: int
    data: str
    agreeing: int
    checked: int
    largest: float
    right: int
    right_before: int

    def in_words(self) -> str:
        """A few lines to read."""
        share = f"{self.agreeing} of {self.checked} validation images of {self.data}"
        lines = [
            f"{self.file.path}: {self.bytes:,} bytes, {self.form}, class names inside",
            f"made from   {self.key}",
            f"agreement   {100 * self.agreeing / self.checked:.1f} %: the same class as the checkpoint for {share}",
            f"logits      differ by up to {100 * self.largest:.2g} % of their range",
        ]
        if self.key.find(f"-{self.data}-") > 0:
            lines.append(f"right       {self.right} of these images, the checkpoint {self.right_before}")
        else:
            lines.append(f"note        checked on {self.data}: the images it was trained on are not on this machine")
        return "\n".join(lines)


def find(name_or_path: str) -> Path:
    """The checkpoint's file: a path, or the name of one that comes with edgelab.

    A name is a file's without suffix, or how it begins, such as ds_cnn or resnet8-qat. Where several begin so, it is
    the one that was trained from scratch with the lowest seed. Raises EdgelabError, which lists short names that are
    understood, where there is none, or several remain.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix == ".safetensors" or path.is_file():
        return path
    known = sorted(zoo.KEPT.glob("*.safetensors"))
    found = _matching(name_or_path, known)
    if len(found) > 1:
        found = _from_scratch(found)[:1] or found
    if len(found) == 1:
        return found[0]
    if found:
        several = f"{name_or_path!r} begins the name of several checkpoints"
        raise EdgelabError(f"{several}: expected one of {', '.join(_short_names(found, known))}")
    related = [file for file in known if _model(file) == name_or_path.split("-")[0]]
    names = ", ".join(_short_names(related or known, known))
    raise EdgelabError(f"there is no checkpoint {name_or_path!r}: expected a .safetensors file or one of {names}")


def _matching(name: str, files: Sequence[Path]) -> list[Path]:
    """The file of that name, else those whose names begin with it, whole words first."""
    for fits in (name.__eq__, lambda stem: stem.startswith(f"{name}-"), lambda stem: stem.startswith(name)):
        if found := [file for file in files if fits(file.stem)]:
            return found
    return []


def _from_scratch(files: Sequence[Path]) -> list[Path]:
    """Those of the `files` that stand on no other network, by seed."""
    abouts = {file: weights.load(file)[1] for file in files}
    scratch = [file for file in files if "origin" not in abouts[file]]
    return sorted(scratch, key=lambda file: abouts[file]["recipe"]["seed"])


def _model(file: Path) -> str:
    return file.stem.split("-")[0]


def _short_names(files: Sequence[Path], known: Sequence[Path]) -> list[str]:
    """What `find` takes for each of the `files` among all that are `known`: as few words of the name as will do."""
    first = {_model(file): file for file in reversed(_from_scratch(known))}
    return [_model(file) if first.get(_model(file)) == file else _beginning(file, known) for file in files]


def _beginning(file: Path, known: Sequence[Path]) -> str:
    """The first words of the file's name that no other has, with a few digits of its hash where these are all alike."""
    *words, digest = file.stem.split("-")
    beginnings = ["-".join(words[:count]) for count in range(1, len(words) + 1)]
    beginnings.append(f"{beginnings[-1]}-{digest[:DIGITS]}")
    return next((name for name in beginnings if _matching(name, known) == [file]), file.stem)


def by_name(name: str, path: Path, to: str | None = None, *, int8: bool = False, images: str | None = None) -> Exported:
    """`export` of the checkpoint that `find` finds, in the format `to`; a `path` without a suffix gets that one.

    `images` is where those it was trained on are. Raises EdgelabError as `export` does, and for another format.
    """
    if to not in (None, *FORMATS):
        raise EdgelabError(f"expected --to tflite or onnx, got {to!r}")
    if to and not path.suffix:
        path = path.with_suffix(f".{to}")
    artifact.check_suffix(path)
    if to and path.suffix.lower() != f".{to}":
        raise EdgelabError(f"expected a file that ends in .{to}, got {path.name!r}")
    checkpoint = zoo.load(find(name))
    return export(checkpoint, path, int8=int8, dataset=dataset_for(checkpoint, int8, images))


def export(checkpoint: Checkpoint, path: Path | str, *, int8: bool = False, dataset: Dataset | None = None) -> Exported:
    """Write the network of `checkpoint` to `path`, a .tflite or .onnx file, and check it on held-out images.

    `int8` calibrates with training images and quantizes everything; the .tflite file then takes and gives int8, the
    .onnx file float32. The check is done on validation images. Both are from `dataset`, else from `dataset_for` the
    checkpoint. What was at `path` stays until the new file has passed.

    Raises EdgelabError where the checkpoint cannot be restored, its data are not here, or the file does not give the
    network's answers: the same class for 99.5 % of the images and logits within a thousandth of their range for
    float32, for int8 the same class for 90 %.
    """
    path = Path(path)
    artifact.check_suffix(path)
    dataset = dataset or dataset_for(checkpoint, int8)
    model, logits = _restored(checkpoint, path.suffix.lower())
    calibration = _sample(dataset.train, CALIBRATION).images if int8 else None
    with TemporaryDirectory() as folder:
        made = artifact.save(model, Path(folder, path.name), calibration, labels=checkpoint.meta["class_names"])
        held_out = _sample(dataset.validation, CHECKED)
        form = _form(made, int8)
        found = _compared(made, held_out, logits(model, held_out.images))
        if found["agreeing"] < LEAST[int8] * len(held_out) or (not int8 and found["largest"] > CLOSE):
            raise EdgelabError(
                f"{path.name} answers otherwise than {checkpoint.key}: the same class for {found['agreeing']} "
                f"of {len(held_out)} images, logits apart by up to {100 * found['largest']:.2g} % of their range; "
                "nothing was written"
            )
        with atomic_path(path) as temporary:
            temporary.write_bytes(made.path.read_bytes())
    return Exported(artifact.load(path), checkpoint.key, form, path.stat().st_size, dataset.name, **found)


def dataset_for(checkpoint: Checkpoint, int8: bool, name_or_path: str | None = None) -> Dataset:
    """The data set the checkpoint was trained on, looked for under its name or `name_or_path`, never downloaded.

    To check a float32 file any images will do: the handwritten digits stand in for a data set that is not here. For
    `int8` that raises EdgelabError, and so do other images than the checkpoint's at `name_or_path`.
    """
    from edgelab import _cifar

    name = name_or_path or checkpoint.data
    try:
        if name.startswith("cifar10") and not _cifar.is_here():
            raise EdgelabError(f"{name} is not here: name its folder in EDGELAB_DATA")
        found = data.load(name)
        if found.fingerprint == checkpoint.meta["data_fingerprint"]:
            return found
        raise EdgelabError(f"{checkpoint.key} was trained on other images than this {name}")
    except EdgelabError as error:
        if name_or_path:
            raise
        if int8:
            raise EdgelabError(f"int8 needs training images of {name} for its calibration: {error}") from error
    return data.load("digits")


def _sample(split: Split, n: int) -> Split:
    chosen = data.stratified_sample(split.labels, n)
    return Split(split.images[chosen], split.labels[chosen])


def _restored(checkpoint: Checkpoint, suffix: str) -> tuple[Any, Callable[[Any, np.ndarray], np.ndarray]]:
    """The network in the framework that writes files of this suffix, and what gives its logits."""
    track = "tensorflow" if suffix == ".tflite" else "pytorch"
    with artifact.quiet():
        pruning, train = (import_module(f"edgelab.{track}.{name}") for name in ("pruning", "train"))
        return pruning.restore(checkpoint), train.logits


def _form(file: Artifact, int8: bool) -> str:
    """What goes in and out of the file. Raises EdgelabError where an int8 .tflite file takes or gives anything else."""
    source, result = file.ports()
    if file.format == "onnx":
        import onnx

        onnx.checker.check_model(file.path, full_check=True)
        opset = next(entry.version for entry in onnx.load(file.path).opset_import if not entry.domain)
        inside = ", int8 inside" if int8 else ""
        return f"{source.dtype} in and {result.dtype} out{inside}, opset {opset}, passes the ONNX checker"
    if int8 and {source.dtype, result.dtype} != {np.dtype(np.int8)}:
        raise EdgelabError(f"{file.path.name}: expected int8 in and out, got {source.dtype} and {result.dtype}")
    return f"{source.dtype} in and {result.dtype} out"


def _compared(file: Artifact, split: Split, expected: np.ndarray) -> dict[str, Any]:
    """The fields of `Exported` that say how the answers of `file` differ from the logits `expected`."""
    got = file.predict(split.images)
    answers, before = got.argmax(1), expected.argmax(1)
    return {
        "agreeing": int((answers == before).sum()),
        "checked": len(split),
        "largest": float(np.abs(got - expected).max() / max(float(np.ptp(expected)), 1e-9)),
        "right": int((answers == split.labels).sum()),
        "right_before": int((before == split.labels).sum()),
    }
