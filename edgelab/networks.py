"""What both frameworks' versions of the course's networks are built from."""

from __future__ import annotations

import numpy as np

DS_CNN_BLOCKS = ((32, 64, 2), *((64, 64, 1),) * 2, (64, 128, 2), *((128, 128, 1),) * 4)
"""(inputs, outputs, stride) of each depthwise-separable block of ds_cnn."""

RESNET20_BLOCKS = (*((16, 16, 1),) * 3, (16, 32, 2), *((32, 32, 1),) * 2, (32, 64, 2), *((64, 64, 1),) * 2)
"""(inputs, outputs, stride) of each residual block of resnet20."""


def with_uneven_channels(arrays: dict[str, np.ndarray], block: int, octaves: int = 5) -> dict[str, np.ndarray]:
    """The weights of a ds_cnn that computes the same, but whose channels between two layers differ widely in range.

    In one `block` every channel behind the depthwise layer is multiplied by a power of two from 2**-octaves to
    2**octaves, drawn at random, and the pointwise layer behind divides by it: ReLU(s x) = s ReLU(x) for s > 0. Training
    leaves such networks behind too, and they are what quantization with one scale fails on (Nagel et al. 2019,
    arXiv:1906.04721).
    """
    norm, behind = f"blocks.{block}.depthwise.bn", f"blocks.{block}.pointwise.conv.weight"
    draws = np.random.default_rng(0).integers(-octaves, octaves + 1, arrays[behind].shape[1])
    factors = np.ldexp(np.float32(1), draws).astype(np.float32)
    scaled = {f"{norm}.{part}": arrays[f"{norm}.{part}"] * factors for part in ("weight", "bias")}
    return {**arrays, **scaled, behind: arrays[behind] / factors[:, None, None]}
