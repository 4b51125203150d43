"""Channels really go: fewer MACs as asked for, the same computation as with them set to zero, errors in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgelab.errors import EdgelabError
from edgelab.layers import layer_table
from edgelab.pytorch import channels, models


def macs(model: nn.Module) -> int:
    return layer_table(model, (3, 32, 32)).macs


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("speed_up", [1.5, 3])
def test_the_macs_fall_by_the_factor(name: str, speed_up: float) -> None:
    model = models.build(name)
    narrow = channels.remove_channels(model, speed_up)
    assert speed_up <= macs(model) / macs(narrow) < 1.12 * speed_up
    assert narrow(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    widths = {len(array) for key, array in models.to_arrays(narrow).items() if not key.startswith("fc2")}
    assert {width % 4 for width in widths if width != 10} == {0}


def test_the_least_important_channels_go() -> None:
    """Channels without any weight can go and nothing changes."""
    model = models.build("resnet8")
    arrays = models.to_arrays(model)
    for key in ("stage2.a.conv.weight", "stage2.a.bn.weight", "stage2.a.bn.bias"):
        arrays[key][::2] = 0
    arrays["stage2.b.conv.weight"][:, ::2] = 0
    narrow = channels._narrowed(models.from_arrays(model, arrays), 50)
    after = models.to_arrays(narrow)
    assert np.array_equal(after["stage2.a.bn.running_var"], arrays["stage2.a.bn.running_var"][1::2])
    assert after["stage2.a.conv.weight"].shape == (16, 8, 3, 3)
    assert np.abs(after["stage2.a.conv.weight"]).sum((1, 2, 3)).min() > 0


def test_a_network_of_other_widths_is_restored() -> None:
    narrow = channels.remove_channels(models.build("ds_cnn", seed=3), 2).eval()
    restored = channels.resized(models.build("ds_cnn"), models.to_arrays(narrow))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(restored(images), narrow(images))
    assert channels.remove_channels(narrow, 1) is not narrow


def test_widths_that_do_not_fit_are_refused() -> None:
    arrays = models.to_arrays(models.build("plain_cnn"))
    arrays["conv2.weight"] = arrays["conv2.weight"][:, :20]
    with pytest.raises(EdgelabError, match=r"^the widths of the weights do not go together \(.*\)$"):
        channels.resized(models.build("plain_cnn"), arrays)
    with pytest.raises(EdgelabError, match=r"^the weights do not fit the model at 'conv1.bias'"):
        channels.resized(models.build("resnet8"), models.to_arrays(models.build("plain_cnn")))


class Untraceable(nn.Module):
    """Depends on a value: no dependency can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((2, 3)).view(1, 8))


def test_what_cannot_be_done_is_refused() -> None:
    model = models.build("resnet8")
    with pytest.raises(EdgelabError, match=r"^a speed-up of 5000 is out of reach: .* MACs are \d+\.\d times fewer$"):
        channels.remove_channels(model, 5000)
    with pytest.raises(EdgelabError, match=r"^expected a speed-up from 1 upwards, got 0.5: write 2 for half the MACs$"):
        channels.remove_channels(model, 0.5)
    with pytest.raises(EdgelabError, match=r"^expected a torch module to prune, got PosixPath: prune before saving"):
        channels.remove_channels(Path("model.onnx"), 2)
    with pytest.raises(EdgelabError, match=r"^channels cannot be removed from Untraceable \(.*\)$"):
        channels.remove_channels(Untraceable(), 2)
    with torch.no_grad():
        model.fc.weight[0, 0] = torch.inf
    with pytest.raises(EdgelabError, match=r"^1 of 640 values in 'fc.weight' are NaN or infinite"):
        channels.remove_channels(model, 2)
