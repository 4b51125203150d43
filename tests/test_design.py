"""Designs: what is refused, how they are carried out, and that nothing is trained twice."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from support import tiny_dataset

from edgelab import artifact, data, design, measure, memory, profiles, zoo
from edgelab.design import Design
from edgelab.distillation import Distillation
from edgelab.errors import EdgelabError
from edgelab.layers import layer_table
from edgelab.ledger import TECHNIQUE
from edgelab.profiles import Profile, Recipe

RECIPES = {name: Recipe(epochs=1, batch=32, peak_rate=0.02, crop=1, flip=False) for name in design.MODELS}
SETTINGS = Profile("tiny", "tiny", RECIPES, RECIPES, RECIPES, RECIPES, {}, uses_kept=False)
DENSE_MACS = 10_848_768
ALL = Design("plain_cnn", speed_up=3, sparsity=0.5, teacher=True)
TAUGHT_FIRST = replace(ALL, order="teach-first")


@pytest.fixture(scope="module")
def tiny() -> data.Dataset:
    return tiny_dataset()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("designs")


@pytest.fixture
def folder(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for all tests of this file: what one has trained the others find."""
    monkeypatch.setenv("EDGELAB_CACHE", str(shared / "cache"))
    return shared


def built(wanted: Design, tiny: data.Dataset, folder: Path) -> artifact.Artifact:
    """The file of a design, made once."""
    path = folder / f"{wanted.technique}{wanted.suffix}"
    return artifact.load(path) if path.exists() else design.build(wanted, tiny, SETTINGS, path)


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache" / "checkpoints").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model": "resnet50"}, "unknown model 'resnet50': choose one of plain_cnn, resnet8, ds_cnn"),
        ({"model": None}, "unknown model None"),
        ({"speed_up": 0.5}, "expected a speed-up from 1 upwards, got 0.5"),
        ({"speed_up": float("inf")}, "expected a speed-up"),
        ({"sparsity": 1.0}, "from 0 to below 1, got 1.0"),
        ({"sparsity": 50}, "write 0.5 for 50 %"),
        ({"bits": 16}, "expected 32, 8 or 4 bits, got 16"),
        ({"bits": True}, "got True"),
        ({"bits": 8.0}, "expected 32, 8 or 4 bits, got 8.0"),
        ({"teacher": "ds_cnn"}, "expected teacher True or False, got 'ds_cnn'"),
        ({"bits": 4, "sparsity": 0.5}, "training to 4 bits moves zeros"),
        ({"model": "ds_cnn", "teacher": True}, "ds_cnn is the teacher and cannot learn from itself"),
        ({"order": "backwards"}, "unknown order 'backwards': choose one of prune-first, teach-first"),
        ({"order": "teach-first", "teacher": True}, "teach-first is an order of two steps: give a speed_up above 1"),
        ({"order": "teach-first", "speed_up": 2}, "above 1 and a teacher"),
        (
            {"model": "ds_cnn", "order": "teach-first", "speed_up": 2, "teacher": True},
            "ds_cnn is the teacher and cannot learn from itself",
        ),
    ],
)
def test_what_cannot_be_is_one_line(values: dict, told: str):
    with pytest.raises(EdgelabError, match=re.escape(told)) as error:
        Design(**{"model": "plain_cnn", **values})
    assert "\n" not in str(error.value)


def test_a_design_can_be_a_key_and_does_not_change():
    assert len({Design("resnet8"), Design("resnet8", speed_up=1), Design("resnet8", bits=32)}) == 2
    with pytest.raises(FrozenInstanceError):
        ALL.bits = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wanted", "technique", "suffix"),
    [
        (Design("resnet8", bits=32), "baseline", ".tflite"),
        (Design("resnet8"), "ptq_int8", ".tflite"),
        (Design("resnet8", speed_up=1.5, bits=4), "structured_pruning_1_5x_qat_lsq_4bit", ".onnx"),
        (ALL, "structured_pruning_3x_distillation_t4_alpha0_9_magnitude_pruning_50_ptq_int8", ".tflite"),
        (
            TAUGHT_FIRST,
            "distillation_t4_alpha0_9_structured_pruning_3x_magnitude_pruning_50_ptq_int8",
            ".tflite",
        ),
        (
            Design("ds_cnn", speed_up=2, teacher=True),
            "structured_pruning_2x_distillation_t4_alpha0_9_ptq_int8",
            ".tflite",
        ),
    ],
)
def test_the_technique_names_every_step_as_the_ledger_does(wanted: Design, technique: str, suffix: str):
    assert (wanted.technique, wanted.suffix) == (technique, suffix)
    assert TECHNIQUE.fullmatch(technique)


def test_words_say_what_was_decided():
    assert Design("resnet8").in_words() == "resnet8, int8"
    told = ALL.in_words()
    parts = ("plain_cnn", "3x fewer MACs", "taught by ds_cnn", "50% of the weights zero")
    assert all(part in told for part in parts)
    assert sorted(parts, key=told.index) == [*parts]
    assert sorted(parts, key=TAUGHT_FIRST.in_words().index) == [parts[0], parts[2], parts[1], parts[3]]


