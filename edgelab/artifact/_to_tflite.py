"""Converting a tf_keras model to the bytes of a .tflite file."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from edgelab.errors import EdgelabError

if TYPE_CHECKING:
    import tf_keras as keras

CALIBRATED = ("int8", "int8_per_tensor", "int16x8")
SCHEMES = ("float32", "float16", "dynamic", *CALIBRATED)


def to_tflite(model: keras.Model, scheme: str, values: np.ndarray | None, keep_float: Sequence[str]) -> bytes:
    """The file's content. `values` are the model's inputs (n, height, width, channels) float32 to calibrate with."""
    import tensorflow as tf

    with TemporaryDirectory() as folder, _little_to_collect():
        _save_frozen(model, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        _set_scheme(converter, scheme, values)
        if not keep_float:
            return converter.convert()
        nodes = _outputs_of(tf.lite.TFLiteConverter.from_saved_model(folder).convert(), keep_float)
        options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=nodes, fully_quantize=True)
        return tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_options=options
        ).get_nondebug_quantized_model()


@contextmanager
def _little_to_collect() -> Iterator[None]:
    """Python's garbage collector, which the converter calls, looks at objects made within and at no others.

    In a process that has imported both frameworks it would spend a third of the conversion on the others.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _save_frozen(model: keras.Model, folder: str) -> None:
    """Write the model's function, its weights as constants, where the converter reads it.

    The converter would otherwise trace and save every Keras layer on its own: the file is the same, but for a network
    of many layers it takes seven times as long.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    (source,), (name,) = model.inputs, model.output_names
    taken = [tf.TensorSpec(source.shape, source.dtype, name=model.input_names[0])]
    call = tf.function(lambda images: model(images, training=False), input_signature=taken)
    frozen = convert_variables_to_constants_v2(call.get_concrete_function())
    module = tf.Module()
    module.call = tf.function(lambda images: {name: frozen(images)[0]}, input_signature=taken)
    tf.saved_model.save(module, folder, signatures=module.call)


def _set_scheme(converter: Any, scheme: str, values: np.ndarray | None) -> None:
    """The converter's settings for `scheme`."""
    import tensorflow as tf

    if scheme == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if scheme not in CALIBRATED:
        return
    whole = tf.int16 if scheme == "int16x8" else tf.int8
    converter.inference_input_type = converter.inference_output_type = whole
    converter._experimental_disable_per_channel = scheme == "int8_per_tensor"
    if values is None:
        return
    sets = tf.lite.OpsSet
    wide = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    converter.target_spec.supported_ops = [wide if scheme == "int16x8" else sets.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([value[None]] for value in values)


def _outputs_of(content: bytes, layers: Sequence[str]) -> list[str]:
    """The names of what the operators of `layers` put out in the file `content`.

    An operator belongs to a layer that one of its tensors is named after: "blocks.3" holds "net/blocks/3/relu/Relu".
    Raises EdgelabError where a layer has no operator.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph: Any = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
    tensors = [tensor.name.decode() for tensor in graph.tensors]
    outputs = {}
    for op in graph.operators:
        own = [int(op.outputs[0]), *(int(i) for i in op.inputs[1:] if i >= 0)]
        outputs[tensors[own[0]]] = {part.split("/", 1)[-1] + "/" for i in own for part in tensors[i].split(";")}
    found = []
    for layer in layers:
        start = layer.replace(".", "/") + "/"
        nodes = [output for output, parts in outputs.items() if any(part.startswith(start) for part in parts)]
        if not nodes:
            known = ", ".join(dict.fromkeys(name.split(";")[0].split("/", 1)[-1] for name in outputs))
            raise EdgelabError(f"keep_float: there is no layer {layer!r}, only {known[:200]}")
        found += nodes
    return found
