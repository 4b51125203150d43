"""What both frameworks' versions of the course's networks are built from."""

from __future__ import annotations

DS_CNN_BLOCKS = ((32, 64, 2), *((64, 64, 1),) * 2, (64, 128, 2), *((128, 128, 1),) * 4)
"""(inputs, outputs, stride) of each depthwise-separable block of ds_cnn."""
