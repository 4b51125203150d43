"""The PyTorch networks: size, cost, seeds, and weights by name."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from support import assert_drawn_anew, same
from torch.utils.flop_counter import FlopCounterMode

from edgelab.errors import EdgelabError
from edgelab.pytorch import models

PARAMETERS = {"plain_cnn": 620_362, "resnet8": 77_946, "ds_cnn": 95_946, "resnet20": 272_378}
MACS = {"plain_cnn": 10_848_768, "resnet8": 12_501_632, "resnet20": 40_813_184}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_macs(name: str) -> None:
    """The published sizes; ds_cnn stays within its limits."""
    network = models.build(name)
    with FlopCounterMode(display=False) as counter:
        outputs = network(torch.zeros(1, 3, 32, 32))
    macs = counter.get_total_flops() // 2
    assert outputs.shape == (1, 10)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    if name == "ds_cnn":
        assert macs <= 11_000_000
        assert PARAMETERS[name] <= 150_000
    else:
        assert macs == MACS[name]


def test_seed_decides_the_weights_and_nothing_else() -> None:
    """Same seed, same weights; the caller's random numbers are not disturbed."""
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = models.to_arrays(models.build("resnet8", seed=1))
    assert torch.rand(1) == expected
    assert same(first, models.to_arrays(models.build("resnet8", seed=1)))
    assert not same(first, models.to_arrays(models.build("resnet8", seed=2)))


def test_redrawn_keeps_the_widths_and_nothing_that_was_learnt() -> None:
    network = models.build("resnet8", seed=1)
    arrays = models.to_arrays(network)
    arrays["stem.bn.running_var"] += 3
    arrays["stem.bn.weight"] += 1
    fresh = models.to_arrays(models.redrawn(models.from_arrays(network, arrays), 2))
    assert same(fresh, models.to_arrays(models.redrawn(network, 2)))
    assert_drawn_anew(fresh, arrays)
    assert (fresh["stem.bn.running_var"] == 1).all() and (fresh["stem.bn.weight"] == 1).all()
    for name in (name for name, array in arrays.items() if array.ndim > 1):
        assert fresh[name].std() == pytest.approx(arrays[name].std(), rel=0.15)


@pytest.mark.parametrize("name", models.MODELS)
def test_batchnorm_follows_its_convolution(name: str) -> None:
    """Conv -> BN -> ReLU, and no bias before BN: what quantization needs to fold them."""
    kinds = [(type(m).__name__, m) for m in models.build(name).modules()]
    for (_, before), (kind, _) in pairwise(kinds):
        if kind == "BatchNorm2d":
            assert isinstance(before, torch.nn.Conv2d)
            assert before.bias is None


def test_arrays_are_copies_that_restore_the_network() -> None:
    """to_arrays and from_arrays are inverse, also for weights that are not contiguous."""
    source, target = models.build("ds_cnn", 4, seed=0), models.build("ds_cnn", 4, seed=1)
    arrays = models.to_arrays(source)
    assert models.from_arrays(target, {k: np.asfortranarray(v) for k, v in arrays.items()}) is target
    assert same(models.to_arrays(target), arrays)
    arrays["fc.bias"][:] = 9
    assert not same(models.to_arrays(target), arrays)


def test_unknown_model() -> None:
    """The line names the choices."""
    with pytest.raises(EdgelabError, match=r"^unknown model 'resnet': choose one of plain_cnn, resnet8, ds_cnn$"):
        models.build("resnet")


def test_weights_that_do_not_fit() -> None:
    """A wrong shape, a missing and a surplus name are each named."""
    network = models.build("resnet8", classes=10)
    with pytest.raises(EdgelabError, match=r"at 'fc.bias': expected \(10,\), got \(3,\)"):
        models.from_arrays(network, models.to_arrays(models.build("resnet8", classes=3)))
    arrays = models.to_arrays(network)
    with pytest.raises(EdgelabError, match=r"at 'extra': expected nothing, got \(1,\)"):
        models.from_arrays(network, {**arrays, "extra": np.zeros(1)})
    del arrays["stem.bn.running_var"]
    with pytest.raises(EdgelabError, match=r"at 'stem.bn.running_var': expected \(16,\), got nothing"):
        models.from_arrays(network, arrays)


@pytest.mark.parametrize(
    ("name", "parameters"), [("mobilenet_v3_small_25", 250_978), ("mobilenet_v3_small_50", 576_770)]
)
def test_the_students_have_the_size_of_those_of_keras(name: str, parameters: int) -> None:
    network = models.build(name, 2)
    assert network(torch.zeros(3, 3, 32, 32)).shape == (3, 2)
    assert sum(array.size for array in models.to_arrays(network).values()) == parameters
