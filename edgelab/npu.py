"""Neural accelerators: what Arm's compiler Vela expects a .tflite file to take on an Ethos-U55.

The figures are the compiler's own estimate from a model of the accelerator, not a measurement. They hold for the
system that Vela assumes unless told otherwise, `SYSTEM` with memory mode `MEMORY`: 500 MHz, activations in SRAM and
weights read from off-chip flash at 0.47 GB/s. Other flash or another clock gives other cycles: compare networks with
them, not devices.

Vela's MACs are those of `edgelab.layers` plus what it lets the multipliers do for other operators: pooling and means
count one for every value in a window, softmax counts its maximum and its sum. Convolutions and fully connected layers
agree exactly, and nothing is rounded up to the blocks of the hardware; what that costs shows in the cycles.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, get_args

from edgelab.artifact import first_line
from edgelab.errors import EdgelabError
from edgelab.layers import layer_table

if TYPE_CHECKING:
    import pandas as pd

Accelerator = Literal["ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256"]

CONFIGURATION, SYSTEM, MEMORY = "Arm/vela.ini", "Ethos_U55_High_End_Embedded", "Shared_Sram"
TIME_LIMIT = 300
WEIGHT_BITS, ACTIVATION_BITS = (8,), (8, 16)


@dataclass(frozen=True)
class Operation:
    """One step on the accelerator: the operator of the file it comes from (`kind`), and what is done for it (`step`).

    `sram_bytes` is what is in use of the SRAM meanwhile.
    """

    name: str
    kind: str
    step: str
    cycles: int
    macs: int
    sram_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What Vela expects of one inference.

    `sram_bytes` are activations and weights fetched ahead, `flash_bytes` the compressed weights and the commands,
    `file_bytes` the compiled file that holds them. Cycles and memory of the operators `on_processor`,
    which the accelerator does not have, are not in these figures.
    """

    accelerator: str
    cycles: int
    milliseconds: float
    sram_bytes: int
    flash_bytes: int
    file_bytes: int
    macs: int
    operations: tuple[Operation, ...]
    on_processor: tuple[str, ...]
    compiler: str

    def to_frame(self) -> pd.DataFrame:
        """One row a step: name, kind, step, cycles, macs, sram_bytes."""
        import pandas as pd

        names = [field.name for field in fields(Operation)]
        return pd.DataFrame([[getattr(step, name) for name in names] for step in self.operations], columns=names)


def vela(path: Path | str, accelerator: Accelerator = "ethos-u55-128") -> Estimate:
    """Compile the int8 .tflite file at `path` for an Ethos-U55 with 32, 64, 128 or 256 MACs a cycle.

    Raises EdgelabError for a file of another kind, weights or activations that are not integers, operators none of
    which the accelerator has, another accelerator, a damaged file, and where the package ethos-u-vela is missing.
    """
    path = Path(path)
    _check(path, accelerator)
    with TemporaryDirectory(prefix="edgelab-vela-") as folder:
        _compile(path.resolve(), accelerator, folder)
        summary = _rows(folder, "*_summary_*.csv", path)[0]
        rows = _rows(folder, "*_per-layer.csv", path)
        compiled = next(Path(folder).glob("*_vela.tflite")).stat().st_size
    on_accelerator = [row for row in rows if row["Target"] == "NPU"]
    if not on_accelerator:
        kinds = ", ".join(sorted({row["Original Operator"] for row in rows}))
        raise EdgelabError(f"{path.name}: the accelerator has none of its operators ({kinds}): nothing to estimate")
    return Estimate(
        accelerator=accelerator,
        cycles=int(summary["cycles_total"]),
        milliseconds=1e3 * float(summary["inference_time"]),
        sram_bytes=_bytes(summary, "sram"),
        flash_bytes=_bytes(summary, "on_chip_flash") + _bytes(summary, "off_chip_flash"),
        file_bytes=compiled,
        macs=int(summary["nn_macs"]),
        operations=tuple(_operation(row) for row in on_accelerator),
        on_processor=tuple(row["Original Operator"] for row in rows if row["Target"] != "NPU"),
        compiler=f"ethos-u-vela {version('ethos-u-vela')}, {SYSTEM}, {MEMORY}",
    )


def _check(path: Path, accelerator: str) -> None:
    """Raise EdgelabError unless this file can be compiled for this accelerator, here."""
    if accelerator not in get_args(Accelerator):
        raise EdgelabError(f"expected one of {', '.join(get_args(Accelerator))}, got {accelerator!r}")
    if path.suffix.lower() != ".tflite":
        raise EdgelabError(f"expected an int8 .tflite file, which is what Vela compiles, got {path.name!r}")
    for layer in layer_table(path).layers:
        if layer.macs and not (layer.weight_bits in WEIGHT_BITS and layer.activation_bits in ACTIVATION_BITS):
            widths = f"{layer.weight_bits}-bit weights and {layer.activation_bits}-bit activations"
            raise EdgelabError(f"{path.name}: the Ethos-U55 computes in int8, layer {layer.name!r} has {widths}")
    if find_spec("ethosu") is None:
        raise EdgelabError(f"{path.name}: the compiler Vela is missing here: pip install ethos-u-vela")


def _compile(path: Path, accelerator: str, folder: str) -> None:
    """Run Vela in `folder` as a process of its own, for it can crash on a damaged file."""
    options = ["--config", CONFIGURATION, "--system-config", SYSTEM, "--memory-mode", MEMORY]
    options += ["--accelerator-config", accelerator, "--output-dir", folder, "--verbose-performance"]
    command = [sys.executable, "-P", "-m", "ethosu.vela", str(path), *options]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIME_LIMIT,
            cwd=folder,
        )
    except subprocess.TimeoutExpired as error:
        raise EdgelabError(f"{path.name}: Vela gave no answer in {TIME_LIMIT} s") from error
    if done.returncode:
        said = re.findall(r"Error: (.+)", done.stdout + done.stderr)
        reason = first_line(RuntimeError(said[-1].rpartition("Error: ")[2] if said else f"status {done.returncode}"))
        raise EdgelabError(f"{path.name}: Vela does not compile this file ({reason})")


def _rows(folder: str, pattern: str, path: Path) -> list[dict[str, str]]:
    """The rows of the one table that Vela wrote under such a name."""
    found = next(Path(folder).glob(pattern), None)
    if found is None:
        raise EdgelabError(f"{path.name}: Vela compiled it but wrote no {pattern}: another version than expected")
    with found.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _bytes(summary: dict[str, str], memory: str) -> int:
    """What is used of a memory; Vela reports kibibytes."""
    return round(1024 * float(summary[f"{memory}_memory_used"]))


def _operation(row: dict[str, str]) -> Operation:
    return Operation(
        name=row["Name"].split(";")[0],
        kind=row["Original Operator"],
        step=row["NNG Operator"],
        cycles=int(row["Op Cycles"]),
        macs=int(row["MAC Count"]),
        sram_bytes=int(row["Staging Usage"]),
    )
