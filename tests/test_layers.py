"""What `layer_table` counts agrees with independent counts, in all four forms and for every kind of layer."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgelab import artifact
from edgelab.errors import EdgelabError
from edgelab.layers import LayerTable, layer_table

with artifact.quiet():
    import tf_keras as keras

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

RNG = np.random.default_rng(0)
OURS = {"plain_cnn": (10_848_768, 620_362), "resnet8": (12_501_632, 77_946), "ds_cnn": (8_926_464, 95_946)}


def flops_half(model: nn.Module, *shape: int) -> int:
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2


def totals(table: LayerTable) -> tuple[int, int, int, int]:
    return table.macs, table.effective_macs, table.parameters, table.nonzero


def tflite(model: keras.Model, path: Path, batch: int | None = None) -> Path:
    if batch:
        fixed = keras.Input(batch_shape=(batch, *model.input_shape[1:]))
        model = keras.Model(fixed, model(fixed))
    return artifact.save(model, path).path


# Our three networks


@pytest.fixture(scope="module", params=OURS)
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """One of the course's networks, every weight random, half of the weights of one layer zero, in all four forms."""
    from edgelab.pytorch import models as torch_models
    from edgelab.tensorflow import models as keras_models

    arrays = torch_models.to_arrays(torch_models.build(request.param))
    arrays = {name: (1 + RNG.random(values.shape)).astype(np.float32) for name, values in arrays.items()}
    pruned = next(name for name in reversed(arrays) if arrays[name].ndim == 4)
    arrays[pruned].reshape(-1)[::2] = 0
    folder = tmp_path_factory.mktemp(request.param)
    forms = {
        "torch": torch_models.from_arrays(torch_models.build(request.param), arrays),
        "keras": keras_models.from_arrays(keras_models.build(request.param), arrays),
    }
    forms["onnx"] = artifact.save(forms["torch"], folder / "model.onnx").path
    forms["tflite"] = artifact.save(forms["keras"], folder / "model.tflite").path
    tables = {form: layer_table(model) for form, model in forms.items()}
    return {"name": request.param, "torch": forms["torch"], "pruned": pruned, "tables": tables}


def test_ours_have_the_same_macs_in_all_four_forms(ours: dict) -> None:
    macs, parameters = OURS[ours["name"]]
    tables = ours["tables"]
    assert {form: table.macs for form, table in tables.items()} == dict.fromkeys(tables, macs)
    assert flops_half(ours["torch"], 3, 32, 32) == macs
    assert tables["torch"].parameters == tables["keras"].parameters == parameters
    assert parameters == sum(values.numel() for values in ours["torch"].parameters())


