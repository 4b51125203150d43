"""The rows of a layer table and what the counters of all four forms share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

Shape = tuple[int, ...]

CONVOLUTION = "convolution"
DEPTHWISE = "depthwise convolution"
TRANSPOSED = "transposed convolution"
DENSE = "fully connected"


@dataclass(frozen=True)
class Layer:
    """One layer, as often as it is called. Shapes are those of one image, without the batch, in the model's own layout.

    `macs` and `effective_macs` are per image. `weight_bits` and `activation_bits` are the stored width of a weight and
    the width of an input value; None where the layer has none. Of the `parameters`, `weights` are those of the weight
    that makes the MACs, without its bias; `stored_bits` is what all the parameters take, each at its own width.
    """

    name: str
    kind: str
    input_shape: Shape
    output_shape: Shape
    kernel: Shape = ()
    stride: Shape = ()
    groups: int = 1
    parameters: int = 0
    nonzero: int = 0
    macs: int = 0
    effective_macs: int = 0
    weight_bits: int | None = None
    activation_bits: int | None = None
    weights: int = 0
    stored_bits: int = 0


@dataclass(frozen=True)
class LayerTable:
    """All layers in the order they run, and `uncounted`: how many operators of each name were given no MACs."""

    layers: tuple[Layer, ...]
    uncounted: dict[str, int]

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def effective_macs(self) -> int:
        """Multiply-accumulates for one image on weights that are not zero."""
        return sum(layer.effective_macs for layer in self.layers)

    @property
    def parameters(self) -> int:
        """All parameters, each counted once."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def nonzero(self) -> int:
        """All parameters that are not zero, each counted once."""
        return sum(layer.nonzero for layer in self.layers)

    def to_frame(self) -> pd.DataFrame:
        """One row a layer, with the columns of `Layer`; shapes are text such as 32x32x3."""
        import pandas as pd

        names = [field.name for field in fields(Layer)]
        rows = [[_text(getattr(layer, name)) for name in names] for layer in self.layers]
        return pd.DataFrame(rows, columns=names).astype({"weight_bits": "Int64", "activation_bits": "Int64"})


def _text(value: object) -> object:
    return "x".join(map(str, value)) if isinstance(value, tuple) else value


class Constant(NamedTuple):
    """A stored array: `key` tells two uses of one array from two arrays."""

    key: Hashable
    shape: Shape
    size: int
    nonzero: int
    bits: int


class Work(NamedTuple):
    """What a counted layer computes: each weight of `parts` is used once at each of so many positions an image."""

    kind: str
    parts: tuple[tuple[Constant, int], ...]
    kernel: Shape = ()
    stride: Shape = ()
    groups: int = 1


def convolution_kind(groups: int, channels: int) -> str:
    """A convolution with a group for every input channel is depthwise."""
    return DEPTHWISE if groups == channels > 1 else CONVOLUTION


class Builder:
    """Collects rows and counts every constant the first time it is met only."""

    def __init__(self) -> None:
        """Start with an empty table."""
        self._layers: list[Layer] = []
        self._seen: set[Hashable] = set()
        self.uncounted: Counter[str] = Counter()

    def missing(self, constants: Iterable[Constant]) -> list[Constant]:
        """Those of `constants` that no row has yet."""
        return [constant for constant in constants if constant.key not in self._seen]

    def add(
        self,
        name: str,
        kind: str,
        shapes: tuple[Shape, Shape],
        constants: Iterable[Constant],
        activation_bits: int | None = None,
        work: Work | None = None,
    ) -> None:
        """Append a row for an operator called `kind` in its framework; `work` where it is one that is counted."""
        new = {constant.key: constant for constant in self.missing(constants)}
        self._seen.update(new)
        work = work or Work(kind, ())
        parts = work.parts
        row = Layer(
            name=name,
            kind=work.kind,
            input_shape=shapes[0],
            output_shape=shapes[1],
            kernel=work.kernel,
            stride=work.stride,
            groups=work.groups,
            parameters=sum(constant.size for constant in new.values()),
            nonzero=sum(constant.nonzero for constant in new.values()),
            macs=sum(weight.size * positions for weight, positions in parts),
            effective_macs=sum(weight.nonzero * positions for weight, positions in parts),
            weight_bits=parts[0][0].bits if parts else None,
            activation_bits=activation_bits,
            weights=sum(weight.size for weight, _ in parts if weight.key in new),
            stored_bits=sum(constant.size * constant.bits for constant in new.values()),
        )
        self._layers.append(row)

    def table(self) -> LayerTable:
        """The finished table."""
        return LayerTable(tuple(self._layers), dict(sorted(self.uncounted.items())))
