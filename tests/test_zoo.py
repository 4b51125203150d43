"""The zoo: a network is trained once, kept, found again, and never taken for another."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import same

from edgelab import weights, zoo
from edgelab.data import Dataset, Split
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe

RECIPE = Recipe(epochs=3, batch=16, peak_rate=0.05, crop=1)
ONE = replace(RECIPE, epochs=1)


@pytest.fixture(autouse=True)
def no_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the checkpoints that come with edgelab."""
    monkeypatch.setattr(zoo, "KEPT", tmp_path / "kept")
    return tmp_path / "kept"


@pytest.fixture
def checkpoint(tiny: Dataset) -> zoo.Checkpoint:
    """An untrained network passed off as trained: enough where only keeping and finding are tested."""
    from edgelab.pytorch import models

    arrays = models.to_arrays(models.build("resnet8", 2))
    history = [{"epoch": 1, "loss": 0.5, "validation_accuracy": 0.75, "seconds": 0.1}]
    return zoo.Checkpoint("resnet8", tiny.name, ONE, arrays, history, {"data_fingerprint": tiny.fingerprint})


@pytest.fixture
def untrainable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever trains fails."""
    monkeypatch.setattr(zoo, "_train", None)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("edgelab")]


def test_key_tells_everything_apart() -> None:
    """Readable, safe as a file name, and another one for any other model, data or recipe."""
    key = zoo.key("resnet8", "cifar10", RECIPE)
    assert key.startswith("resnet8-cifar10-seed0-")
    assert key == zoo.key("resnet8", "cifar10", Recipe(epochs=3, batch=16, peak_rate=0.05, crop=1))
    others = [zoo.key("ds_cnn", "cifar10", RECIPE), zoo.key("resnet8", "digits", RECIPE)]
    others += [zoo.key("resnet8", "cifar10", replace(RECIPE, **change)) for change in ({"seed": 1}, {"flip": False})]
    assert len({key, *others}) == 5
    assert "/" not in zoo.key("resnet8", "../my photos", RECIPE)


def test_the_keys_of_what_is_published_stay() -> None:
    """A network trained from scratch is found under the name it was kept under before there were techniques."""
    folder = Path(zoo.__file__).parent / "checkpoints"
    published = [zoo.load(path) for path in sorted(folder.glob("*.safetensors"))]
    assert {"plain_cnn", "resnet8", "ds_cnn"} <= {c.model for c in published if c.origin is None}
    assert [c.key for c in published] == [path.stem for path in sorted(folder.glob("*.safetensors"))]


def test_what_a_technique_made_is_another_checkpoint(checkpoint: zoo.Checkpoint) -> None:
    """Technique, framework and start tell it apart; the name says what it is."""
    origin = zoo.Origin("magnitude_pruning_50", "pytorch", checkpoint.key)
    key = zoo.key("resnet8", "tiny", ONE, origin)
    assert key.startswith("resnet8-magnitude_pruning_50-pytorch-tiny-seed0-")
    changes = ({"technique": "baseline"}, {"framework": "tensorflow"}, {"start": "another"})
    assert len({key, checkpoint.key, *(zoo.key("resnet8", "tiny", ONE, replace(origin, **c)) for c in changes)}) == 5


def test_made_once_then_found(checkpoint: zoo.Checkpoint, tiny: Dataset, own_cache: Path, no_kept: Path) -> None:
    """Weights come back as coarse as they are kept, from the first time on; seconds add up."""
    start = replace(checkpoint, meta={**checkpoint.meta, "train_seconds": 5.0})
    calls: list[Path] = []

    def make(state_path: Path) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
        state_path.write_bytes(b"half done")
        calls.append(state_path)
        return start.arrays, [{"epoch": 1, "loss": 0.1, "validation_accuracy": 1.0, "seconds": 2.0}]

    made = zoo.load_or_make(start, "distillation", "tensorflow", tiny, ONE, make)
    again = zoo.load_or_make(start, "distillation", "tensorflow", tiny, ONE, make)
    assert calls == [own_cache / "training" / f"{made.key}.state"] and not calls[0].exists()
    assert same(made.arrays, weights.coarse(start.arrays)) and same(again.arrays, made.arrays)
    assert again.origin == made.origin == zoo.Origin("distillation", "tensorflow", start.key)
    assert again.meta["train_seconds"] == 7.0
    zoo.keep(made, no_kept)
    (own_cache / "checkpoints" / f"{made.key}.safetensors").unlink()
    assert same(zoo.load_or_make(start, "distillation", "tensorflow", tiny, ONE, make).arrays, made.arrays)
    zoo.load_or_make(start, "distillation", "tensorflow", tiny, ONE, make, kept=False)
    assert len(calls) == 2


def test_a_start_on_other_images_is_refused(checkpoint: zoo.Checkpoint, tiny: Dataset) -> None:
    line = rf"^{checkpoint.key} was trained on other images than this tiny: load those$"
    with pytest.raises(EdgelabError, match=line):
        zoo.load_or_make(checkpoint, "x", "pytorch", replace(tiny, fingerprint="other"), ONE, lambda path: None)


def test_train_once_then_load(tiny: Dataset, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call reads what the first one wrote; the training state is gone."""
    first = zoo.load_or_train("resnet8", tiny, RECIPE)
    monkeypatch.setattr(zoo, "_train", None)
    second = zoo.load_or_train("resnet8", tiny, RECIPE)
    assert same(first.arrays, second.arrays)
    assert (second.model, second.data, second.recipe, second.history) == ("resnet8", "tiny", RECIPE, first.history)
    assert second.meta == first.meta
    assert second.meta["data_fingerprint"] == tiny.fingerprint
    assert second.meta["class_names"] == ["0", "1"]
    assert second.meta["train_seconds"] == sum(row["seconds"] for row in first.history) > 0
    assert {"versions", "commit", "machine", "when"} <= second.meta.keys()
    name = zoo.key("resnet8", "tiny", RECIPE)
    assert [p.name for p in (own_cache / "checkpoints").iterdir()] == [f"{name}.safetensors"]
    assert not list((own_cache / "training").glob("*.state"))