def test_zero_weights_lower_the_effective_macs_alike_in_all_four_forms(ours: dict) -> None:
    tables = ours["tables"]
    layer = next(row for row in tables["torch"].layers if f"{row.name}.weight" == ours["pruned"])
    assert layer.effective_macs == layer.macs // 2 > 0
    missing = {form: table.macs - table.effective_macs for form, table in tables.items()}
    assert missing == dict.fromkeys(tables, layer.macs // 2)
    zeros = {form: table.parameters - table.nonzero for form, table in tables.items()}
    weights = math.prod(ours["torch"].state_dict()[ours["pruned"]].shape)
    assert zeros["torch"] == zeros["keras"] == zeros["onnx"] == weights // 2
    assert zeros["tflite"] >= weights // 2


def test_a_file_holds_one_bias_where_the_module_has_scale_and_shift(ours: dict) -> None:
    tables = ours["tables"]
    scales = sum(row.parameters for row in tables["torch"].layers if row.kind == "BatchNorm2d") // 2
    assert tables["onnx"].parameters == tables["torch"].parameters - scales
    assert 0 <= tables["tflite"].parameters - tables["onnx"].parameters <= 128


def test_counted_layers_agree_one_by_one(ours: dict) -> None:
    def counted(form: str) -> list[tuple]:
        return sorted(
            (row.kind, row.kernel, row.macs, row.weight_bits) for row in ours["tables"][form].layers if row.macs
        )

    assert counted("torch") == counted("onnx")
    assert [row[2] for row in counted("keras")] == [row[2] for row in counted("tflite")]
    assert sorted(row[2] for row in counted("torch")) == sorted(row[2] for row in counted("keras"))


# Torch


class Odd(nn.Module):
    """A shared layer, a functional convolution, an activation product and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 3, padding=1)
        self.unused = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shared(self.shared(x)) * self.scale
        x = nn.functional.conv2d(x, torch.ones(3, 3, 1, 1))
        return x @ x.transpose(2, 3)


LAYERS = {
    "grouped": (nn.Conv2d(8, 12, 3, groups=4), (8, 9, 9), 12 * 2 * 9 * 49),
    "depthwise": (nn.Conv2d(8, 16, 3, padding=1, groups=8), (8, 9, 9), 16 * 9 * 81),
    "dilated": (nn.Conv2d(2, 4, 3, dilation=2), (2, 9, 9), 4 * 2 * 9 * 25),
    "strided": (nn.Conv2d(2, 4, (3, 1), stride=(2, 1)), (2, 9, 9), 4 * 2 * 3 * 4 * 9),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5), 4 * 3 * 9 * 25),
    "conv1d": (nn.Conv1d(2, 4, 5), (2, 16), 4 * 2 * 5 * 12),
    "conv3d": (nn.Conv3d(1, 2, 3), (1, 5, 5, 5), 2 * 27 * 27),
    "linear on tokens": (nn.Linear(6, 5), (7, 6), 7 * 30),
}


@pytest.mark.parametrize("name", LAYERS)
def test_torch_layers_against_the_hand_count_and_the_flop_counter(name: str) -> None:
    layer, shape, macs = LAYERS[name]
    table = layer_table(nn.Sequential(layer), shape)
    assert table.macs == macs == flops_half(nn.Sequential(layer), *shape)
    assert table.parameters == sum(values.numel() for values in layer.parameters())
    assert table.uncounted == {}


def test_a_torch_row_says_what_the_layer_is() -> None:
    table = layer_table(nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, groups=8, bias=False).half()), (8, 9, 9))
    (row,) = table.layers
    assert (row.name, row.kind) == ("0", "depthwise convolution")
    assert (row.input_shape, row.output_shape) == ((8, 9, 9), (16, 4, 4))
    assert (row.kernel, row.stride, row.groups) == ((3, 3), (2, 2), 8)
    assert (row.weight_bits, row.activation_bits, row.parameters) == (16, 16, 144)


def test_torch_shares_weights_and_names_what_it_leaves_out() -> None:
    model = Odd()
    model.shared.train()
    table = layer_table(model, (3, 4, 4))
    assert table.macs == 2 * 81 * 16, "called twice: computed twice"
    assert [row.parameters for row in table.layers] == [84, 0, 3, 8]
    assert table.parameters == sum(values.numel() for values in model.parameters())
    assert table.uncounted == {"bmm": 1, "convolution": 1, "mul": 1, "ones": 1}
    assert model.shared.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_torch_counts_pruned_weights_as_they_are_used() -> None:
    from torch.nn.utils import parametrizations, prune

    layer = nn.Linear(10, 4)
    prune.l1_unstructured(layer, "weight", 0.75)
    table = layer_table(nn.Sequential(layer), (10,))
    assert totals(table) == (40, 10, 44, 14)
    normed = layer_table(nn.Sequential(parametrizations.weight_norm(nn.Linear(10, 4))), (10,))
    assert (normed.macs, normed.parameters) == (40, 44)


class Encoder(nn.Module):
    """One block of a transformer on ten tokens of 32 numbers."""

    input_shape = (1, 10, 32)

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x.squeeze(1))


SCORES = 2 * 10 * 10 * 32  # queries by keys, and their softmax by values


def test_attention_has_the_same_macs_in_torch_and_in_its_file(tmp_path: Path) -> None:
    model = Encoder().eval()
    assert torch.backends.mha.get_fastpath_enabled()
    table = layer_table(model)
    assert torch.backends.mha.get_fastpath_enabled()
    assert table.macs == 10 * 32 * (3 * 32 + 32 + 2 * 64)
    assert flops_half(model, 1, 10, 32) in (table.macs, table.macs + SCORES), (
        "not every kernel's scores are known there"
    )
    assert [(row.name, row.macs, row.parameters) for row in table.layers if row.macs] == [
        ("block.self_attn", 30_720, 3_168),
        ("block.self_attn.out_proj", 10_240, 1_056),
        ("block.linear1", 20_480, 2_112),
        ("block.linear2", 20_480, 2_080),
    ]
    assert table.parameters == sum(values.numel() for values in model.parameters())
    assert any("attention" in name for name in table.uncounted)
    file = layer_table(artifact.save(model, tmp_path / "m.onnx").path)
    assert (file.macs, file.uncounted["MatMul"]) == (table.macs, 2)


def test_attention_to_another_sequence_uses_parts_of_one_weight() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x[:, :5], x, x)[0]

    model = Cross()
    with torch.no_grad():
        model.attention.in_proj_weight[:16] = 0
    table = layer_table(model, (10, 32))
    assert [row.macs for row in table.layers] == [5 * 1024, 2 * 10 * 1024, 5 * 1024]
    assert table.macs == flops_half(model, 10, 32) - SCORES // 2
    assert table.layers[0].effective_macs == table.layers[0].macs // 2
    assert table.parameters == sum(values.numel() for values in model.parameters())
    assert table.uncounted["bmm"] == 2


class Functional(nn.Module):
    """Convolutions and products with its own parameters, without a layer but one, whose weight is used again."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {"depthwise": (6, 1, 3, 3), "transposed": (6, 2, 2, 2), "heads": (1, 8, 3), "bias": (6,), "gain": (1,)}
        self.own = nn.ParameterDict({name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()})
        self.layer = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.conv2d(x, self.own["depthwise"], self.own["bias"], 2, 1, groups=3)
        x = nn.functional.conv_transpose2d(x, self.own["transposed"], stride=2, groups=3) * self.own["gain"]
        x = self.layer(nn.functional.linear(self.layer(x[..., :16]), self.layer.weight.t()))
        x = x.flatten(1, 2)
        return torch.bmm(x, self.own["heads"]) @ torch.bmm(x, self.own["heads"]).mT


def test_torch_counts_products_with_bare_parameters_once() -> None:
    model = Functional()
    table = layer_table(model, (3, 16, 16))
    macs = [54 * 64, 48 * 64, 6 * 16 * 128, 6 * 16 * 128, 6 * 16 * 128, 96 * 24, 96 * 24]
    assert [row.macs for row in table.layers] == [*macs, 0]
    assert [row.parameters for row in table.layers] == [54 + 6, 48, 136, 0, 0, 24, 0, 1]
    assert table.macs == flops_half(model, 3, 16, 16) - 96 * 96 * 3
    assert table.uncounted == {"bmm": 1, "mul": 1}
    depthwise, transposed, *_ = table.layers
    assert (depthwise.kind, transposed.kind) == ("depthwise convolution", "transposed convolution")
    assert (depthwise.kernel, depthwise.stride, depthwise.groups) == ((3, 3), (2, 2), 3)
    assert (depthwise.input_shape, depthwise.output_shape) == ((3, 16, 16), (6, 8, 8))


def test_a_torch_layer_with_its_own_products_has_one_row() -> None:
    class Leaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.scale = nn.Parameter(torch.ones(4, 3, 3, 3)), nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(x, self.weight) * self.scale

    table = layer_table(nn.Sequential(Leaf()), (3, 8, 8))
    assert [(row.name, row.macs, row.parameters) for row in table.layers] == [("0", 3_888, 108), ("0", 0, 4)]
    assert table.uncounted == {"mul": 1}


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_recurrent_torch_layers_are_left_out_and_named(kind: str) -> None:
    model = nn.Sequential(getattr(nn, kind)(8, 16))
    table = layer_table(model, (8,))
    assert (table.macs, table.uncounted) == (0, {kind: 1})
    assert table.parameters == sum(values.numel() for values in model.parameters())


def test_a_frozen_layer_still_has_its_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 2)).requires_grad_(False)
    assert layer_table(model, (4,)).parameters == 10
    layer = keras.layers.Dense(2)
    frozen = keras.Sequential([keras.Input((4,)), layer])
    layer.trainable = False
    assert layer_table(frozen).parameters == 10


