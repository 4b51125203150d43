"""Profiles and recipes."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from edgelab import profiles, zoo
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe


def test_one_cycle_rises_then_falls_to_nothing() -> None:
    """From 0 straight to 1 at the end of the warm-up, then half a cosine to 0."""
    assert profiles.one_cycle(0.0) == 0.0
    assert profiles.one_cycle(0.1) == 0.5
    assert profiles.one_cycle(0.2) == 1.0
    assert profiles.one_cycle(0.6) == pytest.approx(0.5)
    assert profiles.one_cycle(1.0) == pytest.approx(0.0, abs=1e-12)
    factors = [profiles.one_cycle(p) for p in np.linspace(0.2, 1, 50)]
    assert factors == sorted(factors, reverse=True)


def test_the_best_epoch_is_the_first_of_the_highest_that_count() -> None:
    """Accuracies 0.9, 0.5, 0.5, 0.7 in four epochs: the first half does not count."""
    recipe, history, best = Recipe(epochs=4), [], []
    for score in (0.9, 0.5, 0.5, 0.7):
        best.append((profiles.is_best(score, history, recipe), profiles.is_best(score, history, recipe, 0.5)))
        history.append({"validation_accuracy": score})
    assert best == [(True, False), (False, True), (False, False), (False, True)]


def test_unknown_profile() -> None:
    """The line names the choices."""
    with pytest.raises(EdgelabError, match=r"^unknown profile 'fulll': choose one of ci, zoo, full$"):
        profiles.get("fulll")


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_a_profile_has_a_recipe_for_every_model(name: str) -> None:
    """And is called what it is found under."""
    from edgelab.pytorch.models import MODELS

    profile = profiles.get(name)
    assert profile.name == name
    assert profile.recipes.keys() == profile.fine_tuning.keys() == profile.retraining.keys() == MODELS.keys()
    for name, recipe in profile.recipes.items():
        assert profile.fine_tuning[name].epochs <= profile.retraining[name].epochs < recipe.epochs


def test_the_recipes_behind_the_published_checkpoints() -> None:
    """A changed recipe would make every kept CIFAR-10 checkpoint unfindable: change both together."""
    resnet8 = Recipe(epochs=40, peak_rate=0.2, weight_decay=2e-4, crop=2)
    ds_cnn = Recipe(epochs=30, peak_rate=0.2, weight_decay=2e-4, label_smoothing=0.05, crop=2)
    plain = Recipe(epochs=20, peak_rate=0.05, weight_decay=5e-4, label_smoothing=0.05, crop=4)
    for name in ("zoo", "full"):
        profile = profiles.get(name)
        assert profile.data == "cifar10"
        assert dict(profile.recipes) == {"plain_cnn": plain, "resnet8": resnet8, "ds_cnn": ds_cnn}
        assert dict(profile.others) == {"resnet20": Recipe(epochs=20, peak_rate=0.2, weight_decay=5e-4, crop=2)}
        assert dict(profile.fine_tuning) == {
            "plain_cnn": dataclasses.replace(plain, epochs=4, peak_rate=0.02),
            "resnet8": dataclasses.replace(resnet8, epochs=4, peak_rate=0.1),
            "ds_cnn": dataclasses.replace(ds_cnn, epochs=4, peak_rate=0.1),
        }
        assert dict(profile.retraining) == {
            "plain_cnn": dataclasses.replace(plain, epochs=10, peak_rate=0.05),
            "resnet8": dataclasses.replace(resnet8, epochs=10, peak_rate=0.1),
            "ds_cnn": dataclasses.replace(ds_cnn, epochs=10, peak_rate=0.1),
        }
    assert profiles.get("zoo").uses_kept
    assert not profiles.get("full").uses_kept


def test_an_epoch_may_look_at_fewer_images() -> None:
    usual = Recipe(epochs=1, batch=32)
    assert (usual.steps(320), usual.steps(321)) == (10, 11)
    assert [dataclasses.replace(usual, images=100).steps(available) for available in (1000, 100, 60)] == [4, 4, 2]


def test_what_is_not_set_does_not_name_a_training() -> None:
    """The names of the kept checkpoints are from before `images` and `ema`."""
    usual = Recipe(epochs=1)
    assert not usual.fields().keys() & {"images", "ema"}
    few = dataclasses.replace(usual, images=100)
    assert few.fields() == {**usual.fields(), "images": 100}
    assert zoo.key("resnet8", "digits", usual) != zoo.key("resnet8", "digits", few)
    assert Recipe(**usual.fields()) == usual and Recipe(**few.fields()) == few


@pytest.mark.parametrize("ema", [1, -0.1, float("nan"), False, "0.9"])
def test_an_average_that_cannot_be_is_refused(ema: object) -> None:
    """Also where it comes from a file; 0 leaves nothing of what was before."""
    line = f"expected ema, what a step leaves of the average, from 0 to below 1, got {ema!r}"
    with pytest.raises(EdgelabError, match=f"^{re.escape(line)}$"):
        Recipe(epochs=1, ema=ema)
    assert Recipe(epochs=1, ema=0).fields()["ema"] == 0


def test_ci_is_small_and_never_mirrors_digits() -> None:
    """A mirrored 2 is no 2."""
    profile = profiles.get("ci")
    assert profile.data == "digits"
    groups = (profile.recipes, profile.fine_tuning, profile.retraining, profile.others)
    recipes = [recipe for group in groups for recipe in group.values()]
    assert all(recipe.epochs <= 4 and not recipe.flip for recipe in recipes)


def test_a_recipe_cannot_be_changed_in_place() -> None:
    """Recipes are shared between profiles."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        profiles.get("ci").recipes["resnet8"].epochs = 5


def test_a_recipe_is_fitted_to_the_number_of_images() -> None:
    usual = profiles.Recipe(epochs=40, batch=128, peak_rate=0.2, crop=2, flip=True)
    few = profiles.fitted(usual, 500, 5_200, batch=32, flip=False)
    assert (few.epochs, few.batch, few.peak_rate, few.flip, few.crop) == (10, 32, 0.05, False, 2)
    limited = dataclasses.replace(usual, images=100)
    assert profiles.fitted(limited, 75_000, 5_000, batch=128, flip=True) == dataclasses.replace(usual, epochs=1)


def test_another_seed_changes_the_seed_of_every_recipe_and_nothing_else() -> None:
    usual = profiles.get("zoo")
    other = usual.seeded(2)
    assert other.seeded(0) == usual
    for kind in ("recipes", "fine_tuning", "retraining", "distillation", "others"):
        assert {recipe.seed for recipe in getattr(other, kind).values()} == {2}
