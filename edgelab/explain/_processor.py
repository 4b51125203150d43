"""What the processor's instructions allow an int8 network, in a sentence, and where that is known from."""

from __future__ import annotations

from edgelab.explain._profile import ONNX_RUNTIME, XNNPACK
from edgelab.provenance import DOT_PRODUCTS

# How many MACs an instruction makes, by the bits of a vector register. Sources: XNNPACK src/qs8-gemm/MRx8c8-avx2.c.in
# (and MRx16c8-avx512skx), ONNX Runtime onnxruntime/core/mlas/lib/amd64/QgemmU8S8KernelAvx2.asm, Intel Software
# Developer's Manual (VPMADDWD, VPMADDUBSW, VPDPBUSD, VFMADD), Arm A64 instruction set (SMULL, SADALP, SDOT, FMLA).
XNNPACK_WITHOUT = (
    "XNNPACK widens bytes to 16 bits (vpmovsxbw), multiplies and adds pairs (vpmaddwd) and adds those to 32-bit sums"
    " (vpaddd), more than two instructions for {int16} int8 MACs, where one (vfmadd) makes {float32} in float32"
)
MLAS_WITHOUT = (
    "ONNX Runtime multiplies bytes and adds pairs in 16 bits (vpmaddubsw), widens them (vpmaddwd) and adds those to"
    " 32-bit sums (vpaddd), three instructions for {int8} int8 MACs, where one (vfmadd) makes {float32} in float32"
)
NEON_WITHOUT = (
    "bytes are multiplied into 16 bits (smull) and added up to 32 bits by another (sadalp), several instructions for"
    " {int8} int8 MACs, where one (fmla) makes {float32} in float32"
)

WITHOUT = {XNNPACK: XNNPACK_WITHOUT, ONNX_RUNTIME: MLAS_WITHOUT}


def has_dot_product(instructions: tuple[str, ...]) -> bool:
    """Whether one instruction multiplies bytes and adds them to 32-bit sums."""
    return bool(DOT_PRODUCTS & set(instructions))


def processor_sentence(instructions: tuple[str, ...], kernel: str) -> str:
    """What an int8 MAC costs on a processor with these instructions in this kernel, without a full stop."""
    if not instructions:
        return "Which int8 instructions this processor has is not known"
    neon = "neon" in instructions
    bits = 128 if neon else 512 if "avx512f" in instructions else 256
    macs = {"int8": bits // 8, "int16": bits // 16, "float32": bits // 32}
    if has_dot_product(instructions):
        names = ", ".join(name for name in instructions if name in DOT_PRODUCTS)
        ours, theirs = macs["int8"], macs["float32"]
        one = f"one instruction makes {ours} int8 MACs or more, where {theirs} can be made in float32"
        return f"This processor has an int8 dot product ({names}): {one}"
    without = NEON_WITHOUT if neon else WITHOUT.get(kernel, "an int8 MAC takes several instructions")
    return f"This processor has no int8 dot product ({'sdot' if neon else 'VNNI'}): {without.format(**macs)}"
