"""Where a number comes from: versions, source commit, machine and time."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "edgelab",
    "numpy",
    "torch",
    "torchao",
    "torch-pruning",
    "onnx",
    "onnxruntime",
    "tensorflow",
    "tf_keras",
    "tensorflow-model-optimization",
    "ai-edge-litert",
)
# Instruction sets that decide how fast integer networks run: x86 as Linux and macOS spell them, then Arm.
INT8_FLAGS = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx512vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "hw.optional.neon": "neon",
    "hw.optional.arm.feat_dotprod": "dotprod",
    "hw.optional.arm.feat_i8mm": "i8mm",
}
# Those that multiply four pairs of bytes (AMX and i8mm: whole tiles) and add them to a 32-bit sum in one instruction.
DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "dotprod", "i8mm"})
_SOURCE = (":/edgelab", ":/notebooks", ":(top,exclude)edgelab/checkpoints")


def _output(*command: str) -> str | None:
    """What `command` prints, or None where it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def versions() -> str:
    """Names and versions of the installed packages a result may depend on, as in "numpy 2.4.6; torch 2.13.0"."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return "; ".join(found)


def commit(folder: Path = Path(__file__).parent) -> str:
    """Git commit of the source tree that holds the package `folder`, "-dirty" where package or notebooks differ.

    Results and checkpoints do not count: a run that writes them is not dirty by its own doing. "" where `folder` is not
    under version control, as in an installed package.
    """
    git = ("git", "-C", str(folder))
    if not _output(*git, "ls-files", "--error-unmatch", "__init__.py"):
        return ""
    changes = _output(*git, "status", "--porcelain", "--", *_SOURCE)
    return f"{_output(*git, 'rev-parse', 'HEAD')}{'-dirty' if changes else ''}"


def _linux(cpuinfo: str) -> tuple[str, set[str]]:
    """Processor name and flags from the text of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    flags = f"{fields.get('flags', '')} {fields.get('features', '')}"
    return fields.get("model name", ""), set(flags.lower().split())


def _mac() -> tuple[str, set[str]]:
    """Processor name and flags from sysctl."""
    name = _output("sysctl", "-n", "machdep.cpu.brand_string") or ""
    intel = _output("sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features") or ""
    arm = _output("sysctl", "hw.optional") or ""
    switched_on = {line.split(":")[0] for line in arm.lower().splitlines() if line.endswith(": 1")}
    return name, set(intel.lower().split()) | switched_on


def _name_and_flags() -> tuple[str, set[str]]:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        return _linux(cpuinfo.read_text(errors="replace"))
    return _mac() if platform.system() == "Darwin" else ("", set())


def processor() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    return (_name_and_flags()[0] or platform.processor() or platform.machine()).replace(",", " ")


def int8_instructions() -> tuple[str, ...]:
    """The instruction sets that decide how fast int8 networks run, as named in INT8_FLAGS; none where none is known."""
    flags = _name_and_flags()[1]
    return tuple(dict.fromkeys(label for flag, label in INT8_FLAGS.items() if flag in flags))


def int8_text(instructions: tuple[str, ...]) -> str:
    """Such as "avx2, no VNNI": the instruction sets, and the dot product of bytes where it is missing."""
    if not instructions:
        return "no known int8 instructions"
    lacking = "no dot product" if "neon" in instructions else "no VNNI"
    return " ".join(instructions) + ("" if DOT_PRODUCTS & set(instructions) else f", {lacking}")


def machine() -> str:
    """Processor, cores, instruction sets that matter for int8, and operating system, separated by commas."""
    known = " ".join(int8_instructions()) or "no known int8 instructions"
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return ", ".join([processor(), f"{os.cpu_count()} cores", known, system])


def collect() -> dict[str, str]:
    """`versions`, `commit`, `machine` and `when` (UTC, ISO 8601); imports no framework."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {"versions": versions(), "commit": commit(), "machine": machine(), "when": when}
