"""Grids, their steps, the plans and what they refuse; no framework is loaded."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edgelab.errors import EdgelabError
from edgelab.ledger import TECHNIQUE
from edgelab.profiles import Recipe
from edgelab.qat import CALIBRATION, Grid, Int8, LowBit, check_bits, gentle, packed_bytes, spread


@pytest.mark.parametrize(
    ("bits", "signed", "low", "high", "container"),
    [
        (2, True, -2, 1, 2),
        (2, False, 0, 3, 2),
        (3, True, -4, 3, 4),
        (4, True, -8, 7, 4),
        (5, False, 0, 31, 8),
        (8, True, -128, 127, 8),
    ],
)
def test_integers_of_a_grid(bits: int, signed: bool, low: int, high: int, container: int) -> None:
    grid = Grid(bits, signed)
    assert (grid.low, grid.high, grid.container) == (low, high, container)
    values = np.array([-1e9, -0.26, 0.0, 0.1, 0.4, 1e9])
    assert grid.integers(values, 0.25).tolist() == [low, max(low, -1), 0, 0, min(2, high), high]


def test_the_min_max_step_clips_nothing_and_is_the_least_of_that_kind() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    for bits in (2, 4, 8):
        grid = Grid(bits, signed=True)
        step = grid.min_max_step(values)
        inside = (values / step >= grid.low - 1e-9) & (values / step <= grid.high + 1e-9)
        assert inside.all()
        smaller = values / (0.99 * step)
        assert smaller.min() < grid.low or smaller.max() > grid.high
    assert Grid(4, False).min_max_step(np.abs(values)) == pytest.approx(np.abs(values).max() / 15)
    assert Grid(4, False).min_max_step(np.zeros(3)) == 1


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_best_step_has_the_least_error(bits: int) -> None:
    """No candidate is better, and with few bits it is far below the min-max step."""
    values, grid = np.random.default_rng(1).normal(size=5000), Grid(bits, signed=True)

    def error(step: float) -> float:
        return float(np.square(grid.integers(values, step) * step - values).mean())

    best, widest = grid.best_step(values), grid.min_max_step(values)
    assert best < 0.9 * widest
    assert error(best) <= min(error(step) for step in np.linspace(0.01, 1, 100) * widest) * (1 + 1e-9)
    assert error(best) < 0.8 * error(widest)


def test_pixels_are_on_the_first_grid_already() -> None:
    pixels = (np.arange(256) - 128) / 128
    assert Grid(8, signed=True).best_step(pixels) == 1 / 128


def test_packed_bytes() -> None:
    """Three bits take three, and a layer begins at a whole byte."""
    grids = {"a": Grid(3, True), "b": Grid(8, True), "c": Grid(2, True)}
    assert packed_bytes(grids, {"a": 3, "b": 5, "c": 8}, others=7) == 2 + 5 + 2 + 28


def test_calibration_images_are_spread_over_the_split() -> None:
    images = np.arange(6400)
    assert spread(images).tolist() == list(range(0, 6400, 100))
    assert len(spread(images[:70])) == CALIBRATION and len(spread(images[:3])) == 3


def test_plans_and_their_recipes() -> None:
    """Names that the ledger takes; the same plan gives the same recipe, slower than fine-tuning."""
    recipe = Recipe(epochs=4, peak_rate=0.1)
    assert (LowBit(4).technique, Int8().technique) == ("qat_lsq_4bit", "qat_int8")
    assert TECHNIQUE.fullmatch(LowBit(2).technique) and TECHNIQUE.fullmatch(Int8().technique)
    assert gentle(recipe) == LowBit(4).recipe(recipe) == Recipe(epochs=4, peak_rate=0.025)
    assert Int8().recipe(recipe) == Recipe(epochs=2, peak_rate=0.025)
    assert Int8().recipe(Recipe(epochs=1)).epochs == 1


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 4.5, "4", True, None])
def test_impossible_bits(bits: object) -> None:
    for refuse in (check_bits, LowBit):
        with pytest.raises(EdgelabError, match=r"^expected a width from 2 to 8 bits, got ") as caught:
            refuse(bits)  # type: ignore[operator]
        assert "\n" not in str(caught.value)


def test_no_framework_is_loaded() -> None:
    code = "import sys, edgelab.qat; assert not {'torch', 'tensorflow', 'onnx'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
