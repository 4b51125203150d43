"""Time per operator in ONNX Runtime, by its own profiler, on the graph that is left after its optimisations.

Noting down an operator costs the profiler microseconds of the time it notes. That is measured on a chain of twenty
operators on one value, and taken off. The same files run without a profiler beside, in turns, for the whole network.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgelab.artifact import Artifact, quiet
from edgelab.errors import EdgelabError
from edgelab.explain._profile import ONNX_RUNTIME, Operator, Profile
from edgelab.latency import interleaved
from edgelab.layers import Layer, layer_table

METHOD = "By ONNX Runtime's own profiler"
SECONDS, ROUNDS = 1.0, 50
LINKS = 20


def profiles(files: Sequence[Artifact], image: np.ndarray | None) -> list[Profile]:
    """The profile of every .onnx file on one image, all in one measurement."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepared = [file.prepare(image) for file in files]
        chain = _chain(folder / "chain.onnx")
        noted = [_Profiled(chain, np.ones(1, np.float32), 1, folder / "chain")]
        for place, (file, ready) in enumerate(zip(files, prepared, strict=True)):
            noted.append(_Profiled(file.path, ready.inputs, file.threads, folder / f"file{place}"))
        calls = [*(session.call for session in noted), *(ready.call for ready in prepared)]
        times = np.median(interleaved(calls, SECONDS, ROUNDS, untimed=1), axis=0)
        call_ms = float(np.mean([event.ms for event in noted[0].events()]))
        whole = times[len(noted) :].tolist()
        return [
            Profile(_operators(session, call_ms), whole_ms, call_ms, METHOD)
            for session, whole_ms in zip(noted[1:], whole, strict=True)
        ]


class _Event:
    """One node of the optimised graph: name, operator, types and shapes, and its milliseconds."""

    def __init__(self, notes: list[dict[str, Any]]) -> None:
        first = notes[0]
        self.name, self.kind = first["name"].removesuffix("_kernel_time"), first["args"]["op_name"]
        self.inputs, self.outputs = (first["args"].get(f"{end}_type_shape", []) for end in ("input", "output"))
        timed = sorted(note["dur"] for note in notes[::-1][::2])  # every second run came right after an untimed one
        quarter = len(timed) // 4
        self.ms = float(np.mean(timed[quarter : len(timed) - quarter])) / 1000


class _Profiled:
    """A session that notes down its operators, and the graph it made of the file."""

    def __init__(self, path: Path, inputs: np.ndarray, threads: int, prefix: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        options.enable_profiling, options.profile_file_prefix = True, str(prefix)
        self.path = path
        self.optimised, self.shape = prefix.with_suffix(".optimised.onnx"), inputs.shape[1:]
        options.optimized_model_filepath = str(self.optimised)
        with quiet():
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        first = self.session.get_outputs()[0].name
        self.call: Callable[[], object] = partial(
            self.session.run, [first], {self.session.get_inputs()[0].name: inputs}
        )

    def events(self) -> list[_Event]:
        """The nodes in the order they run; ends the profile."""
        notes: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for note in json.loads(Path(self.session.end_profiling()).read_text()):
            if note.get("cat") == "Node" and note["name"].endswith("_kernel_time"):
                notes[note["name"]].append(note)
        return [_Event(found) for found in notes.values()]


def _layers(session: _Profiled) -> dict[str, Layer]:
    """The layers of the optimised graph by name, none where they cannot be counted.

    With wide vectors ONNX Runtime fills channels up to whole vectors (its layout NCHWc, with names in _nchwc): such a
    layer is told as the file has it, which has as many layers with MACs, in the same order.
    """
    try:
        left = layer_table(session.optimised, session.shape).layers
        own = layer_table(session.path, session.shape).layers if any(_is_filled(layer) for layer in left) else ()
    except EdgelabError:
        return {}
    pairs = zip((layer for layer in left if layer.macs), (layer for layer in own if layer.macs), strict=False)
    filled = {layer.name: replace(as_is, name=layer.name) for layer, as_is in pairs if _is_filled(layer)}
    return {layer.name: layer for layer in left} | filled


def _is_filled(layer: Layer) -> bool:
    return layer.name.endswith("_nchwc")


def _operators(session: _Profiled, call_ms: float) -> tuple[Operator, ...]:
    layers, found = _layers(session), []
    for event in session.events():
        shape = tuple(next(iter(event.outputs[0].values()))[1:]) if event.outputs else ()
        layer = layers.get(event.name, Layer(event.name, event.kind, (), shape))
        found.append(Operator(layer, event.kind, ONNX_RUNTIME, _arithmetic(event), max(0.0, event.ms - call_ms)))
    return tuple(found)


def _arithmetic(event: _Event) -> str:
    """The type of the values; those that are quantized on the way in (as DynamicQuantizeMatMul does) are named."""
    values = next((kind for entry in event.inputs for kind in entry), "none")
    values = {"float": "float32", "uint8": "int8"}.get(values, values)
    return f"{values} values, int8 weights" if event.kind.startswith("DynamicQuantizeM") else values


def _chain(path: Path) -> Path:
    """A file of operators on one value, next to nothing but the noting down."""
    from onnx import TensorProto, helper, save

    nodes = [helper.make_node("Erf", [f"v{i}"], [f"v{i + 1}"], name=f"link{i}") for i in range(LINKS)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("v0", f"v{LINKS}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path
