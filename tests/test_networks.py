"""What the networks of both frameworks share."""

from __future__ import annotations

import numpy as np
import torch

from edgelab.networks import with_uneven_channels
from edgelab.pytorch import models


def test_uneven_channels_compute_the_same() -> None:
    network = models.build("ds_cnn", seed=1)
    images = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (4, 3, 32, 32)).astype(np.float32))
    with torch.no_grad():
        network.train()(images)
        plain = models.to_arrays(network.eval())
        expected = network(images)
        uneven = with_uneven_channels(plain, 3)
        found = models.from_arrays(network, uneven)(images)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6) and expected.std() > 1e-3
    changed = {name for name in plain if not np.array_equal(plain[name], uneven[name])}
    norm = "blocks.3.depthwise.bn"
    assert changed == {f"{norm}.weight", "blocks.3.pointwise.conv.weight"}, "BatchNorm's bias is still zero here"
    factors = uneven[f"{norm}.weight"] / plain[f"{norm}.weight"]
    assert factors.min() == 2**-5 and factors.max() == 2**5 and len(np.unique(factors)) == 11
    shifted = with_uneven_channels({**plain, f"{norm}.bias": np.ones(64, np.float32)}, 3)
    assert np.array_equal(shifted[f"{norm}.bias"], factors)