# Keras


def keras_layers() -> keras.Model:
    """One of each kind, with a shared layer and a residual addition."""
    layers, source = keras.layers, keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, groups=2, padding="same")(source)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x)
    x = layers.SeparableConv2D(4, 3, padding="same", use_bias=False)(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(x)
    shared = layers.Conv2D(4, 3, dilation_rate=2, padding="same", use_bias=False)
    x = layers.Add()([shared(shared(x)), x])
    inner_source = keras.Input((16, 16, 4))
    inner = keras.Model(inner_source, layers.Conv2D(2, 1, name="inside")(inner_source))
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(inner(x)))
    return keras.Model(source, layers.Dense(3)(x))


HAND = {
    "grouped": 8 * 2 * 9 * 64,
    "depthwise": 16 * 9 * 64,
    "separable": 16 * 9 * 64 + 16 * 4 * 64,
    "transposed": 4 * 4 * 9 * 64,
    "shared, twice": 2 * 4 * 4 * 9 * 256,
    "inside": 4 * 2 * 256,
    "dense": 6,
}


def test_keras_layers_against_the_hand_count() -> None:
    model = keras_layers()
    table = layer_table(model)
    assert [row.macs for row in table.layers if row.macs] == [
        *list(HAND.values())[:4],
        9 * 16 * 256,
        9 * 16 * 256,
        2048,
        6,
    ]
    assert table.parameters == sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert table.uncounted == {"Add": 1, "BatchNormalization": 1, "GlobalAveragePooling2D": 1}
    assert not any("call" in vars(layer) for layer in model.layers)