@pytest.mark.usefixtures("untrainable")
def test_kept_comes_before_the_cache(checkpoint: zoo.Checkpoint, tiny: Dataset, no_kept: Path, own_cache: Path) -> None:
    """edgelab's own checkpoint is used unless the caller does not want it."""
    assert zoo.find("resnet8", tiny, ONE) is None
    path = zoo.keep(checkpoint, no_kept)
    assert path == no_kept / f"{zoo.key('resnet8', 'tiny', ONE)}.safetensors"
    assert zoo.find("resnet8", tiny, ONE, kept=False) is None
    assert same(zoo.load_or_train("resnet8", tiny, ONE).arrays, checkpoint.arrays)
    zoo.keep(replace(checkpoint, meta={**checkpoint.meta, "from": "cache"}), own_cache / "checkpoints")
    assert "from" not in zoo.find("resnet8", tiny, ONE).meta
    assert zoo.load_or_train("resnet8", tiny, ONE, kept=False).meta["from"] == "cache"


def test_a_checkpoint_of_other_images_is_not_used(
    checkpoint: zoo.Checkpoint, tiny: Dataset, no_kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Same name, other pixels: one line says so."""
    path = zoo.keep(checkpoint, no_kept)
    assert zoo.find("resnet8", replace(tiny, fingerprint="another"), ONE) is None
    assert lines(caplog) == [f"{path} was trained on other images than this tiny: it is not used"]


def test_a_checkpoint_under_another_name_is_refused(checkpoint: zoo.Checkpoint, tiny: Dataset, no_kept: Path) -> None:
    """A renamed file would pass for another recipe."""
    path = zoo.keep(checkpoint, no_kept)
    path.rename(no_kept / f"{zoo.key('resnet8', 'tiny', RECIPE)}.safetensors")
    with pytest.raises(EdgelabError, match=rf"holds {path.stem}, not what its name says"):
        zoo.find("resnet8", tiny, RECIPE)


def test_damage_in_the_cache_is_trained_anew(
    checkpoint: zoo.Checkpoint, tiny: Dataset, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line names the file; afterwards the file is whole again."""
    path = zoo.keep(checkpoint, own_cache / "checkpoints")
    path.write_bytes(path.read_bytes()[:-100])
    trained = zoo.load_or_train("resnet8", tiny, ONE)
    (line,) = lines(caplog)
    assert line.startswith(f"not used: {path} is damaged")
    assert same(zoo.load(path).arrays, trained.arrays)


def test_damage_in_what_came_with_edgelab_is_an_error(checkpoint: zoo.Checkpoint, tiny: Dataset, no_kept: Path) -> None:
    """Weights changed by hand, with the file otherwise in order: the line names the file."""
    path = zoo.keep(checkpoint, no_kept)
    content = path.read_bytes()
    path.write_bytes(content[:-4] + np.float32(3).tobytes())
    with pytest.raises(EdgelabError, match=rf"^{path} was changed after it was written \(SHA-256 differs\)"):
        zoo.load_or_train("resnet8", tiny, ONE)


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    """A recipe with an unknown field, and weights that say nothing."""
    about = {"model": "m", "data": "d", "history": [], "meta": {"data_fingerprint": ""}}
    weights.save(tmp_path / "newer", {}, {**about, "recipe": {"epochs": 1, "mixup": 0.2}})
    weights.save(tmp_path / "bare", {}, {})
    for name, problem in (("newer", "mixup"), ("bare", "'meta'")):
        with pytest.raises(
            EdgelabError, match=rf"{name} is not a checkpoint this version of edgelab reads \(.*{problem}"
        ):
            zoo.load(tmp_path / name)


def test_what_cannot_be_trained_is_refused(tiny: Dataset) -> None:
    """An unknown model, and images of another size."""
    with pytest.raises(EdgelabError, match=r"^unknown model 'vgg'"):
        zoo.load_or_train("vgg", tiny, ONE)
    large = replace(tiny, train=Split(np.zeros((2, 48, 64, 3), np.uint8), np.arange(2)))
    with pytest.raises(EdgelabError, match=r"32x32x3 images, got 48x64x3: load the data with image_size=32$"):
        zoo.load_or_train("resnet8", large, ONE)


COUNT_EPOCHS = """
import os, signal
from support import tiny_dataset
from edgelab import zoo
from edgelab.pytorch import train
from test_zoo import RECIPE
epochs = []
def counted(*arguments, original=train._epoch):
    epochs.append(arguments[-1])
    if len(epochs) == {kill_in}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
train._epoch = counted
checkpoint = zoo.load_or_train("resnet8", tiny_dataset(), RECIPE, kept=False)
print(epochs, float(checkpoint.arrays["fc.bias"].sum()))
"""


def test_of_two_processes_one_trains(start_python: Callable[[str], subprocess.Popen]) -> None:
    """Started together, they train three epochs in all and end with the same weights."""
    both = [start_python(COUNT_EPOCHS.format(kill_in=0)) for _ in range(2)]
    outputs = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    epochs, sums = zip(*(out.strip().split("] ") for out, _ in outputs), strict=True)
    assert sorted(epochs) == ["[", "[0, 1, 2"]
    assert sums[0] == sums[1]


def test_kill_loses_no_finished_epoch(
    tiny: Dataset, own_cache: Path, monkeypatch: pytest.MonkeyPatch, start_python: Callable[[str], subprocess.Popen]
) -> None:
    """SIGKILL within the third epoch; the next call trains that one only and equals an undisturbed run."""
    from edgelab.pytorch import train

    killed = start_python(COUNT_EPOCHS.format(kill_in=3))
    _, errors = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, errors
    epochs, original = [], train._epoch
    monkeypatch.setattr(train, "_epoch", lambda *given: epochs.append(given[-1]) or original(*given))
    resumed = zoo.load_or_train("resnet8", tiny, RECIPE)
    assert epochs == [2]
    monkeypatch.setenv("EDGELAB_CACHE", str(own_cache.with_name("another")))
    undisturbed = zoo.load_or_train("resnet8", tiny, RECIPE)
    assert same(resumed.arrays, undisturbed.arrays)
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in undisturbed.history]


def test_waiting_is_announced(
    checkpoint: zoo.Checkpoint, tiny: Dataset, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While another holds the lock, one line says why nothing happens; its checkpoint is then loaded."""
    import threading

    from filelock import FileLock

    name = zoo.key("resnet8", "tiny", ONE)
    lock = own_cache / "training" / f"{name}.lock"
    lock.parent.mkdir(parents=True)
    found: list[zoo.Checkpoint] = []
    with FileLock(lock, thread_local=False):
        waiting = threading.Thread(target=lambda: found.append(zoo.load_or_train("resnet8", tiny, ONE)))
        waiting.start()
        deadline = time.monotonic() + 30
        while not lines(caplog) and time.monotonic() < deadline:
            time.sleep(0.01)
        zoo.keep(checkpoint, own_cache / "checkpoints")
    waiting.join(30)
    assert lines(caplog) == [f"another process trains {name}: waiting for it"]
    assert same(found[0].arrays, checkpoint.arrays)
