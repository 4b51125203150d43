"""From an int8 .tflite file to a program for a microcontroller: C++ for TensorFlow Lite Micro, in one folder.

- `model.h`, `model.cc`: the file as an array, byte for byte.
- `classifier.h`, `classifier.cc`: the interpreter with exactly the operators of the file, an arena of the size it
  takes, pixels to int8 as the runtimes of this package do it, and the class with the highest score.
- `NAME.ino` for Arduino, `main.cc` and `CMakeLists.txt` for everything else, `README.md` with the steps.

`classifier.cc` calls nothing of any board. What it includes is TensorFlow Lite Micro's own; that runtime is not part of
this package.
"""

from __future__ import annotations

import hashlib
import os
import re
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np

from edgelab import isolated
from edgelab.errors import EdgelabError
from edgelab.files import check_folder
from edgelab.micro.fitting import Needs, check_int8, needs

BYTES_A_LINE = 16
TEST_PIXEL = "3 * i / 16 % 256"
LEAST_ARENA = "interpreter->arena_used_bytes()"


class Picture(NamedTuple):
    """What the network sees and says: `feed` is what the input is fed for each of the pixels 0 to 255.

    `test_class` and its `test_score` are LiteRT's answer for the test picture.
    """

    height: int
    width: int
    channels: int
    layout: str
    order: str
    feed: tuple[int, ...]
    labels: tuple[str, ...]
    scale: float
    zero_point: int
    test_class: int
    test_score: float


def sketch(path: Path | str | Needs) -> dict[str, str]:
    """The program for the int8 .tflite file at `path`: name and text of every file.

    The same file gives the same program, but for what LiteRT's kernels on this computer make of the test picture.
    Raises EdgelabError as `needs` does, and where the file does not take and give int8 or takes no images.
    """
    wanted = path if isinstance(path, Needs) else needs(path)
    check_int8(wanted)
    with isolated.Worker() as worker:
        seen = worker.call("edgelab.micro.program:look", wanted.path)
    picture = Picture(**seen | {name: tuple(seen[name]) for name in ("feed", "labels")})
    content = wanted.path.read_bytes()
    name = re.sub(r"\W+", "_", wanted.path.stem, flags=re.ASCII).strip("_") or "model"
    head = _head(wanted, content)
    return {
        "model.h": _model_h(head),
        "model.cc": head + _model_cc(content),
        "classifier.h": head + _classifier_h(picture),
        "classifier.cc": head + _classifier_cc(wanted, picture),
        f"{name}.ino": head + _ino(),
        "main.cc": head + _main(),
        "CMakeLists.txt": _cmake(name),
        "README.md": _readme(wanted, picture, name),
    }


def look(path: str) -> dict[str, Any]:
    """The fields of `Picture`, in this process."""
    from edgelab import artifact, cards

    card = cards.describe(path)
    if not (card["height"] and card["width"] and card["channels"]):
        raise EdgelabError(f"{path} leaves the size of its images open: a microcontroller needs a fixed one")
    file = artifact.load(path)
    source, _ = file.ports()
    scores = file.predict(_test_picture(card["height"], card["width"], card["channels"], card["layout"]))[0]
    count = card["classes"] or 0
    return {
        **{key: card[key] for key in ("height", "width", "channels", "layout", "order")},
        "feed": [int(value) for value in source.of_pixels()],
        "labels": card["labels"] if len(card["labels"] or ()) == count else [f"class {i}" for i in range(count)],
        "scale": card["output"]["scale"] or 1.0,
        "zero_point": card["output"]["zero_point"],
        "test_class": int(scores.argmax()),
        "test_score": round(float(scores.max()), 6),
    }