@pytest.mark.parametrize("batch", [None, 4])
def test_tflite_agrees_with_keras_whatever_the_batch(tmp_path: Path, batch: int | None) -> None:
    table = layer_table(tflite(keras_layers(), tmp_path / "m.tflite", batch))
    assert table.macs == sum(HAND.values())
    assert table.layers[0].input_shape == (8, 8, 4)
    kinds = {row.kind for row in table.layers if row.macs}
    assert kinds == {"convolution", "depthwise convolution", "transposed convolution", "fully connected"}
    assert "ADD" in table.uncounted and "MEAN" in table.uncounted


def test_a_keras_batch_is_counted_per_image() -> None:
    source = keras.Input(batch_shape=(4, 8, 8, 3))
    x = keras.layers.Conv2D(2, 3, padding="same")(source)
    x = keras.layers.Reshape((8, 16))(x)
    model = keras.Model(source, keras.layers.TimeDistributed(keras.layers.Dense(5))(x))
    assert layer_table(model).macs == 27 * 2 * 64 + 8 * 16 * 5


def test_keras_3_and_subclassed_models() -> None:
    with artifact.quiet():
        import keras as keras3

    model = keras3.Sequential([keras3.Input((8, 8, 3)), keras3.layers.SeparableConv2D(4, 3), keras3.layers.Dense(2)])
    table = layer_table(model)
    assert (table.macs, table.parameters) == ((27 + 12) * 36 + 8 * 36, model.count_params())

    class Subclassed(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, x: object, training: bool = False) -> object:
            return self.dense(x)

    assert layer_table(Subclassed(), (6,)).macs == 24
    with pytest.raises(EdgelabError, match=r"leaves its input shape open: give input_shape"):
        layer_table(Subclassed())


