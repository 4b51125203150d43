"""What pruning is without a framework: which weights go, when, and how much of which layer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgelab import pruning
from edgelab.errors import EdgelabError
from edgelab.ledger import TECHNIQUE
from edgelab.pruning import Channels, Magnitude, TwoOfFour

RNG = np.random.default_rng(0)
WEIGHTS = {"small": 0.1 * RNG.normal(size=(4, 3, 3, 3)), "large": RNG.normal(size=(10, 20))}


def test_one_threshold_for_all_layers() -> None:
    masks = pruning.magnitude_masks(WEIGHTS, 0.5)
    flat = {name: np.abs(array) for name, array in WEIGHTS.items()}
    threshold = np.sort(np.concatenate([array.ravel() for array in flat.values()]))[154]
    assert sum(int((~mask).sum()) for mask in masks.values()) == 154
    assert all(np.array_equal(masks[name], flat[name] >= threshold) for name in WEIGHTS)
    assert pruning.shares(WEIGHTS, masks)["small"] > 0.9 > 0.5 > pruning.shares(WEIGHTS, masks)["large"]


def test_every_layer_its_own_share() -> None:
    masks = pruning.magnitude_masks(WEIGHTS, {"small": 0.25})
    assert pruning.shares(WEIGHTS, masks) == {"small": 0.25, "large": 0.0}
    kept = np.abs(WEIGHTS["small"])[masks["small"]]
    assert kept.min() > np.abs(WEIGHTS["small"])[~masks["small"]].max()


def test_nothing_goes_at_0_and_zeros_go_first() -> None:
    assert all(mask.all() for mask in pruning.magnitude_masks(WEIGHTS, 0.0).values())
    pruned = {name: array * pruning.magnitude_masks(WEIGHTS, 0.3)[name] for name, array in WEIGHTS.items()}
    again = pruning.magnitude_masks(pruned, 0.4)
    assert all(not (again[name] & (pruned[name] == 0)).any() for name in WEIGHTS)


def test_two_of_four() -> None:
    row = np.array([[3, -4, 1, 2, 0, 0, 0, 5]], np.float32)
    assert pruning.two_of_four(row, axis=1).tolist() == [[True, True, False, False, True, False, False, True]]
    kernel = RNG.normal(size=(5, 8, 3, 3))
    mask = pruning.two_of_four(kernel, axis=1)
    fours = np.abs(kernel).reshape(5, 2, 4, 3, 3)
    assert (mask.reshape(fours.shape).sum(2) == 2).all()
    assert (
        np.where(mask.reshape(fours.shape), fours, np.inf).min(2) > np.where(mask.reshape(fours.shape), 0, fours).max(2)
    ).all()
    assert pruning.two_of_four(kernel, axis=2).all(), "three do not divide into fours"


def test_the_ramp_is_steep_first_and_flat_last() -> None:
    """Cubic between its ends, constant outside; TFMOT's PolynomialDecay by default."""
    assert [pruning.polynomial(p, 0.1, 0.9) for p in (-1, 0, 1, 2)] == pytest.approx([0.1, 0.1, 0.9, 0.9])
    assert pruning.polynomial(0.5, 0.0, 0.8) == pytest.approx(0.7)


def test_the_scan_prunes_one_layer_at_a_time() -> None:
    seen = []

    def accuracy_with(replaced: dict[str, np.ndarray]) -> float:
        seen.append({name: int((array == 0).sum()) for name, array in replaced.items()})
        return 1 - len(seen) / 10

    rows = pruning.scan(WEIGHTS, (0.5, 0.75), accuracy_with)
    assert seen == [{}, {"small": 54}, {"small": 81}, {"large": 100}, {"large": 150}]
    assert [(row["layer"], row["sparsity"]) for row in rows] == [
        (name, level) for name in ("small", "large") for level in (0.0, 0.5, 0.75)
    ]
    assert [row["accuracy"] for row in rows] == pytest.approx([0.9, 0.8, 0.7, 0.9, 0.6, 0.5])


