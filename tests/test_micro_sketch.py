"""The program for a microcontroller: its array is the file, it compiles, it feeds the network what LiteRT is fed."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import small_files
from mean_files import tflite_file

from edgelab import artifact, labels, micro, predict
from edgelab.errors import EdgelabError
from edgelab.micro import program as sketching
from edgelab.micro.operators import ADDED

NAMES = ("cat", 'the "other" one?', "Ärger\\n", "pip")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
needs_runtime = pytest.mark.skipif(find_spec("tflite_micro") is None, reason="tflite-micro exists for Linux x86-64")
WARNINGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic"]
# A stand-in for TensorFlow Lite Micro, with its names and signatures and nothing behind them: the "network" gives back
# its first inputs. What it cannot show is that the runtime itself accepts the program.
STUB = """#pragma once
#include <cstddef>
#include <cstdint>
enum TfLiteStatus {{ kTfLiteOk = 0, kTfLiteError = 1 }};
union TfLitePtrUnion {{ std::int8_t* int8; }};
struct TfLiteTensor {{ TfLitePtrUnion data; }};
namespace tflite {{
struct Model {{ const unsigned char* bytes; int version() const {{ return bytes[4] == 'T' ? 3 : 0; }} }};
inline const Model* GetModel(const void* bytes) {{
  static Model model{{static_cast<const unsigned char*>(bytes)}};
  return &model;
}}
struct MicroOpResolver {{ unsigned int size = 0, most = 0; }};
template <unsigned int n> struct MicroMutableOpResolver : MicroOpResolver {{
  MicroMutableOpResolver() {{ most = n; }}
  TfLiteStatus Added() {{ return ++size <= n ? kTfLiteOk : kTfLiteError; }}
{adds}
}};
struct MicroInterpreter {{
  const MicroOpResolver& resolver;
  std::int8_t in[{pixels}] = {{}}, out[64] = {{}};
  TfLiteTensor inputs{{{{in}}}}, outputs{{{{out}}}};
  std::size_t size;
  MicroInterpreter(const Model*, const MicroOpResolver& all, std::uint8_t* arena, std::size_t bytes)
      : resolver(all), size(bytes) {{ for (std::size_t i = 0; i < bytes; ++i) arena[i] = 1; }}
  TfLiteStatus AllocateTensors() {{ return resolver.size == resolver.most ? kTfLiteOk : kTfLiteError; }}
  TfLiteTensor* input(std::size_t) {{ return &inputs; }}
  TfLiteTensor* output(std::size_t) {{ return &outputs; }}
  std::size_t arena_used_bytes() const {{ return size; }}
  TfLiteStatus Invoke() {{
    for (int i = 0; i < 64; ++i) out[i] = in[i];
    return kTfLiteOk;
  }}
}};
}}
"""
ARDUINO = """#include <cstdint>
struct Port { void begin(long) {} explicit operator bool() const { return true; } template <class T> void print(T) {}
  template <class T> void println(T) {} };
static Port Serial;
inline unsigned long micros() { return 0; }
inline void delay(int) {}
"""
SHOW = """#include "classifier.h"
#include <cstdio>
#include "tensorflow/lite/micro/micro_interpreter.h"
static std::uint8_t pixels[kPixels];
int main() {
  if (Classify(pixels) != -1 || !ClassifierBegin()) return 1;
  if (std::fread(pixels, 1, kPixels, stdin) != kPixels) return 2;
  const int best = Classify(pixels);
  std::printf("%d\\n%s\\n", best, kLabels[best]);
  for (int i = 0; i < kClasses; ++i) std::printf("%.9g\\n", ClassifierScore(i));
}
"""


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = small_files.tflite_file(tmp_path_factory.mktemp("sketch") / "ein Netz-1.tflite", quantized=True)
    labels.write(path, NAMES)
    return path


def built(folder: Path, files: dict[str, str], pixels: int, *, more: dict[str, str] | None = None) -> Path:
    """`files` in `folder`, with headers of the stub in place of the runtime's."""
    micro.write(files, folder / "sketch")
    adds = "\n".join(f"  TfLiteStatus Add{name}() {{ return Added(); }}" for name in ADDED.split())
    include = folder / "include" / "tensorflow" / "lite"
    (include / "micro").mkdir(parents=True)
    (include / "schema").mkdir()
    (include / "stub.h").write_text(STUB.format(adds=adds, pixels=pixels))
    for name in ("micro/micro_interpreter.h", "micro/micro_mutable_op_resolver.h", "schema/schema_generated.h"):
        (include / name).write_text('#include "tensorflow/lite/stub.h"\n')
    for name, text in (more or {}).items():
        (folder / name).write_text(text)
    return folder