def recurrent(framework: ModuleType) -> dict[str, Any]:
    layers = framework.layers

    class Cell(layers.Layer):
        state_size = output_size = 4

        def __init__(self) -> None:
            super().__init__()
            self.dense = layers.Dense(4)

        def build(self, shape: Any) -> None:
            self.dense.build(shape)

        def call(self, x: Any, states: Any) -> Any:
            made = self.dense(x) + states[0]
            return made, [made]

    return {
        "LSTM": layers.LSTM(16),
        "GRU": layers.GRU(16, return_sequences=True),
        "SimpleRNN": layers.SimpleRNN(16),
        "Bidirectional": layers.Bidirectional(layers.LSTM(16)),
        "stacked": layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)]),
        "own cell": layers.RNN(Cell()),
    }


RECURRENT = {
    **{kind: {kind: 1} for kind in ("LSTM", "GRU", "SimpleRNN")},
    "Bidirectional": {"LSTM": 2},
    "stacked": {"RNN": 1},
    "own cell": {"RNN": 1},
}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_keras_layers_are_left_out_and_named(name: str, version: int) -> None:
    with artifact.quiet():
        import keras as keras3
    framework = keras if version == 2 else keras3
    source = framework.Input((10, 8))
    model = framework.Model(source, recurrent(framework)[name](source))
    table = layer_table(model)
    assert (table.macs, table.uncounted) == (0, RECURRENT[name])
    assert table.parameters == model.count_params()


EINSUM = {
    "abc,cde->abde": ((None, 3, 4), 10 * 8 * 12),
    "abc,cde->adbe": ((3, None, 4), 10 * 8 * 12),
    "abc,bce->abe": ((10, 5), 10 * 8 * 5),
    "...x,xy->...y": (5, 10 * 8 * 5),
    "ab...,bc->ac...": (5, 10 * 8 * 5),
}


@pytest.mark.parametrize("equation", EINSUM)
def test_keras_einsum_agrees_with_its_file(tmp_path: Path, equation: str) -> None:
    shape, macs = EINSUM[equation]
    source = keras.Input((10, 8))
    model = keras.Model(source, keras.layers.EinsumDense(equation, shape)(source))
    table = layer_table(model)
    assert (table.macs, table.uncounted) == (macs, {})
    assert layer_table(tflite(model, tmp_path / "m.tflite")).macs == macs


def test_attention_has_the_same_macs_in_keras_its_file_and_torch(tmp_path: Path) -> None:
    source = keras.Input((10, 32))
    model = keras.Model(source, keras.layers.MultiHeadAttention(4, 8)(source, source))
    table, file = layer_table(model), layer_table(tflite(model, tmp_path / "m.tflite"))
    block = [row for row in layer_table(Encoder()).layers if "self_attn" in row.name]
    assert table.macs == file.macs == sum(row.macs for row in block) == 4 * 10 * 32 * 32
    assert table.parameters == sum(row.parameters for row in block)
    assert table.uncounted["MultiHeadAttention"] == 1 and file.uncounted["BATCH_MATMUL"] == 2