def _test_picture(height: int, width: int, channels: int, layout: str) -> np.ndarray:
    """uint8 (1, height, width, channels): slow saw teeth, which `TEST_PIXEL` makes on the board."""
    pixels = (3 * np.arange(height * width * channels) // 16 % 256).astype(np.uint8)
    if layout == "NCHW":
        return pixels.reshape(1, channels, height, width).transpose(0, 2, 3, 1)
    return pixels.reshape(1, height, width, channels)


def write(files: dict[str, str], folder: Path | str) -> Path:
    """Write the files of a `sketch` into `folder`, all or none; a folder that already holds just these stays as it is.

    Raises EdgelabError where something else is there.
    """
    folder = Path(folder)
    check_folder(folder, "sketch")
    if folder.is_dir() and (there := sorted(os.listdir(folder))):
        foreign = [name for name in there if name not in files]
        edited = [
            f"its {name} differs"
            for name in there
            if name in files and (folder / name).read_bytes() != files[name].encode()
        ]
        if not foreign and not edited and set(there) == set(files):
            return folder
        first = [*edited, *foreign, *there][0]
        raise EdgelabError(f"{folder} is not empty ({first}): name another folder, nothing was written")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        made = Path(temporary, "sketch")
        made.mkdir()
        for name, text in files.items():
            (made / name).write_bytes(text.encode())
        if folder.is_dir():
            folder.rmdir()
        os.replace(made, folder)
    return folder


def _head(wanted: Needs, content: bytes) -> str:
    name = wanted.path.name.encode("ascii", "backslashreplace").decode()
    name = "".join(letter if letter.isprintable() and letter != "\\" else "?" for letter in name)
    return (
        f"// Made by edgelab {version('edgelab')} from {name} ({len(content):,} bytes).\n"
        f"// SHA-256 of that file: {hashlib.sha256(content).hexdigest()}\n\n"
    )


def _model_h(head: str) -> str:
    return f"{head}#pragma once\n\nextern const unsigned char g_model[];\nextern const unsigned int g_model_len;\n"


def _model_cc(content: bytes) -> str:
    lines = [content[i : i + BYTES_A_LINE] for i in range(0, len(content), BYTES_A_LINE)]
    rows = "\n".join("    " + " ".join(f"0x{byte:02x}," for byte in line) for line in lines)
    return (
        '#include "model.h"\n\n'
        f"alignas(16) const unsigned char g_model[] = {{\n{rows}\n}};\n"
        f"const unsigned int g_model_len = {len(content)};\n"
    )


def _classifier_h(picture: Picture) -> str:
    sizes = {"NHWC": ("kHeight", "kWidth", "kChannels"), "NCHW": ("kChannels", "kHeight", "kWidth")}
    order = {1: "grey", 3: picture.order}.get(picture.channels, "")
    return f"""#pragma once

#include <cstdint>

constexpr int kHeight = {picture.height};
constexpr int kWidth = {picture.width};
constexpr int kChannels = {picture.channels};
constexpr int kPixels = kHeight * kWidth * kChannels;
constexpr int kClasses = {len(picture.labels)};
extern const char* const kLabels[kClasses];

// Starts the interpreter. False where the arena is too small or an operator is missing.
bool ClassifierBegin();

// Bytes of the arena that are in use, to make kArenaBytes in classifier.cc smaller.
unsigned int ClassifierArenaUsed();

// The most probable class, 0 to kClasses - 1, or -1 where the interpreter fails.
// pixels: {order}, 0 to 255, [{"][".join(sizes[picture.layout])}].
int Classify(const std::uint8_t* pixels);

// The score of a class in the last picture, as the network puts it out.
float ClassifierScore(int index);

// What LiteRT said about the test picture on the computer where this program was made.
constexpr int kTestClass = {picture.test_class};
constexpr float kTestScore = {picture.test_score!r}f;

// Makes the test picture in pixels and classifies it. True where it is of kTestClass here too; the score of that class
// may differ a little, for other kernels round otherwise.
bool ClassifierTest(std::uint8_t* pixels);
"""


def _classifier_cc(wanted: Needs, picture: Picture) -> str:
    """The whole file: what it includes and names, memory, then the functions of classifier.h."""
    plain = picture.feed == tuple(pixel - 128 for pixel in range(256))
    table, feed = ("", "static_cast<std::int8_t>(pixels[i] - 128)") if plain else (_table(picture), "kFeed[pixels[i]]")
    labels = "\n".join(f"    {_literal(label)}," for label in picture.labels)
    return f"""#include "classifier.h"

#include <cstddef>

#include "model.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

const char* const kLabels[kClasses] = {{
{labels}
}};

namespace {{

// {wanted.arena:,} bytes by {wanted.arena_by},
// and room for the scratch memory of optimised kernels.
constexpr std::size_t kArenaBytes = {wanted.arena_bytes};
alignas(16) std::uint8_t arena[kArenaBytes];
{table}
tflite::MicroInterpreter* interpreter = nullptr;

}}  // namespace

{_begin(wanted)}
{_classify(picture, feed)}"""


def _begin(wanted: Needs) -> str:
    adds = "\n".join(f"  if (resolver.{name}() != kTfLiteOk) return false;" for name in wanted.adders)
    return f"""bool ClassifierBegin() {{
  const tflite::Model* model = tflite::GetModel(g_model);
  if (model->version() != 3) return false;
  static tflite::MicroMutableOpResolver<{len(wanted.adders)}> resolver;
{adds}
  static tflite::MicroInterpreter made(model, resolver, arena, kArenaBytes);
  if (made.AllocateTensors() != kTfLiteOk) return false;
  interpreter = &made;
  return true;
}}

unsigned int ClassifierArenaUsed() {{
  return interpreter == nullptr ? 0 : static_cast<unsigned int>({LEAST_ARENA});
}}
"""


def _classify(picture: Picture, feed: str) -> str:
    """`feed` is what the input is fed for pixels[i], in C++."""
    return f"""int Classify(const std::uint8_t* pixels) {{
  if (interpreter == nullptr) return -1;
  std::int8_t* input = interpreter->input(0)->data.int8;
  for (int i = 0; i < kPixels; ++i) input[i] = {feed};
  if (interpreter->Invoke() != kTfLiteOk) return -1;
  const std::int8_t* scores = interpreter->output(0)->data.int8;
  int best = 0;
  for (int i = 1; i < kClasses; ++i) {{
    if (scores[i] > scores[best]) best = i;
  }}
  return best;
}}

float ClassifierScore(int index) {{
  if (interpreter == nullptr || index < 0 || index >= kClasses) return 0.0f;
  return {picture.scale!r}f * static_cast<float>(interpreter->output(0)->data.int8[index] - ({picture.zero_point}));
}}

bool ClassifierTest(std::uint8_t* pixels) {{
  for (int i = 0; i < kPixels; ++i) pixels[i] = static_cast<std::uint8_t>({TEST_PIXEL});
  return Classify(pixels) == kTestClass;
}}
"""


def _literal(text: str) -> str:
    """A C string of the label's UTF-8 bytes."""
    parts = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode("utf-8")
    )
    return f'"{"".join(parts)}"'