def compiled(folder: Path, *sources: str, options: tuple[str, ...] = ()) -> Path:
    program = folder / "program"
    command = ["g++", *WARNINGS, "-I", str(folder / "include"), "-I", str(folder / "sketch"), *options]
    done = subprocess.run(
        [*command, *(str(folder / source) for source in sources), "-o", str(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[:2000]
    return program


def run(program: Path, given: bytes = b"") -> bytes:
    done = subprocess.run([str(program)], input=given, capture_output=True, timeout=30)
    assert done.returncode == 0, done
    return done.stdout


@needs_compiler
@pytest.mark.parametrize("shipped", [False, True])
def test_the_array_is_the_file(tmp_path: Path, int8: Path, shipped: bool) -> None:
    path = predict.SHIPPED if shipped else int8
    show = '#include <cstdio>\n#include <cstdint>\n#include "model.h"\nint main() { return ' + (
        "std::fwrite(g_model, 1, g_model_len, stdout) != g_model_len || reinterpret_cast<std::uintptr_t>(g_model) % 16;"
        " }\n"
    )
    built(tmp_path, micro.sketch(path), 1, more={"show.cc": show})
    assert run(compiled(tmp_path, "show.cc", "sketch/model.cc")) == path.read_bytes()


@needs_compiler
def test_the_sketch_compiles_against_the_stub_and_feeds_what_litert_is_fed(tmp_path: Path, int8: Path) -> None:
    built(tmp_path, micro.sketch(int8), 32 * 32 * 3, more={"show.cc": SHOW})
    program = compiled(tmp_path, "show.cc", "sketch/classifier.cc", "sketch/model.cc")
    for image in np.random.default_rng(2).integers(0, 256, (5, 1, 32, 32, 3), dtype=np.uint8):
        file = artifact.load(int8)
        fed = file.prepare(image).inputs.ravel()[: len(NAMES)].astype(float)
        best, name, *scores = run(program, image.tobytes()).decode().splitlines()
        assert (int(best), name) == (fed.argmax(), NAMES[fed.argmax()])
        result = file.ports()[1]
        np.testing.assert_allclose(np.array(scores, float), (fed - result.zero_point) * result.scale, rtol=1e-5)
    with_main = compiled(tmp_path, *(f"sketch/{name}.cc" for name in ("main", "classifier", "model")))
    told = run(with_main).decode().splitlines()
    assert told[0].startswith("test picture: ") and told[1].startswith(f"{NAMES[0]} ")


@needs_runtime
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_the_test_picture_is_answered_as_on_the_computer(tmp_path: Path, layout: str) -> None:
    """By TensorFlow Lite Micro's own interpreter, fed what the C++ expression makes."""
    path = predict.SHIPPED if layout == "NHWC" else tflite_file(tmp_path / "m.tflite", "int8", "NCHW", 1)
    wanted, text = micro.needs(path), micro.sketch(path)["classifier.h"]
    expected = [float(re.search(rf"{name} = (-?[\d.e-]+)", text)[1]) for name in ("kTestClass", "kTestScore")]
    file = artifact.load(path)
    source, result = file.ports()
    pixels = np.array([eval(sketching.TEST_PIXEL.replace("/", "//")) for i in range(int(np.prod(source.shape[1:])))])
    (given,) = micro.run(wanted, source.of_pixels()[pixels].astype(np.int8).reshape(1, *source.shape[1:]))
    assert given.argmax() == expected[0]
    assert (int(given.max()) - result.zero_point) * result.scale == pytest.approx(expected[1], abs=result.scale * 1.01)


@needs_compiler
def test_inputs_of_another_scale_go_by_a_table(tmp_path: Path) -> None:
    path = small_files.tflite_file(tmp_path / "m.tflite", quantized=True)
    picture = sketching.Picture(2, 2, 1, "NCHW", "RGB", tuple(-128 + i // 3 for i in range(256)), NAMES, 0.5, 3, 0, 0.0)
    text = sketching._classifier_cc(micro.needs(path), picture)
    assert "kFeed[pixels[i]]" in text and "pixels[i] - 128" not in text
    files = micro.sketch(path)
    assert "kFeed" not in files["classifier.cc"] and "pixels[i] - 128" in files["classifier.cc"]
    files |= {"classifier.cc": text, "classifier.h": "#pragma once\n" + sketching._classifier_h(picture)}
    assert "grey, 0 to 255, [kChannels][kHeight][kWidth]" in files["classifier.h"]
    built(tmp_path, files, 64, more={"show.cc": SHOW})
    program = compiled(tmp_path, "show.cc", "sketch/classifier.cc", "sketch/model.cc")
    lines = run(program, bytes([3, 255, 9, 6])).decode().splitlines()
    assert lines[:2] == ["1", NAMES[1]]
    assert [float(line) for line in lines[2:]] == [0.5 * (-128 + pixel // 3 - 3) for pixel in (3, 255, 9, 6)]


@needs_compiler
def test_the_arduino_sketch_compiles(tmp_path: Path, int8: Path) -> None:
    built(tmp_path, micro.sketch(int8), 32 * 32 * 3, more={"Arduino.h": ARDUINO})
    (tmp_path / "ino.cc").write_text('#include "Arduino.h"\n' + (tmp_path / "sketch" / "ein_Netz_1.ino").read_text())
    options = ("-DARDUINO=1", "-c", "-fsyntax-only")
    compiled(tmp_path, "ino.cc", options=options)
    compiled(tmp_path, "sketch/main.cc", options=options)


def test_exactly_the_files_operators(int8: Path) -> None:
    text = micro.sketch(int8)["classifier.cc"]
    assert re.findall(r"resolver\.(Add\w+)\(\)", text) == [
        "AddAveragePool2D",
        "AddConv2D",
        "AddFullyConnected",
        "AddReshape",
    ]
    assert "MicroMutableOpResolver<4> resolver" in text
    wanted = micro.needs(int8)
    assert f"constexpr std::size_t kArenaBytes = {wanted.arena_bytes};" in text


@needs_runtime
def test_the_runtime_knows_the_operators_of_every_network_of_the_course() -> None:
    """That the interpreter starts is what says so: it has only the operators that `ADDED` lists."""
    found = micro.needs(predict.SHIPPED)
    assert found.adders == ("AddAdd", "AddConv2D", "AddDepthwiseConv2D", "AddFullyConnected", "AddMean")
    assert found.arena_by.startswith("tflite-micro ")


def test_the_same_file_gives_the_same_sketch_with_its_provenance(int8: Path, tmp_path: Path) -> None:
    import hashlib

    files = micro.sketch(int8)
    assert files == micro.sketch(int8)
    digest = hashlib.sha256(int8.read_bytes()).hexdigest()
    for name in files:
        assert (digest in files[name]) == (name not in ("CMakeLists.txt", "README.md"))
    assert "from ein Netz-1.tflite (" in files["model.cc"]
    strange = tmp_path / "böse\nint x;.tflite"
    shutil.copy(int8, strange)
    head = sketching._head(replace(micro.needs(int8), path=strange), b"")
    assert all(line.startswith("//") for line in head.strip().splitlines()) and head.isascii()


def test_a_folder_is_written_whole_once(tmp_path: Path, int8: Path) -> None:
    files = micro.sketch(int8)
    folder = micro.write(files, tmp_path / "new" / "deep")
    assert {path.name: path.read_text() for path in folder.iterdir()} == files
    before = (folder / "model.cc").stat().st_mtime_ns
    assert micro.write(files, folder) == folder and (folder / "model.cc").stat().st_mtime_ns == before
    (folder / "classifier.cc").write_text("// edited")
    with pytest.raises(
        EdgelabError,
        match=r"deep is not empty \(its classifier\.cc differs\): name another folder, nothing was written$",
    ):
        micro.write(files, folder)
    assert (folder / "classifier.cc").read_text() == "// edited"
    (tmp_path / "empty").mkdir()
    assert set(files) == {path.name for path in micro.write(files, tmp_path / "empty").iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]


def test_files_that_are_no_classifier_of_images(tmp_path: Path) -> None:
    path = tflite_file(tmp_path / "u.tflite", "uint8")
    with pytest.raises(EdgelabError, match=r"^u\.tflite: "):
        micro.sketch(path)