def test_keras_names_what_it_cannot_see() -> None:
    class Mixed(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.unused = keras.layers.Dense(8), keras.layers.PReLU()
            self.unused.build((None, 4))

        def call(self, x: Any) -> Any:
            return self.dense(x) * x

    source = keras.Input((8,))
    table = layer_table(keras.Model(source, Mixed()(source)))
    assert (table.macs, table.parameters, table.uncounted) == (64, 76, {"Mixed": 1, "PReLU": 1})


APPLICATIONS = {  # published counts of multiply-accumulates and of trainable parameters at 224x224
    "MobileNetV2": (300_774_272, 3_504_872),
    "ResNet50": (3_857_973_248, 25_583_592),
    "MobileNetV3Small": (None, 2_542_856),
}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_keras_applications_against_an_independent_count(name: str) -> None:
    model = getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3))
    table = layer_table(model)
    published, parameters = APPLICATIONS[name]
    by_config = sum(_from_config(layer) for layer in model.layers)
    assert table.macs == by_config == (published or by_config)
    assert table.parameters == sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert abs(table.parameters - parameters) <= 20_000


def _from_config(layer: keras.layers.Layer) -> int:
    """MACs from what a layer was configured with and its output's shape, without looking at a weight."""
    config, kind = layer.get_config(), type(layer).__name__
    if kind == "Dense":
        return layer.input_shape[-1] * config["units"] * math.prod(layer.output_shape[1:-1])
    if kind not in ("Conv2D", "DepthwiseConv2D"):
        return 0
    _, height, width, outputs = layer.output_shape
    inputs = layer.input_shape[-1] // config["groups"] if kind == "Conv2D" else 1
    return height * width * outputs * inputs * math.prod(config["kernel_size"])


# TFLite


def test_tflite_int8_has_its_bits_and_the_same_macs(tmp_path: Path) -> None:
    import tensorflow as tf

    source = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, use_bias=False)(source)
    model = keras.Model(source, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    kernel = model.layers[1].get_weights()[0]
    kernel[..., :2] = 0
    model.layers[1].set_weights([kernel])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    path = tmp_path / "m.tflite"
    with artifact.quiet():
        path.write_bytes(converter.convert())
        assert layer_table(path).layers[0].activation_bits == 32
        converter.representative_dataset = lambda: [[RNG.random((1, 8, 8, 3), np.float32)] for _ in range(4)]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        path.write_bytes(converter.convert())
    table = layer_table(path)
    conv = next(row for row in table.layers if row.kind == "convolution")
    assert (conv.weight_bits, conv.activation_bits) == (8, 8)
    assert conv.macs == 27 * 4 * 36 and conv.effective_macs <= conv.macs // 2
    assert table.macs == conv.macs + 144 * 2


def test_tflite_half_precision_weights_are_16_bits_wide(tmp_path: Path) -> None:
    import tensorflow as tf

    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3)])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations, converter.target_spec.supported_types = [tf.lite.Optimize.DEFAULT], [tf.float16]
    with artifact.quiet():
        (tmp_path / "m.tflite").write_bytes(converter.convert())
    (row,) = layer_table(tmp_path / "m.tflite").layers
    assert (row.weight_bits, row.activation_bits, row.parameters, row.macs) == (16, 32, 56, 54 * 4)


def test_tflite_of_an_open_size_needs_an_input_shape(tmp_path: Path) -> None:
    source = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(2, 3, padding="same")(keras.layers.Conv2D(4, 3, strides=2, padding="same")(source))
    path = tflite(keras.Model(source, keras.layers.GlobalAveragePooling2D()(x)), tmp_path / "m.tflite")
    with pytest.raises(EdgelabError, match=r"m\.tflite leaves its input shape open: give input_shape"):
        layer_table(path)
    assert layer_table(path, (16, 8, 3)).macs == (27 * 4 + 36 * 2) * 32


# ONNX


