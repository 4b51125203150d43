"""Teachers from ImageNet: features are computed once and kept, a last layer is fitted, and nobody takes random weights
for trained ones.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelab import data, teachers
from edgelab.data import Dataset
from edgelab.errors import EdgelabError
from edgelab.teachers import Backbone

RNG = np.random.default_rng(0)


class Means:
    """A backbone in a line: the mean of each channel, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.asked += len(images)
        return images.mean((1, 2)).astype(np.float32) / 255


@pytest.fixture
def means() -> Means:
    return Means()


@pytest.fixture
def backbone(means: Means) -> Backbone:
    return Backbone("means", 32, "pytorch", "imagenet", "a" * 64, None, means)


def test_features_are_computed_once(backbone: Backbone, means: Means, tiny: Dataset) -> None:
    first = teachers.features(backbone, tiny)
    assert np.array_equal(first, means(tiny.train.images).astype(np.float16))
    asked = means.asked
    assert np.array_equal(teachers.features(backbone, tiny), first)
    assert means.asked == asked


@pytest.mark.parametrize("change", ["weights", "size", "images", "split"])
def test_other_features_are_others(change: str, backbone: Backbone, means: Means, tiny: Dataset) -> None:
    teachers.features(backbone, tiny)
    asked = means.asked
    other = {"weights": replace(backbone, identity="b" * 64), "size": replace(backbone, size=64)}.get(change, backbone)
    dataset = replace(tiny, fingerprint="c" * 64) if change == "images" else tiny
    teachers.features(other, dataset, "test" if change == "split" else "train")
    assert means.asked > asked


@pytest.mark.parametrize("damage", [b"", b"garbage", "short", "nan"])
def test_damaged_features_are_computed_again(
    damage: bytes | str, backbone: Backbone, tiny: Dataset, own_cache: Path
) -> None:
    first = teachers.features(backbone, tiny)
    (path,) = (own_cache / "features").glob("*.npy")
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        np.save(path, first[:5] if damage == "short" else np.full_like(first, np.nan))
    assert np.array_equal(teachers.features(backbone, tiny), first)


def test_features_must_be_finite(backbone: Backbone, tiny: Dataset, own_cache: Path) -> None:
    broken = replace(backbone, compute=lambda images: np.full((len(images), 3), np.nan))
    with pytest.raises(EdgelabError, match="means_32 gives features that are NaN or infinite"):
        teachers.features(broken, tiny)
    assert not list((own_cache / "features").glob("*.npy"))


def test_the_last_layer_is_as_good_as_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression

    labels = np.arange(600) % 3
    values = RNG.normal(size=(600, 8)) * 10 ** RNG.uniform(-2, 2, 8) + 5
    values[np.arange(600), labels] += 1.5 * values.std(0)[labels]
    half = slice(0, 400), slice(400, 600)
    given = [(values[part].astype(np.float32), labels[part]) for part in half]
    arrays, history = teachers.fit_head(*given, 3, teachers.HEAD)
    assert arrays["fc.weight"].shape == (3, 8) and arrays["fc.bias"].shape == (3,)
    ours = (teachers.apply_head(arrays, given[1][0]).argmax(1) == given[1][1]).mean()
    scaled = [(part - values[half[0]].mean(0)) / values[half[0]].std(0) for part in (values[half[0]], values[half[1]])]
    theirs = LogisticRegression().fit(scaled[0], given[0][1]).score(scaled[1], given[1][1])
    assert ours > theirs - 0.03 > 0.7
    assert history[-1]["loss"] < history[0]["loss"]
    assert max(row["validation_accuracy"] for row in history) == ours


def test_a_teacher_is_kept_and_answers(backbone: Backbone, means: Means, tiny: Dataset) -> None:
    """Two classes that differ in brightness: the means of the channels tell them apart."""
    made = teachers.load_or_transfer(backbone, tiny)
    assert made.key.startswith("means_32-linear_head-pytorch-tiny-seed0-")
    assert teachers.is_transferred(made)
    assert teachers.parts(made) == ("means", 32, "imagenet", "a" * 16)
    asked = means.asked
    assert np.array_equal(teachers.load_or_transfer(backbone, tiny).arrays["fc.weight"], made.arrays["fc.weight"])
    answers = teachers.answers(made, backbone, tiny)
    assert means.asked == asked
    assert (answers.argmax(1) == tiny.train.labels).mean() > 0.9


def test_another_backbone_is_not_taken_for_it(backbone: Backbone, tiny: Dataset) -> None:
    made = teachers.load_or_transfer(backbone, tiny)
    with pytest.raises(EdgelabError, match=r"fitted to other weights of means .*\(untrained instead of imagenet\)"):
        teachers.answers(made, replace(backbone, identity="b" * 64, weights="untrained"), tiny)


def test_untrained_weights_are_part_of_the_key(backbone: Backbone, tiny: Dataset) -> None:
    untrained = teachers.load_or_transfer(replace(backbone, weights=teachers.UNTRAINED), tiny)
    assert teachers.parts(untrained)[2] is None
    assert untrained.key != teachers.load_or_transfer(backbone, tiny).key


@pytest.mark.parametrize("size", [0, 33, 544, 96.0, True])
def test_odd_sizes_and_names(size: object) -> None:
    with pytest.raises(EdgelabError, match="a multiple of 32 from 32 to 512, got"):
        teachers.check_backbone("a", size, {"a": None})  # type: ignore[arg-type]
    with pytest.raises(EdgelabError, match="unknown backbone 'b': choose one of a"):
        teachers.check_backbone("b", 32, {"a": None})


def test_identity_is_that_of_the_values() -> None:
    arrays = {"a": np.ones(3, np.float32), "b": np.zeros(2, np.float32)}
    assert teachers.identity(arrays) == teachers.identity(dict(reversed(arrays.items())))
    assert teachers.identity(arrays) != teachers.identity({**arrays, "b": np.ones(2, np.float32)})


def test_a_part_of_the_images_has_features_of_its_own(backbone: Backbone, digits: Dataset) -> None:
    few = data.with_fewer(digits, 50)
    assert len(teachers.features(backbone, few)) == 50
    assert len(teachers.features(backbone, digits)) == len(digits.train)