def rows_of(curves: dict[str, dict[float, float]]) -> list[dict[str, str | float]]:
    return [
        {"layer": name, "sparsity": level, "accuracy": accuracy}
        for name, curve in curves.items()
        for level, accuracy in curve.items()
    ]


def test_the_sensitive_layer_keeps_more() -> None:
    """Both layers lose the same accuracy, and together they reach what was asked for."""
    rows = rows_of({"touchy": {0.0: 0.9, 0.5: 0.5, 0.9: 0.1}, "tough": {0.0: 0.9, 0.5: 0.9, 0.9: 0.7}})
    sizes = {"touchy": 100, "tough": 300}
    allocation = pruning.allocate(rows, sizes, 0.6)
    assert sum(share * sizes[name] for name, share in allocation.items()) / 400 == pytest.approx(0.6, abs=1e-4)
    assert allocation["touchy"] < 0.25 < 0.7 < allocation["tough"]
    losses = [
        0.9 - np.interp(allocation["touchy"], [0, 0.5], [0.9, 0.5]),
        0.9 - np.interp(allocation["tough"], [0.5, 0.9], [0.9, 0.7]),
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8, 0.9])
def test_an_allocation_meets_its_sparsity_on_any_curve(sparsity: float) -> None:
    """Also where accuracy stays level or rises with the sparsity, as measured curves do."""
    curve = {0.0: 0.9, 0.5: 0.92, 0.7: 0.92, 0.9: 0.3}
    allocation = pruning.allocate(rows_of({"a": curve, "b": {0.0: 0.9, 0.9: 0.9}}), {"a": 50, "b": 60}, sparsity)
    assert (50 * allocation["a"] + 60 * allocation["b"]) / 110 == pytest.approx(sparsity, abs=1e-4)


def test_an_allocation_beyond_the_scan_is_refused() -> None:
    with pytest.raises(
        EdgelabError, match=r"^the scan reaches 90.0% at most, 95.0% was asked for: scan higher levels$"
    ):
        pruning.allocate(rows_of({"a": {0.0: 0.9, 0.9: 0.1}}), {"a": 10}, 0.95)


def test_channels_stay_in_fours() -> None:
    assert [pruning.kept_channels(64, percent) for percent in (0, 30, 50, 99)] == [64, 44, 32, 4]
    assert pruning.kept_channels(2, 50) == 2
    assert pruning.smallest_cut(lambda percent: 1000 - 10 * percent, 1000, 2.0) == 50
    assert pruning.smallest_cut(lambda percent: 1000, 1000, 1.0) == 0
    with pytest.raises(EdgelabError, match=r"^a speed-up of 3 is out of reach: .* the MACs are 2\.0 times fewer$"):
        pruning.smallest_cut(lambda percent: 500, 1000, 3)


def test_plans_are_called_what_the_ledger_calls_them() -> None:
    plans = {
        Magnitude(0): "magnitude_pruning_0",
        Magnitude(0.95, gradual=True): "magnitude_pruning_95_gradual",
        Magnitude(0.975, by_sensitivity=True): "magnitude_pruning_97_5_sensitivity",
        TwoOfFour(): "magnitude_pruning_2_4",
        Channels(2): "structured_pruning_2x",
        Channels(1.5): "structured_pruning_1_5x",
        Channels(3, fresh=True): "structured_pruning_3x_fresh",
    }
    assert {plan: plan.technique for plan in plans} == plans
    assert all(TECHNIQUE.fullmatch(name) for name in plans.values())


@pytest.mark.parametrize("sparsity", [1, 1.5, -0.1, 50, math.nan, math.inf, True, "0.5", None])
def test_impossible_sparsities(sparsity: object) -> None:
    with pytest.raises(
        EdgelabError, match=r"^expected the sparsity as a share from 0 to below 1, got .*: write 0.5 for 50 %$"
    ):
        Magnitude(sparsity)


@pytest.mark.parametrize("speed_up", [0.5, 0, -2, math.nan, math.inf, "2"])
def test_impossible_speed_ups(speed_up: object) -> None:
    with pytest.raises(EdgelabError, match=r"^expected a speed-up from 1 upwards, got .*: write 2 for half the MACs$"):
        Channels(speed_up)