def onnx_file(path: Path, nodes: list, shape: list, **constants: np.ndarray) -> Path:
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape), onnx.ValueInfoProto(name="y")]
    ports[1].type.tensor_type.elem_type = TensorProto.FLOAT
    initializers = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in nodes], "g", ports[:1], ports[1:], initializers
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch", ["n", 5])
def test_onnx_layers_as_torch_exports_them(tmp_path: Path, name: str, batch: str | int) -> None:
    layer, shape, macs = LAYERS[name]
    kinds = {"transposed": "ConvTranspose", "linear on tokens": "MatMul"}
    values = layer.weight.detach().numpy()
    values = values.T if name == "linear on tokens" else values
    extra = {key: list(getattr(layer, key)) for key in ("strides", "dilations") if hasattr(layer, key)}
    if hasattr(layer, "stride"):
        pads = [] if isinstance(layer.padding, str) else [*layer.padding, *layer.padding]
        extra = {"strides": layer.stride, "dilations": layer.dilation, "group": layer.groups, "pads": pads}
    path = onnx_file(
        tmp_path / "m.onnx", [(kinds.get(name, "Conv"), ["x", "w"], ["y"], extra)], [batch, *shape], w=values
    )
    table = layer_table(path)
    assert (table.macs, table.parameters) == (macs, layer.weight.numel())
    assert table.layers[0].input_shape == shape


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
def test_quantized_onnx_counts_as_the_float_file_does(tmp_path: Path, form: str) -> None:
    from onnxruntime import quantization as q

    nodes = [
        ("Conv", ["x", "w", "b"], ["c"], {"pads": [1, 1, 1, 1]}),
        ("Relu", ["c"], ["r"], {}),
        ("Add", ["r", "x"], ["a"], {}),
        ("GlobalAveragePool", ["a"], ["p"], {}),
        ("Flatten", ["p"], ["f"], {}),
        ("Gemm", ["f", "g", "h"], ["y"], {"transB": 1}),
    ]
    kernel = weights(4, 4, 3, 3)
    kernel[:2] = 0
    source = onnx_file(
        tmp_path / "f.onnx", nodes, ["n", 4, 8, 8], w=kernel, b=weights(4), g=weights(3, 4), h=weights(3)
    )
    quantized = tmp_path / "q.onnx"

    class Reader(q.CalibrationDataReader):
        rows = iter([{"x": weights(1, 4, 8, 8)} for _ in range(4)])

        def get_next(self) -> dict | None:
            return next(self.rows, None)

    with artifact.quiet():
        if form == "dynamic":
            q.quantize_dynamic(source, quantized, weight_type=q.QuantType.QUInt8)
        else:
            q.quantize_static(source, quantized, Reader(), quant_format=q.QuantFormat[form], per_channel=form == "QDQ")
    expected, table = layer_table(source), layer_table(quantized)
    assert expected.macs == 144 * 64 + 12 and expected.effective_macs == 72 * 64 + 12
    assert (table.macs, table.effective_macs) == (expected.macs, expected.effective_macs)
    conv = next(row for row in table.layers if row.kind == "convolution")
    assert (conv.weight_bits, conv.activation_bits) == (8, 8)
    assert conv.input_shape == (4, 8, 8)
    if form != "dynamic":
        assert table.parameters == expected.parameters == 144 + 4 + 12 + 3


def test_onnx_shared_weights_unknown_products_and_scales(tmp_path: Path) -> None:
    nodes = [
        ("MatMul", ["x", "w"], ["a"], {}),
        ("MatMul", ["a", "w"], ["b"], {}),
        ("Mul", ["b", "s"], ["c"], {}),
        ("Mul", ["c", "one"], ["d"], {}),
        ("MatMul", ["d", "d"], ["y"], {}),
    ]
    path = onnx_file(tmp_path / "m.onnx", nodes, ["n", 6, 6], w=weights(6, 6), s=weights(6), one=weights(1))
    table = layer_table(path)
    assert [row.macs for row in table.layers] == [216, 216, 0, 0, 0]
    assert [row.parameters for row in table.layers] == [36, 0, 6, 0, 0]
    assert table.uncounted == {"MatMul": 1, "Mul": 2}


