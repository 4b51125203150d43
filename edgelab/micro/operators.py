"""The operators TensorFlow Lite Micro has: what to call on its `MicroMutableOpResolver` to have one linked in.

The names are those of the functions that the runtime's own Python interpreter calls (tflite-micro,
python/tflite_micro/python_ops_resolver.cc); a test runs files through that interpreter. Operators of signal processing
that no converter writes are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgelab.errors import EdgelabError

ADDED = """
Abs Add AddN ArgMax ArgMin AssignVariable AveragePool2D BatchToSpaceNd BroadcastArgs BroadcastTo CallOnce Cast Ceil
CircularBuffer Concatenation Conv2D Cos CumSum DepthToSpace DepthwiseConv2D Dequantize Div Elu Equal EthosU Exp
ExpandDims Fill Floor FloorDiv FloorMod FullyConnected Gather GatherNd Greater GreaterEqual HardSwish If
L2Normalization L2Pool2D LeakyRelu Less LessEqual Log LogSoftmax LogicalAnd LogicalNot LogicalOr Logistic MaxPool2D
Maximum Mean Minimum MirrorPad Mul Neg NotEqual Pack Pad PadV2 Prelu Quantize ReadVariable ReduceMax Relu Relu6 Reshape
ResizeBilinear ResizeNearestNeighbor Round Rsqrt SelectV2 Shape Sin Slice Softmax SpaceToBatchNd SpaceToDepth Split
SplitV Sqrt Square SquaredDifference Squeeze StridedSlice Sub Sum Svdf Tanh Transpose TransposeConv
UnidirectionalSequenceLSTM Unpack VarHandle While ZerosLike
"""
_BY_NAME = {name.lower(): f"Add{name}" for name in ADDED.split()}


def adders(kinds: Iterable[str], file: str) -> tuple[str, ...]:
    """The functions that add these operators, such as AddConv2D for CONV_2D, in order and each once.

    Raises EdgelabError, which names the `file` and the operator, where the runtime has none of that name.
    """
    found = []
    for kind in dict.fromkeys(kinds):
        name = re.sub(r"[^a-z0-9]", "", kind.lower())
        if name not in _BY_NAME:
            raise EdgelabError(
                f"{file}: TensorFlow Lite Micro has no operator {kind}: make the network without it, or write a kernel"
            )
        found.append(_BY_NAME[name])
    return tuple(sorted(found))