def _table(picture: Picture) -> str:
    values = fill(", ".join(map(str, picture.feed)), 100, initial_indent="    ", subsequent_indent="    ")
    return f"\n// What the input is fed for a pixel of 0 to 255.\nconstexpr std::int8_t kFeed[256] = {{\n{values}}};\n"


def _ino() -> str:
    return """#include "classifier.h"

static uint8_t pixels[kPixels];  // the camera's part: fill these before Classify

void setup() {
  Serial.begin(115200);
  while (!Serial) {
  }
  if (!ClassifierBegin()) {
    Serial.println("the classifier does not start: arena too small or operator missing");
    while (true) {
    }
  }
  Serial.print("arena in use: ");
  Serial.println(ClassifierArenaUsed());
  Serial.print(ClassifierTest(pixels) ? "test picture: agrees with the computer" : "test picture: DIFFERS");
  Serial.print(", score ");
  Serial.print(ClassifierScore(kTestClass));
  Serial.print(", on the computer ");
  Serial.println(kTestScore);
}

void loop() {
  const unsigned long start = micros();
  const int best = Classify(pixels);
  const unsigned long taken = micros() - start;
  if (best >= 0) {
    Serial.print(kLabels[best]);
    Serial.print(" ");
    Serial.print(ClassifierScore(best));
    Serial.print(", microseconds: ");
    Serial.println(taken);
  }
  delay(1000);
}
"""


