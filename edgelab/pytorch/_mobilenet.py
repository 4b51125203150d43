"""MobileNetV3-Small in PyTorch, at any width: the students of the rice project that chapter 5 compares itself with.

After Howard et al. 2019, arXiv:1905.02244, in the form of Keras applications, whose layers have the same names here; a
convolution with BatchNorm, such as "Conv", has the parts "Conv.conv" and "Conv.bn".
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

BLOCKS = (
    # expansion, outputs, kernel, stride, squeeze-and-excite, hard swish
    (1.0, 16, 3, 2, True, False),
    (72 / 16, 24, 3, 2, False, False),
    (88 / 24, 24, 3, 1, False, False),
    (4.0, 40, 5, 2, True, True),
    (6.0, 40, 5, 1, True, True),
    (6.0, 40, 5, 1, True, True),
    (3.0, 48, 5, 1, True, True),
    (3.0, 48, 5, 1, True, True),
    (6.0, 96, 5, 2, True, True),
    (6.0, 96, 5, 1, True, True),
    (6.0, 96, 5, 1, True, True),
)
"""The blocks at width 1."""


def depth(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, at least 8, and not more than a tenth below."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def _conv_bn(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and BatchNorm; with stride 2 padded as TensorFlow does, more at the far sides."""
    near = (kernel - 1) // 2
    parts: list[tuple[str, nn.Module]] = []
    if stride == 2:
        parts.append(("pad", nn.ZeroPad2d((near - 1, near, near - 1, near) if kernel > 1 else 0)))
    padding = near if stride == 1 else 0
    parts.append(("conv", nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)))
    parts.append(("bn", nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.1)))
    return nn.Sequential(OrderedDict(parts))


class SqueezeExcite(nn.Module):
    """Channels weighted by what is in the whole picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = depth(channels * 0.25)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.Conv = nn.Conv2d(channels, inner, 1)
        self.relu = nn.ReLU()
        self.Conv_1 = nn.Conv2d(inner, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps in and out."""
        return x * self.gate(self.Conv_1(self.relu(self.Conv(self.pool(x)))))


class Inverted(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project; a shortcut where the shape is kept."""

    def __init__(
        self, inputs: int, outputs: int, wide: int, kernel: int, stride: int, squeezes: bool, swish: bool, first: bool
    ) -> None:
        super().__init__()
        activation = nn.Hardswish if swish else nn.ReLU
        if not first:
            self.expand = _conv_bn(inputs, wide)
            self.expanded = activation()
        self.depthwise = _conv_bn(wide, wide, kernel, stride, groups=wide)
        self.filtered = activation()
        if squeezes:
            self.squeeze_excite = SqueezeExcite(wide)
        self.project = _conv_bn(wide, outputs)
        self.steps = (not first, squeezes, stride == 1 and inputs == outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps in and out."""
        expands, squeezes, keeps_shape = self.steps
        y = self.expanded(self.expand(x)) if expands else x
        y = self.filtered(self.depthwise(y))
        if squeezes:
            y = self.squeeze_excite(y)
        y = self.project(y)
        return x + y if keeps_shape else y


class MobileNetV3Small(nn.Module):
    """The network at a `width`, 1 in the paper: 11 blocks, hard swish and squeeze-and-excite."""

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        self.Conv = _conv_bn(3, 16, 3, 2)
        self.swish = nn.Hardswish()
        inputs, names = 16, []
        for number, (expansion, outputs, kernel, stride, squeezes, swish) in enumerate(BLOCKS):
            wide, narrow = depth(inputs * expansion) if number else inputs, depth(outputs * width)
            block = Inverted(inputs, narrow, wide, kernel, stride, squeezes, swish, not number)
            names.append(f"expanded_conv_{number}" if number else "expanded_conv")
            self.add_module(names[-1], block)
            inputs = narrow
        self.names = names
        last = depth(inputs * 6)
        self.Conv_1 = _conv_bn(inputs, last)
        self.swish_1 = nn.Hardswish()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.Conv_2 = nn.Conv2d(last, 1024, 1)
        self.swish_2 = nn.Hardswish()
        self.Logits = nn.Conv2d(1024, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w), h and w multiples of 32, to logits (n, classes)."""
        x = self.swish(self.Conv(x))
        for name in self.names:
            x = self.get_submodule(name)(x)
        x = self.pool(self.swish_1(self.Conv_1(x)))
        return self.Logits(self.swish_2(self.Conv_2(x))).flatten(1)