def test_onnx_shapes_that_cannot_be_inferred_come_from_a_run(tmp_path: Path) -> None:
    nodes = [
        ("NonZero", ["x"], ["z"], {}),
        ("Shape", ["z"], ["l"], {}),
        ("Slice", ["x", "from", "l", "axis"], ["s"], {}),
        ("Reshape", ["x", "to"], ["r"], {}),
        ("QuickGelu", ["r"], ["g"], {"domain": "com.microsoft"}),
        ("MatMul", ["g", "w"], ["y"], {}),
    ]
    sizes = {"from": np.array([0, 0]), "axis": np.array([0, 1]), "to": np.array([-1, 8, 4])}
    path = onnx_file(tmp_path / "m.onnx", nodes, ["n", 32], w=weights(4, 5), **sizes)
    table = layer_table(path)
    assert table.macs == 8 * 20
    assert table.layers[-1].output_shape == (8, 5)


def test_onnx_of_an_open_size_needs_an_input_shape(tmp_path: Path) -> None:
    nodes = [("Conv", ["x", "w"], ["y"], {})]
    path = onnx_file(tmp_path / "m.onnx", nodes, ["n", 3, "h", "w_"], w=weights(2, 3, 3, 3))
    with pytest.raises(EdgelabError, match=r"m\.onnx leaves its input shape open: give input_shape, \(channels,"):
        layer_table(path)
    assert layer_table(path, (3, 6, 5)).macs == 54 * 12


# The table and its errors


def test_the_table_as_a_frame() -> None:
    frame = layer_table(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())).to_frame()
    assert list(frame.columns) == [
        *("name", "kind", "input_shape", "output_shape", "kernel", "stride", "groups"),
        *("parameters", "nonzero", "macs", "effective_macs", "weight_bits", "activation_bits"),
        *("weights", "stored_bits"),
    ]
    assert frame.input_shape.tolist() == ["3x32x32", "4x30x30"]
    assert frame.macs.sum() == 108 * 900
    assert frame.weight_bits.isna().tolist() == [False, True]


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx"])
@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"\x08\x00\x00\x00TFL3" + b"\xff" * 64])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EdgelabError, match=rf"is no {name[2:]} model|leaves its|with an input") as caught:
        layer_table(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_counted_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgelabError, match=r"there is no model file at .*none\.onnx"):
        layer_table(tmp_path / "none.onnx")
    with pytest.raises(EdgelabError, match=r"ending in \.tflite or \.onnx, got 'm\.h5'"):
        layer_table(tmp_path / "m.h5")
    with pytest.raises(EdgelabError, match=r"expected a torch module, a Keras model or a path .* got int"):
        layer_table(3)  # type: ignore[arg-type]
    with pytest.raises(EdgelabError, match=r"Linear does not run on the input shape \(7,\)"):
        layer_table(nn.Linear(6, 2), (7,))


def test_counting_one_form_loads_no_framework_of_another(tmp_path: Path) -> None:
    import subprocess
    import sys

    onnx_path = onnx_file(tmp_path / "m.onnx", [("MatMul", ["x", "w"], ["y"], {})], ["n", 6], w=weights(6, 6))
    source = (
        f"import sys; from edgelab.layers import layer_table; assert layer_table({str(onnx_path)!r}).macs == 36\n"
        "import edgelab.artifact, edgelab.ledger, edgelab.plots, edgelab.layers.torch_module\n"
        "heavy = {'torch', 'tensorflow', 'tf_keras', 'keras', 'matplotlib', 'pandas', 'ai_edge_litert'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    folder = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=folder)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_single_quantized_number_has_no_axis() -> None:
    """A scalar constant with a zero point, as in an int8 hard swish."""
    from types import SimpleNamespace

    from edgelab.layers.tflite_file import Graph

    tensor = SimpleNamespace(quantization=SimpleNamespace(zeroPoint=np.array([-5]), quantizedDimension=0))
    assert Graph._values(tensor, np.array([3], np.uint8), "INT8", ()) == 8