def _main() -> str:
    return """#ifndef ARDUINO

#include <cstdio>

#include "classifier.h"

static std::uint8_t pixels[kPixels];  // the camera's part: fill these before Classify

int main() {
  if (!ClassifierBegin()) {
    std::puts("the classifier does not start: arena too small or operator missing");
    return 1;
  }
  const bool agrees = ClassifierTest(pixels);
  std::printf("test picture: %s, score %f, on the computer %f\\n", agrees ? "agrees with the computer" : "DIFFERS",
              static_cast<double>(ClassifierScore(kTestClass)), static_cast<double>(kTestScore));
  const int best = Classify(pixels);
  if (best < 0) return 1;
  std::printf("%s %f\\n", kLabels[best], static_cast<double>(ClassifierScore(best)));
  std::printf("arena in use: %u\\n", ClassifierArenaUsed());
  return 0;
}

#endif
"""


def _cmake(name: str) -> str:
    return f"""cmake_minimum_required(VERSION 3.16)
project({name} CXX)

set(TFLM "" CACHE PATH "TensorFlow Lite Micro: its source tree with downloads, as its Makefile leaves it")
set(TFLM_LIBRARY "" CACHE FILEPATH "libtensorflow-microlite.a of the same build")

add_executable({name} main.cc classifier.cc model.cc)
target_compile_features({name} PRIVATE cxx_std_17)
target_compile_definitions({name} PRIVATE TF_LITE_STATIC_MEMORY)
set(DOWNLOADS "${{TFLM}}/tensorflow/lite/micro/tools/make/downloads")
target_include_directories({name} PRIVATE "${{TFLM}}" "${{DOWNLOADS}}/flatbuffers/include" "${{DOWNLOADS}}/gemmlowp")
target_link_libraries({name} PRIVATE "${{TFLM_LIBRARY}}")
"""


def _readme(wanted: Needs, picture: Picture, name: str) -> str:
    least, most = wanted.flash
    return f"""# {name}: a classifier for TensorFlow Lite Micro

Images of {picture.height}x{picture.width}x{picture.channels} in, one of {len(picture.labels)} classes out.
Flash {least:,} to {most:,} bytes, by how much of the runtime is linked in; arena {wanted.arena_bytes:,} bytes.
Operators: {", ".join(wanted.adders)}.

At the start the program classifies a test picture, a pattern that it makes itself, and prints whether the class is the
one that LiteRT gave on the computer: class {picture.test_class}, score {picture.test_score:g}.

The pixels stay that picture until you fill them: `Classify` takes bytes from 0 to 255, as a camera gives them, and
turns them into int8 itself. Do not normalise them before.

## Arduino

1. Install a TensorFlow Lite Micro library for your board (for example "Chirale_TensorFLowLite" from the Library
   Manager, or the one your board's maker provides).
2. Put this folder into your sketchbook under the name `{name}`, open `{name}.ino`, upload, and open the Serial Monitor
   at 115200 baud.

## PlatformIO

1. `pio project init --board BOARD --project-option "framework=arduino"`, and the same library in `lib_deps`.
2. Copy all files into `src/`, renaming `{name}.ino` to `sketch.cpp` with `#include <Arduino.h>` as its first line.

## CMake, any tool chain

1. Build the runtime: `make -f tensorflow/lite/micro/tools/make/Makefile TARGET=... microlite` in a clone of
   <https://github.com/tensorflow/tflite-micro>; without TARGET it is built for this computer, to try.
2. `cmake -B build -DTFLM=CLONE -DTFLM_LIBRARY=CLONE/gen/TARGET/lib/libtensorflow-microlite.a && cmake --build build`

## It does not start

- `AllocateTensors` fails: make `kArenaBytes` in `classifier.cc` larger. If it runs, make it smaller: it prints what it
  uses.
- The test picture differs: the runtime's kernels compute otherwise than LiteRT. Try another version of the library.
- "Didn't find op for builtin opcode": the model was changed and `classifier.cc` was not. Make the folder anew.
"""