def test_all_steps_are_in_the_file_and_in_the_record(tiny: data.Dataset, folder: Path):
    file = built(ALL, tiny, folder)
    record = design.measure(ALL, file, tiny, SETTINGS, "14_device_budget")
    assert record.macs * 3 <= DENSE_MACS and record.nonzero < 0.55 * record.parameters
    assert {row.weight_bits for row in layer_table(file.path).layers if row.macs} == {8}
    assert {port.dtype for port in file.ports()} == {np.dtype(np.int8)}
    assert (record.technique, record.model, record.seed) == (ALL.technique, "plain_cnn", 0)
    steps = [zoo.load(folder / "cache" / "checkpoints" / name) for name in kept(folder)]
    own = [step for step in steps if step.model == "plain_cnn"]
    assert record.wall_s == pytest.approx(max(step.meta["train_seconds"] for step in own), abs=1e-3)
    assert {step.origin.technique for step in own if step.origin} == {
        "structured_pruning_3x",
        Distillation().technique,
        "magnitude_pruning_50",
    }


def test_nothing_is_trained_twice(tiny: data.Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch):
    from edgelab.pytorch import train

    first = built(ALL, tiny, folder).path.read_bytes()
    before = kept(folder)
    monkeypatch.setattr(train, "train", lambda *given, **options: pytest.fail("trained again"))
    assert design.build(ALL, tiny, SETTINGS, folder / "again.tflite").path.read_bytes() == first
    built(replace(ALL, sparsity=0.0), tiny, folder)
    assert kept(folder) == before


def test_the_teacher_is_asked(tiny: data.Dataset, folder: Path):
    from edgelab.pytorch import models, pruning

    alone = design._float(replace(ALL, sparsity=0.0, teacher=False), tiny, SETTINGS)
    taught = design._float(replace(ALL, sparsity=0.0), tiny, SETTINGS)
    assert taught.origin is not None and taught.origin.start.split("+")[1].startswith("ds_cnn-")
    assert taught.recipe.label_smoothing == 0.0
    assert not np.array_equal(taught.arrays["fc2.weight"], alone.arrays["fc2.weight"])
    shapes = [{k: a.shape for k, a in models.to_arrays(pruning.restore(one)).items()} for one in (alone, taught)]
    assert shapes[0] == shapes[1], "no channel comes back"


def test_the_order_is_kept_and_steps_are_shown_from_when_the_channels_are_settled(tiny: data.Dataset, folder: Path):
    def seen(wanted: Design) -> list[list[str]]:
        shown: list[list[str]] = []

        def watch(network: zoo.Checkpoint) -> None:
            shown.append(history(network))

        shown.append(history(design._float(wanted, tiny, SETTINGS, watch)))
        return shown

    def history(network: zoo.Checkpoint) -> list[str]:
        if network.origin is None:
            return [network.model]
        start = network.origin.start.split("+")[0]
        earlier = zoo.load(folder / "cache" / "checkpoints" / f"{start}.safetensors")
        return [*history(earlier), network.origin.technique]

    narrow, taught, zeros = "structured_pruning_3x", Distillation().technique, "magnitude_pruning_50"
    whole = ["plain_cnn", narrow, taught, zeros]
    assert seen(ALL) == [whole[:2], whole[:3], whole]
    other = ["plain_cnn", taught, narrow, zeros]
    assert seen(TAUGHT_FIRST) == [other[:3], other]
    assert seen(replace(ALL, speed_up=1, teacher=False)) == [["plain_cnn"], ["plain_cnn", zeros]]


def test_what_the_watcher_raises_ends_the_work_before_the_bits(tiny: data.Dataset, folder: Path):
    def watch(network: zoo.Checkpoint) -> None:
        raise RuntimeError("hopeless")

    before = kept(folder)
    with pytest.raises(RuntimeError, match="hopeless"):
        design.build(Design("plain_cnn", bits=4), tiny, SETTINGS, folder / "hopeless.onnx", watch)
    assert kept(folder) == before and not (folder / "hopeless.onnx").exists()


def test_four_bits_of_a_narrow_network_become_an_onnx_file(tiny: data.Dataset, folder: Path):
    wanted = Design("plain_cnn", speed_up=3, bits=4)
    file = design.build(wanted, tiny, SETTINGS, folder / "four.onnx")
    table = layer_table(file.path, (3, 32, 32))
    assert {row.weight_bits for row in table.layers if row.macs} == {4, 8}
    record = design.measure(wanted, file, tiny, SETTINGS, "14_device_budget")
    assert record.framework == "pytorch" and record.macs * 3 <= DENSE_MACS and record.bytes < 200_000


def test_zeros_lower_the_gzip_bytes_and_neither_the_file_nor_the_ram(tiny: data.Dataset, folder: Path):
    dense, sparse = (built(replace(ALL, sparsity=share), tiny, folder).path for share in (0.0, 0.5))
    assert memory.peak_activations(dense).bytes == memory.peak_activations(sparse).bytes
    assert abs(dense.stat().st_size - sparse.stat().st_size) < 100
    assert measure.sizes(sparse)[1] < 0.8 * measure.sizes(dense)[1]


def test_32_bits_stay_float(tiny: data.Dataset, folder: Path):
    file = design.build(replace(ALL, bits=32), tiny, SETTINGS, folder / "float.tflite")
    table = layer_table(file.path)
    assert {row.weight_bits for row in table.layers if row.macs} == {32}
    assert table.nonzero < 0.55 * table.parameters


def test_another_suffix_is_one_line_before_any_work(tiny: data.Dataset, tmp_path: Path):
    for wanted, name in ((Design("resnet8"), "file.onnx"), (Design("resnet8", bits=4), "file.tflite")):
        with pytest.raises(EdgelabError, match=f"bits make a {wanted.suffix} file, got '{name}'"):
            design.build(wanted, tiny, SETTINGS, tmp_path / name)


def test_every_profile_has_what_the_models_need():
    for settings in profiles.PROFILES.values():
        for recipes in (settings.recipes, settings.retraining, settings.fine_tuning):
            assert set(design.MODELS) <= set(recipes)
