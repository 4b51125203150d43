"""Sizes of sparse weights agree with matrices that are really stored so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from edgelab import artifact, storage
from edgelab.errors import EdgelabError
from edgelab.layers import Layer, LayerTable, layer_table
from edgelab.storage import SparseLayer

LAYERS = {
    "convolution": (nn.Conv2d(3, 8, 3), (3, 8, 8)),
    "grouped": (nn.Conv2d(8, 12, 3, groups=4, bias=False), (8, 9, 9)),
    "depthwise": (nn.Conv2d(8, 16, 3, groups=8), (8, 9, 9)),
    "wide": (nn.Conv2d(64, 4, 3), (64, 5, 5)),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), (6, 5, 5)),
    "conv1d": (nn.Conv1d(2, 4, 5), (2, 16)),
    "linear": (nn.Linear(300, 7), (300,)),
    "linear on tokens": (nn.Linear(6, 5), (7, 6)),
}


def pruned(layer: nn.Module, share: float, seed: int = 0) -> nn.Module:
    """`layer` with exactly that share of its weights, rounded down, at zero."""
    values = np.random.default_rng(seed).permutation(layer.weight.numel()) + 1.0
    values[values <= int(share * values.size)] = 0
    layer.weight.data = torch.from_numpy(values.astype(np.float32)).reshape(layer.weight.shape)
    return layer


def only(table: LayerTable) -> SparseLayer:
    (layer,) = storage.sparse_sizes(table).layers
    return layer


def width(largest: int) -> int:
    return 8 * np.min_scalar_type(largest).itemsize


@pytest.mark.parametrize("name", LAYERS)
def test_sizes_are_those_of_a_matrix_stored_so(name: str) -> None:
    layer, shape = LAYERS[name]
    found = only(layer_table(nn.Sequential(pruned(layer, 0.6)), shape))
    matrix = layer.weight.detach().numpy().reshape(len(layer.weight), -1)
    rows = sparse.csr_matrix(matrix)
    assert (found.rows, found.columns) == matrix.shape
    assert (found.weights, found.nonzero) == (matrix.size, rows.nnz)
    bias = 0 if layer.bias is None else 32 * layer.bias.numel()
    mask = np.packbits(matrix != 0)
    assert found.dense_bits == 8 * matrix.nbytes + bias
    assert 0 <= 8 * (mask.nbytes + rows.data.nbytes) + bias - found.mask_bits < 8, "the mask ends within a byte"
    index, pointer = width(rows.shape[1] - 1), width(rows.nnz)
    assert (found.index_bits, found.pointer_bits) == (index, pointer)
    assert found.csr_bits == 8 * rows.data.nbytes + index * rows.indices.size + pointer * rows.indptr.size + bias


def test_index_and_pointer_are_as_wide_as_they_must_be() -> None:
    def widths(columns: int, nonzero: int) -> tuple[int, int]:
        row = Layer("l", "fully connected", (columns,), (300,), macs=columns * 300, effective_macs=nonzero)
        found = only(
            LayerTable((Layer(**{**vars(row), "parameters": 1, "weights": columns * 300, "weight_bits": 8}),), {})
        )
        return found.index_bits, found.pointer_bits

    assert widths(256, 255) == (8, 8)
    assert widths(257, 256) == (16, 16)
    assert widths(65_536, 65_535) == (16, 16)
    assert widths(65_537, 65_536) == (32, 32)


def test_totals_count_shared_weights_once_and_keep_the_rest_dense() -> None:
    shared = pruned(nn.Conv2d(4, 4, 3, padding=1), 0.5)
    table = layer_table(nn.Sequential(shared, nn.BatchNorm2d(4), nn.ReLU(), shared), (4, 6, 6))
    sizes = storage.sparse_sizes(table)
    assert [layer.name for layer in sizes.layers] == ["0", "1"]
    assert sizes.layers[1] == SparseLayer("1", 0, 0, 0, 0, 0, 0, 0, 256, 256, 256)
    assert sizes.dense_bits == 32 * (144 + 4 + 8) == 32 * table.parameters
    assert sizes.mask_bits == 144 + 32 * (72 + 4 + 8)
    assert sizes.csr_bits == 72 * (32 + 8) + 5 * 8 + 32 * (4 + 8)
    frame = sizes.to_frame()
    assert list(frame.columns)[:5] == ["name", "rows", "columns", "weights", "nonzero"]
    assert frame[["dense_bits", "mask_bits", "csr_bits"]].sum().tolist() == [
        sizes.dense_bits,
        sizes.mask_bits,
        sizes.csr_bits,
    ]


def test_a_bias_of_its_own_beside_a_shared_weight() -> None:
    first, second = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
    second.weight = first.weight
    layers = storage.sparse_sizes(layer_table(nn.Sequential(first, second), (4, 6, 6))).layers
    assert [layer.weights for layer in layers] == [144, 0]
    assert layers[1].mask_bits == layers[1].dense_bits == 4 * 32


def test_keras_kernels_have_the_same_matrix_whatever_their_layout() -> None:
    with artifact.quiet():
        import tf_keras as keras
    source = keras.Input((8, 8, 4))
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)(keras.layers.Conv2D(6, 3)(source))
    x = keras.layers.Conv2DTranspose(5, 3)(keras.layers.SeparableConv2D(3, 3, use_bias=False)(x))
    table = layer_table(keras.Model(source, keras.layers.Dense(2)(keras.layers.Flatten()(x))))
    conv, depthwise, separable, transposed, dense = storage.sparse_sizes(table).layers
    found = [(layer.rows, layer.columns) for layer in (conv, depthwise, transposed, dense)]
    assert found == [(6, 36), (12, 9), (3, 45), (2, 80)]
    assert separable.weights == 12 * 9 + 12 * 3 and separable.rows * separable.columns >= separable.weights


def test_an_int8_file_keeps_its_biases_at_32_bits(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.zeros((4, 3, 3, 3), np.int8)
    kernel[:, 0] = 1
    constants = {"w": kernel, "b": np.arange(4, dtype=np.int32), "s": np.float32(0.1), "z": np.int8(0)}
    constants["bz"] = np.int32(0)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"]),
        helper.make_node("DequantizeLinear", ["b", "s", "bz"], ["bf"]),
        helper.make_node("Conv", ["x", "wf", "bf"], ["y"]),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n, m, m])
        for name, n, m in (("x", 3, 8), ("y", 4, 6))
    ]
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    found = only(layer_table(tmp_path / "m.onnx"))
    assert (found.rows, found.columns, found.nonzero, found.weight_bits) == (4, 27, 36, 8)
    assert (found.dense_bits, found.mask_bits) == (108 * 8 + 4 * 32, 108 + 36 * 8 + 4 * 32)


# Break-even


@pytest.mark.parametrize(
    ("weight", "index", "mask", "csr"),
    [(8, 16, 0.125, 2 / 3), (8, 8, 0.125, 0.5), (32, 16, 1 / 32, 1 / 3), (4, 8, 0.25, 2 / 3), (1, 8, 1.0, 8 / 9)],
)
def test_break_even_by_hand(weight: int, index: int, mask: float, csr: float) -> None:
    found = storage.break_even(weight, index)
    assert (found.mask, found.csr) == pytest.approx((mask, csr))


@pytest.mark.parametrize(("columns", "index"), [(200, 8), (1000, 16)])
def test_sizes_cross_where_break_even_says(columns: int, index: int) -> None:
    expected = storage.break_even(32, index)
    layer = nn.Linear(columns, 400, bias=False)

    def sizes(share: float) -> SparseLayer:
        return only(layer_table(nn.Sequential(pruned(layer, share)), (columns,)))

    below, above = sizes(expected.mask - 0.002), sizes(expected.mask + 0.002)
    assert below.mask_bits > below.dense_bits and above.mask_bits < above.dense_bits
    assert below.index_bits == index
    pointers = 401 * below.pointer_bits / (layer.weight.numel() * (32 + index))
    below, above = (sizes(expected.csr + pointers + step) for step in (-0.002, 0.002))
    assert below.csr_bits > below.dense_bits and above.csr_bits < above.dense_bits
    assert pointers < 0.02


@pytest.mark.parametrize(("weight", "index"), [(0, 8), (8, 0)])
def test_break_even_refuses_widths_that_are_none(weight: int, index: int) -> None:
    with pytest.raises(EdgelabError, match=f"at least 1 bit, got {weight} and {index}"):
        storage.break_even(weight, index)
