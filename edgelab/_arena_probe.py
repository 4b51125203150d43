"""Run by `memory.arena` as a program of its own, for the runtime can crash on a damaged file: FILE LIMIT SECONDS.

Prints the head, the tail and the smallest arena that the interpreter starts in, in bytes. What the runtime has to say
goes to standard error.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

ALIGNMENT = 16


def recorded(interpreter: Any) -> tuple[int, int]:
    """Head and tail of the arena as the runtime prints them, from C++ and only to standard error."""
    kept = os.dup(2)
    with TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        interpreter.print_allocations()
        os.dup2(kept, 2)
        file.seek(0)
        text = file.read().decode()
    head, tail = (int(re.findall(rf"Arena allocation {part} (\d+) bytes", text)[0]) for part in ("head", "tail"))
    return head, tail


def starts(model: bytes, size: int, seconds: int) -> bool:
    """Whether the interpreter starts in an arena of `size` bytes; tried in a copy of this process, for it may crash."""
    from tflite_micro.python.tflite_micro.runtime import Interpreter

    child = os.fork()
    if not child:
        signal.alarm(seconds)
        try:
            Interpreter.from_bytes(model, arena_size=size)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def smallest(model: bytes, used: int, limit: int, seconds: int) -> int:
    """The smallest arena, in steps of the runtime's alignment, in which the interpreter starts: `used` or more."""
    low = high = -(-used // ALIGNMENT)
    step = 1
    while not starts(model, high * ALIGNMENT, seconds) and high * ALIGNMENT < limit:
        low, high, step = high + 1, high + step, 2 * step
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if starts(model, middle * ALIGNMENT, seconds) else (middle + 1, high)
    return high * ALIGNMENT


def main(file: str, limit: int, seconds: int) -> None:
    """Start the interpreter in an arena of `limit` bytes and print what it took; end after `seconds` at the latest."""
    from tflite_micro.python.tflite_micro.runtime import Interpreter

    signal.alarm(seconds)
    model = Path(file).read_bytes()
    head, tail = recorded(Interpreter.from_bytes(model, arena_size=limit))
    print(head, tail, smallest(model, head + tail, limit, seconds))


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    except Exception as error:
        sys.exit(str(error))
