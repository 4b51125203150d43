"""The course's networks in PyTorch: NCHW float32 in [-1, 1) in, logits out.

Layer names are the same in `edgelab.tensorflow.models`, so that weights trained here can be copied there by name.
Convolutions have no bias where BatchNorm follows; the order is always Conv -> BatchNorm -> ReLU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from edgelab.errors import EdgelabError
from edgelab.networks import DS_CNN_BLOCKS, RESNET20_BLOCKS
from edgelab.pytorch._mobilenet import MobileNetV3Small
from edgelab.weights import check_fit


class ConvBN(nn.Sequential):
    """Conv -> BatchNorm -> ReLU (the ReLU is left out before a residual addition).

    A 3x3 convolution of stride 2 gets TensorFlow's `same` padding, one row and column at the far side only. PyTorch
    would pad both sides; the frameworks would then look at different pixels and the same weights would not agree.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        far_side_only = kernel == 3 and stride == 2
        if far_side_only:
            self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        padding = 0 if far_side_only else kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.1)
        if relu:
            self.relu = nn.ReLU()


class PlainCNN(nn.Module):
    """Three 3x3 convolutions with max pooling and two fully connected layers: no BatchNorm, 620,362 parameters."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(2048, 256)
        self.fc2 = nn.Linear(256, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, 32, 32) to logits (n, classes)."""
        for conv in (self.conv1, self.conv2, self.conv3):
            x = self.pool(self.relu(conv(x)))
        return self.fc2(self.relu(self.fc1(torch.flatten(x, 1))))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; a 1x1 convolution on the shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.a = ConvBN(inputs, outputs, 3, stride)
        self.b = ConvBN(outputs, outputs, 3, relu=False)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps in and out."""
        return self.relu(self.b(self.a(x)) + self.shortcut(x))


class ResNet8(nn.Module):
    """MLPerf Tiny's image-classification network (Banbury et al. 2021, arXiv:2106.07597): 12.5 M MACs."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = ConvBN(3, 16, 3)
        self.stage1 = ResidualBlock(16, 16, 1)
        self.stage2 = ResidualBlock(16, 32, 2)
        self.stage3 = ResidualBlock(32, 64, 2)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, 32, 32) to logits (n, classes)."""
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        return self.fc(x.mean((2, 3)))


class ResNet20(nn.Module):
    """The smallest of the networks for CIFAR-10 in He et al. 2016 (arXiv:1512.03385, section 4.2): 40.8 M MACs.

    As in ResNet8, a 1x1 convolution stands on the shortcut where the shape changes.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = ConvBN(3, 16, 3)
        self.blocks = nn.Sequential(*(ResidualBlock(*shape) for shape in RESNET20_BLOCKS))
        self.fc = nn.Linear(RESNET20_BLOCKS[-1][1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, 32, 32) to logits (n, classes)."""
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class SeparableBlock(nn.Module):
    """Depthwise 3x3 then pointwise 1x1, each with BatchNorm and ReLU; a shortcut where the shape is kept."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvBN(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = ConvBN(inputs, outputs, 1)
        self.keeps_shape = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps in and out."""
        y = self.pointwise(self.depthwise(x))
        return x + y if self.keeps_shape else y


class DSCNN(nn.Module):
    """Depthwise-separable network after MobileNet (Howard et al. 2017, arXiv:1704.04861), sized for 32x32 images."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = ConvBN(3, DS_CNN_BLOCKS[0][0], 3)
        self.blocks = nn.Sequential(*(SeparableBlock(*shape) for shape in DS_CNN_BLOCKS))
        self.fc = nn.Linear(DS_CNN_BLOCKS[-1][1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, 32, 32) to logits (n, classes)."""
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


MODELS: dict[str, Callable[[int], nn.Module]] = {"plain_cnn": PlainCNN, "resnet8": ResNet8, "ds_cnn": DSCNN}
OTHERS: dict[str, Callable[[int], nn.Module]] = {
    "resnet20": ResNet20,
    "mobilenet_v3_small_25": partial(MobileNetV3Small, width=0.25),
    "mobilenet_v3_small_50": partial(MobileNetV3Small, width=0.5),
}
"""Networks beside the course's three: one to be cut, and two to be taught."""


def build(name: str, classes: int = 10, seed: int = 0) -> nn.Module:
    """An untrained network in evaluation mode, channels_last, with weights drawn from `seed`.

    Raises EdgelabError for an unknown name.
    """
    makers = MODELS | OTHERS
    if name not in makers:
        raise EdgelabError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = makers[name](classes)
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def redrawn(model: nn.Module, seed: int) -> nn.Module:
    """A copy of `model`, as narrow as it is, with first weights drawn from `seed` and BatchNorm as at the start."""
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in fresh.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.reset_parameters()
    return fresh


def to_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """All weights and BatchNorm statistics as NumPy arrays under their PyTorch names and in PyTorch's layout."""
    state = model.state_dict()
    return {k: v.detach().cpu().numpy().copy() for k, v in state.items() if not k.endswith("num_batches_tracked")}


def from_arrays(model: nn.Module, arrays: dict[str, np.ndarray]) -> nn.Module:
    """Copy `arrays` (names and layout as in `to_arrays`) into `model` and return it.

    Raises EdgelabError where a name or a shape does not fit.
    """
    check_fit(to_arrays(model), arrays)
    model.load_state_dict({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}, strict=False)
    return model
