"""Storage: what zeros among the weights save if they are not stored, by two simple formats, and from when on that pays.

Each weight is seen as a matrix with a row an output channel and a column for everything else (kernel positions and
input channels of its group). Of a transposed convolution the rows are input channels: an input value meets one row.
The two weights of a separable layer of Keras, which is one row of the layer table, are taken as one matrix.
Three ways to store it:

- dense: every value, zero or not;
- mask: one bit a value that says whether it is zero, and the values that are not;
- CSR (compressed sparse rows): every value that is not zero with the index of its column, and for each row where it
  starts. Indices are as wide as the number of columns asks for, row starts as wide as the number of non-zero values
  does: 8, 16 or 32 bits, what processors load.

Biases and other parameters stay dense in all three. What formats in use do with zeros is measured elsewhere: a .tflite
or .onnx file stores them like other values, and gzip finds them by itself (`measure.sizes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from edgelab.errors import EdgelabError
from edgelab.layers.table import TRANSPOSED, LayerTable

if TYPE_CHECKING:
    import pandas as pd

    from edgelab.layers.table import Layer

WIDTHS = (8, 16, 32)


@dataclass(frozen=True)
class SparseLayer:
    """One layer's parameters in bits, stored in each of the three ways.

    `weights` values, `nonzero` of them not zero, form `rows` x `columns`. A layer without MACs has no such matrix, all
    of these are 0 then.
    """

    name: str
    rows: int
    columns: int
    weights: int
    nonzero: int
    weight_bits: int
    index_bits: int
    pointer_bits: int
    dense_bits: int
    mask_bits: int
    csr_bits: int


@dataclass(frozen=True)
class SparseSizes:
    """All layers that have parameters; a weight that several layers share is with the first of them."""

    layers: tuple[SparseLayer, ...]

    @property
    def dense_bits(self) -> int:
        """All parameters, each at the width it is stored in."""
        return sum(layer.dense_bits for layer in self.layers)

    @property
    def mask_bits(self) -> int:
        """With the weights as bit mask and non-zero values."""
        return sum(layer.mask_bits for layer in self.layers)

    @property
    def csr_bits(self) -> int:
        """With the weights in compressed sparse rows."""
        return sum(layer.csr_bits for layer in self.layers)

    def to_frame(self) -> pd.DataFrame:
        """One row a layer, with the columns of `SparseLayer`."""
        import pandas as pd

        names = [field.name for field in fields(SparseLayer)]
        return pd.DataFrame([[getattr(layer, name) for name in names] for layer in self.layers], columns=names)


def sparse_sizes(table: LayerTable) -> SparseSizes:
    """What the parameters of the network in `table` take, dense and in the two sparse formats of this module."""
    return SparseSizes(tuple(_sizes(layer) for layer in table.layers if layer.parameters))


def _sizes(layer: Layer) -> SparseLayer:
    if not (layer.weights and layer.macs):
        return SparseLayer(layer.name, *(0,) * 7, *(layer.stored_bits,) * 3)
    bits = layer.weight_bits or 0
    nonzero = layer.effective_macs * layer.weights // layer.macs
    values = math.prod(layer.input_shape if layer.kind == TRANSPOSED else layer.output_shape)
    columns = math.ceil(layer.macs / values)
    rows = math.ceil(layer.weights / columns)
    index, pointer = _width(columns - 1), _width(nonzero)
    others = layer.stored_bits - layer.weights * bits
    return SparseLayer(
        name=layer.name,
        rows=rows,
        columns=columns,
        weights=layer.weights,
        nonzero=nonzero,
        weight_bits=bits,
        index_bits=index,
        pointer_bits=pointer,
        dense_bits=layer.stored_bits,
        mask_bits=others + layer.weights + nonzero * bits,
        csr_bits=others + nonzero * (bits + index) + (rows + 1) * pointer,
    )


def _width(largest: int) -> int:
    """Bits of the narrowest integer that holds 0 to `largest`."""
    return next(width for width in WIDTHS if largest < 2**width)


@dataclass(frozen=True)
class BreakEven:
    """The sparsity (share of zeros, 0..1) above which a sparse format is smaller than the dense one."""

    mask: float
    csr: float


def break_even(weight_bits: int, index_bits: int = 16) -> BreakEven:
    """From which sparsity on a mask, or CSR with column indices of `index_bits`, is smaller than dense weights.

    Of n weights of b bits, a share s of them zero, dense takes n b bits. The mask takes n + (1 - s) n b, less for
    s > 1 / b. CSR takes (1 - s) n (b + i) with indices of i bits, less for s > i / (b + i); its row starts are left
    out here, they move the point up by (rows + 1) x their width / (n (b + i)).
    For int8 that is 0.125 and, with 16-bit indices, 0.667: pruning half of the weights pays with a mask, not with CSR.
    Raises EdgelabError for widths that are not positive.
    """
    if weight_bits < 1 or index_bits < 1:
        raise EdgelabError(f"expected widths of at least 1 bit, got {weight_bits} and {index_bits}")
    return BreakEven(mask=1 / weight_bits, csr=index_bits / (weight_bits + index_bits))
