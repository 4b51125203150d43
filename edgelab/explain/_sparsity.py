"""Why is my pruned network no smaller or faster? Where its zeros are, what stores or skips them, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from edgelab import artifact, provenance
from edgelab.artifact import Artifact
from edgelab.explain._int8 import noise
from edgelab.explain._weights import Weight, weights, without_zeros
from edgelab.latency import Ratio, compare_latency
from edgelab.layers import Layer, LayerTable, layer_table
from edgelab.layers.table import CONVOLUTION, DENSE, DEPTHWISE
from edgelab.measure import sizes
from edgelab.storage import SparseLayer, sparse_sizes

if TYPE_CHECKING:
    import pandas as pd

FEW = 0.1  # a share of zeros that a network has without having been pruned: rounding to int8 makes some
SURE = 1.2  # how far apart the ends of a ratio's interval may be for "no different" to mean something
BLOCK = 16  # consecutive weights along the input channels, the block of LiteRT's sparse int8 kernels


@dataclass(frozen=True)
class SparseWeight:
    """The zeros of one layer's weight: how many of its `filters` (one an output channel) and of its input `channels`
    are zero throughout, what share of the zeros lies in blocks of 16 along the input channels that are all zero, and
    whether at least two of every four consecutive input channels are zero; None where the layer has no such axis.
    Bytes of the weight as it is stored, that compressed with gzip, and with its layer's other parameters as a mask with
    values and as CSR (see `edgelab.storage`).
    """

    name: str
    kind: str
    weights: int
    zeros: int
    filters: int
    zero_filters: int
    channels: int
    zero_channels: int
    in_blocks: float | None
    two_of_four: bool | None
    bytes: int
    gzip_bytes: int
    mask_bytes: int
    csr_bytes: int

    @property
    def sparsity(self) -> float:
        """Share of zeros, 0..1."""
        return self.zeros / self.weights


@dataclass(frozen=True)
class Files:
    """Bytes on disk and with gzip of the file, and of the dense one that it is compared with."""

    name: str
    bytes: int
    gzip_bytes: int
    dense_name: str
    dense_bytes: int
    dense_gzip_bytes: int


@dataclass(frozen=True)
class SparsityReport:
    """Zeros by layer, what they save on disk (`files`) and in time (`ratio`), and which kernels could skip them."""

    name: str
    layers: tuple[SparseWeight, ...]
    kernels: str
    files: Files | None = None
    ratio: Ratio | None = None

    @property
    def sparsity(self) -> float:
        """Share of zeros among all weights, 0..1."""
        return sum(layer.zeros for layer in self.layers) / max(1, sum(layer.weights for layer in self.layers))

    @property
    def verdict(self) -> str:
        """One paragraph, made from the figures of this report alone."""
        zeros, total = (sum(getattr(layer, name) for layer in self.layers) for name in ("zeros", "weights"))
        if not zeros:
            return f"{self.name} is not pruned: none of its {total:,} weights is zero."
        share = f"{100 * self.sparsity:.{1 if self.sparsity < FEW else 0}f} %"
        if self.sparsity < FEW:
            return f"{self.name} is hardly pruned, if at all: {share} of its {total:,} weights are zero."
        pruned = sum(layer.sparsity >= FEW for layer in self.layers)
        said = [f"In {self.name} {share} of {total:,} weights are zero, in {pruned} of {len(self.layers)} layers."]
        said += [_storage(self.files, self.layers)] if self.files else []
        said += [_pattern(self.layers), self.kernels]
        return " ".join([*said, *([_time(self.ratio)] if self.ratio else []), _advice(self.layers, self.ratio)]).strip()

    def to_frame(self) -> pd.DataFrame:
        """One row a layer with a weight, with the columns of `SparseWeight` and its sparsity."""
        import pandas as pd

        names = [field.name for field in fields(SparseWeight)]
        frame = pd.DataFrame([[getattr(layer, name) for name in names] for layer in self.layers], columns=names)
        frame.insert(4, "sparsity", [layer.sparsity for layer in self.layers])
        return frame


def sparsity(
    path: Path | str, dense: Path | str | None = None, image: np.ndarray | None = None, threads: int = 1
) -> SparsityReport:
    """Explain size and speed of the pruned file at `path`.

    It is compared with the file `dense` or, where none is given, with a copy of itself in which small random weights
    stand in place of the zeros. `image` is one image (1, H, W, C) uint8; noise where none is given. Takes three
    seconds. Raises EdgelabError where a file cannot be run or the image does not fit.
    """
    file = artifact.load(path, threads)
    image = noise(file) if image is None else image
    shape = file.prepare(image).inputs.shape[1:]
    table = layer_table(file.path, shape)
    stored = weights(file.path, shape)
    report = SparsityReport(file.path.name, _layers(table, stored), _kernels(file, table, stored))
    if report.sparsity < FEW:
        return report
    with TemporaryDirectory() as folder:
        other = _dense(file, dense, shape, Path(folder))
        if other is None:
            return report
        files = Files(file.path.name, *sizes(file.path), other.path.name, *sizes(other.path))
        ratio = compare_latency(file, other, image)
    return SparsityReport(report.name, report.layers, report.kernels, files, ratio)


def _dense(file: Artifact, given: Path | str | None, shape: tuple[int, ...], folder: Path) -> Artifact | None:
    """What to compare `file` with; None where its zeros cannot be filled (a file that leaves them out itself)."""
    if given is not None:
        return artifact.load(given, file.threads, file.pixels)
    copy = folder / f"{file.path.stem} without zeros{file.path.suffix}"
    without_zeros(file.path, shape, copy)
    left = any(weight.sparse or not weight.values.all() for weight in weights(copy, shape))
    return None if left else artifact.load(copy, file.threads, file.pixels)


def _layers(table: LayerTable, stored: Sequence[Weight]) -> tuple[SparseWeight, ...]:
    rows = {layer.name: layer for layer in table.layers if layer.macs}
    formats = {layer.name: layer for layer in sparse_sizes(table).layers}
    return tuple(_layer(rows[weight.name], weight, formats[weight.name]) for weight in stored if weight.name in formats)


def _layer(row: Layer, weight: Weight, formats: SparseLayer) -> SparseWeight:
    import gzip

    values = weight.values
    zeros, zero = int((values == 0).sum()), values.reshape(len(values), -1) == 0
    channels = values.shape[-1] if row.kind in (CONVOLUTION, DENSE) else 0
    by_channel = values.reshape(-1, channels) == 0 if channels else np.zeros((1, 0), bool)
    return SparseWeight(
        name=row.name,
        kind=row.kind,
        weights=row.weights,
        zeros=zeros,
        filters=len(values),
        zero_filters=int(zero.all(1).sum()),
        channels=channels,
        zero_channels=int(by_channel.all(0).sum()),
        in_blocks=_in_blocks(by_channel, zeros),
        two_of_four=_two_of_four(by_channel),
        bytes=len(weight.raw),
        gzip_bytes=len(gzip.compress(weight.raw, 9, mtime=0)),
        mask_bytes=-(-formats.mask_bits // 8),
        csr_bytes=-(-formats.csr_bits // 8),
    )


def _in_blocks(zero: np.ndarray, zeros: int) -> float | None:
    """Share of the zeros in aligned blocks of 16 along the last axis that are zero throughout."""
    whole = zero.shape[1] // BLOCK * BLOCK
    if not whole or not zeros:
        return None
    return float(BLOCK * zero[:, :whole].reshape(-1, BLOCK).all(1).sum() / zeros)


def _two_of_four(zero: np.ndarray) -> bool | None:
    if zero.shape[1] == 0 or zero.shape[1] % 4:
        return None
    return bool((zero.reshape(-1, 4).sum(1) >= 2).all())


def _kernels(file: Artifact, table: LayerTable, stored: Sequence[Weight]) -> str:
    """Whether anything in the runtime skips zeros.

    XNNPACK: tensorflow/lite/delegates/xnnpack/README.md, "Sparse Inference", and `xnn_is_chw_compatible_config` in
    XNNPACK's src/xnnpack/hardware-config.h. ONNX Runtime's operators for sparse weights are none that files use.
    """
    if file.format == "onnx":
        return "ONNX Runtime's kernels for convolutions and matrix products on a processor are dense ones."
    obstacles = _obstacles(table, stored)
    if "avx2" in provenance.int8_instructions():
        said = "XNNPACK, which runs LiteRT's operators, never uses its sparse kernels on x86 processors with AVX"
        return f"{said}{', and elsewhere could not here: ' + ', '.join(obstacles) if obstacles else ''}."
    if obstacles:
        return f"XNNPACK, which runs LiteRT's operators, cannot use its sparse kernels: {', '.join(obstacles)}."
    return "The file has what XNNPACK, which runs LiteRT's operators, asks for to use its sparse kernels."


def _obstacles(table: LayerTable, stored: Sequence[Weight]) -> list[str]:
    """What XNNPACK's sparse kernels ask for and this network has not."""
    layers = [layer for layer in table.layers if layer.kind in (CONVOLUTION, DEPTHWISE)]
    start = [(layer.kernel, layer.stride, layer.input_shape[-1]) for layer in layers[:1]] == [((3, 3), (2, 2), 3)]
    dense = [layer for layer in layers[1:] if layer.kind == CONVOLUTION]
    points = [layer for layer in dense if layer.kernel == (1, 1)]
    count, nonzero = sum(layer.macs for layer in points), sum(layer.effective_macs for layer in points)
    found = {
        "the file encodes no weights as sparse": not any(weight.sparse for weight in stored),
        "the network is not float32": any((layer.activation_bits or 32) != 32 for layer in table.layers if layer.macs),
        "it does not start with a 3x3 convolution of stride 2 on 3 channels": not start,
        "it has convolutions other than 1x1": len(points) < len(dense),
        "fewer than two thirds of the 1x1 weights are zero": not count or nonzero * 3 > count,
    }
    return [name for name, holds in found.items() if holds]


