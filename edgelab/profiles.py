"""Profiles (which data, which recipes, which seeds) and the training recipe both tracks understand."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: SGD with Nesterov momentum on a one-cycle learning rate.

    `peak_rate` is the highest learning rate; `weight_decay` spares biases and BatchNorm; `crop` is the number of pixels
    an image may be shifted by; `flip` allows left-right mirroring (off where it changes the meaning, as for digits).
    """

    epochs: int
    seed: int = 0
    batch: int = 128
    peak_rate: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    crop: int = 4
    flip: bool = True


def one_cycle(progress: float, warm_up: float = 0.2) -> float:
    """Factor on the peak learning rate at `progress` in 0..1: a linear rise, then half a cosine down to zero.

    After Smith and Topin 2017, arXiv:1708.07120.
    """
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))
