"""Flatbuffers without a schema's generated code: reading a table by slot numbers, and writing small ones.

The slots of a .tflite file are those of tensorflow/lite/schema/schema.fbs, numbered as the fields stand there. Loading
the code that is generated from it takes longer than everything else that `edgelab predict` does.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

NUMBERS = {"int8": "<b", "uint8": "<B", "int32": "<i", "uint32": "<I", "float32": "<f"}


class Table:
    """A table inside the flatbuffer `content`; slots that are not set read as nothing.

    Whatever points beyond the content raises struct.error or IndexError.
    """

    def __init__(self, content: bytes, place: int | None = None) -> None:
        """The table at `place`, or the root."""
        self.content = content
        self.place = self._number("<I", 0) if place is None else place

    def number(self, slot: int, kind: str = "int32", default: float = 0) -> Any:
        """The number in `slot`."""
        place = self._field(slot)
        return self._number(NUMBERS[kind], place) if place else default

    def table(self, slot: int) -> Table | None:
        """The table in `slot`."""
        place = self._field(slot)
        return Table(self.content, self._target(place)) if place else None

    def tables(self, slot: int) -> list[Table]:
        """The tables in the vector in `slot`."""
        start, length = self._vector(slot)
        self._number("<I", start + 4 * max(0, length - 1))
        return [Table(self.content, self._target(start + 4 * i)) for i in range(length)]

    def numbers(self, slot: int, kind: str = "int32") -> list[Any]:
        """The numbers in the vector in `slot`."""
        start, length = self._vector(slot)
        size = struct.calcsize(NUMBERS[kind])
        self._number(NUMBERS[kind], start + size * max(0, length - 1))
        return [self._number(NUMBERS[kind], start + size * i) for i in range(length)]

    def data(self, slot: int) -> bytes:
        """The bytes of the vector, or the string, in `slot`."""
        start, length = self._vector(slot)
        return self.content[start : start + length]

    def _number(self, form: str, place: int) -> Any:
        if place < 0:
            raise IndexError("a table reaches beyond its file")
        return struct.unpack_from(form, self.content, place)[0]

    def _target(self, place: int) -> int:
        return place + int(self._number("<I", place))

    def _field(self, slot: int) -> int:
        """Where the value of `slot` stands, 0 where it is not set."""
        slots = self.place - self._number("<i", self.place)
        if 4 + 2 * slot >= self._number("<H", slots):
            return 0
        offset = self._number("<H", slots + 4 + 2 * slot)
        return self.place + offset if offset else 0

    def _vector(self, slot: int) -> tuple[int, int]:
        """Where the first entry of a vector stands, and the number of entries."""
        place = self._field(slot)
        if not place:
            return 0, 0
        target = self._target(place)
        return target + 4, self._number("<I", target)


def write(builder: Any, fields: dict[int, Any]) -> int:
    """Write a table with these `fields` by slot into a `flatbuffers.Builder`; returns its place.

    A value is a str, an int (one byte), a dict (a table), a list of floats or a list of dicts.
    """
    placed = {slot: value if isinstance(value, int) else _write(builder, value) for slot, value in fields.items()}
    builder.StartObject(max(fields) + 1)
    for slot, value in placed.items():
        prepend = builder.PrependInt8Slot if isinstance(fields[slot], int) else builder.PrependUOffsetTRelativeSlot
        prepend(slot, value, 0)
    return int(builder.EndObject())


def _write(builder: Any, value: Any) -> int:
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, dict):
        return write(builder, value)
    is_numbers = isinstance(value[0], float)
    items: Sequence[Any] = value if is_numbers else [write(builder, item) for item in value]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        (builder.PrependFloat32 if is_numbers else builder.PrependUOffsetTRelative)(item)
    return int(builder.EndVector())