def _storage(files: Files, layers: Sequence[SparseWeight]) -> str:
    """What the zeros save on disk, with gzip and in sparse formats."""
    saved, packed = 1 - files.bytes / files.dense_bytes, 1 - files.gzip_bytes / files.dense_gzip_bytes
    size = f"{files.bytes:,} against {files.dense_bytes:,} bytes"
    said = f"The file is {100 * saved:.0f} % smaller than {files.dense_name} ({size})"
    if saved < 0.02:
        said = f"The file is no smaller than {files.dense_name}, for it stores a zero like any other weight ({size})"
    times = f"{files.gzip_bytes:,} against {files.dense_gzip_bytes:,}"
    compressed = f"compressed with gzip it is {100 * packed:.0f} % smaller" if packed >= 0.02 else "gzip saves no more"
    said += f"; {compressed} ({times})"
    mask, csr = (sum(getattr(layer, name) for layer in layers) for name in ("mask_bytes", "csr_bytes"))
    return f"{said}; a bit mask with the other values would take {mask:,} bytes, CSR {csr:,}."


def _pattern(layers: Sequence[SparseWeight]) -> str:
    """How the zeros lie: filters and channels that can be cut out, patterns that some processors skip."""
    filters, zero_filters = (sum(getattr(layer, name) for layer in layers) for name in ("filters", "zero_filters"))
    channels, zero_channels = (sum(getattr(layer, name) for layer in layers) for name in ("channels", "zero_channels"))
    said = []
    if zero_filters or zero_channels:
        said.append(
            f"{zero_filters} of {filters} filters and {zero_channels} of {channels} input channels are zero throughout"
        )
    else:
        said.append(f"No filter of {filters} and no input channel is zero throughout")
    pruned = [layer for layer in layers if layer.sparsity >= FEW]
    pattern = sum(bool(layer.two_of_four) for layer in pruned)
    if pattern > len(pruned) / 2:
        which = f"{pattern} of the {len(pruned)} pruned layers follow the 2:4 pattern"
        said.append(f"{which}, which only the sparse tensor cores of some GPUs skip")
    blocks = sum((layer.in_blocks or 0) * layer.zeros for layer in layers) / max(
        1, sum(layer.zeros for layer in layers)
    )
    said.append(f"{100 * blocks:.0f} % of the zeros lie in whole blocks of {BLOCK}")
    return f"{'; '.join(said)}."


def _time(ratio: Ratio) -> str:
    same = "a zero is multiplied like any other weight"
    if ratio.high / ratio.low > SURE:
        same = "this machine is too busy to say more"
    meaning = {"no different": same, "faster": "something saves time here", "slower": "the zeros even cost time"}
    return f"{ratio.sentence()}: {meaning[ratio.direction]}."


def _advice(layers: Sequence[SparseWeight], ratio: Ratio | None) -> str:
    if ratio is None or ratio.direction == "faster":
        return ""
    if sum(layer.zero_filters for layer in layers) >= FEW * sum(layer.filters for layer in layers):
        return "Cutting out the filters that are zero throughout makes the network smaller and faster everywhere."
    return "To be faster everywhere, whole filters have to be removed, not single weights."
