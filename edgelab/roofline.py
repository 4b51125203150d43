"""Roofline: whether a layer waits for memory or for arithmetic, on a machine with a given peak of both.

After Williams, Waterman and Patterson 2009, CACM 52(4):65, doi:10.1145/1498765.1498785. A layer that makes I MACs for
every byte it moves (its arithmetic intensity) can run at no more than min(peak, I x bandwidth) MACs a second. Where the
two are equal lies the machine's ridge point: layers left of it wait for memory, layers right of it for arithmetic.

The bytes a layer moves are its parameters, its input and its output, each once, at their own widths:

- Parameters at the width of the weights, biases included. Parameters shared with an earlier layer are counted there.
- Input and output at the width of the input. Where it is not known, that of the weights is taken.
- Nothing twice: this is the least traffic there can be. Inputs gathered again for each kernel position, partial sums
  put aside and weights fetched again come on top (`edgelab.energy` counts them), and make real intensities lower.

A roof is a bound and not a prediction: it knows no instructions, and takes it that moving and multiplying overlap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgelab.energy import BITS_PER_BYTE, Constant
from edgelab.errors import EdgelabError

if TYPE_CHECKING:
    from edgelab.layers import Layer, LayerTable

VELA = "Arm, ethos-u-vela 5.2.0"
VELA_SYSTEM = f"{VELA}, config_files/Arm/vela.ini, Ethos_U55_High_End_Embedded"
ST_CLOCK = "ST, STM32L4R5 datasheet DS12023"
M4_TIMING = "Arm, Cortex-M4 Technical Reference Manual 100166, instruction timings"

M4_CLOCK = Constant(120e6, "Hz", f"{ST_CLOCK}: highest clock; on the board NUCLEO-L4R5ZI")
M4_MACS = Constant(2, "8- or 16-bit MACs a cycle", f"{M4_TIMING}: SMLAD, two 16-bit products and their sum, 1 cycle")
M4_BYTES = Constant(4, "bytes a cycle", f"{M4_TIMING}: pipelined LDR, one 32-bit word a cycle from SRAM")
U55_CLOCK = Constant(500e6, "Hz", f"{VELA_SYSTEM}: core_clock")
U55_MACS = Constant(256, "8-bit MACs a cycle", f"{VELA}: Ethos_U55_256, the largest of four")
U55_BYTES = Constant(8, "bytes a cycle", f"{VELA_SYSTEM}: Sram_clock_scale 1 of an 8-byte port")


@dataclass(frozen=True)
class Roof:
    """What a machine can do at most: MACs a second on operands of up to `bits`, and bytes a second from its memory.

    Raises EdgelabError for rates and widths that are not positive and finite, and without a name or a source.
    """

    name: str
    macs_per_second: float
    bytes_per_second: float
    bits: int
    source: str

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        rates = self.macs_per_second, self.bytes_per_second, self.bits
        if not all(rate > 0 and math.isfinite(rate) for rate in rates):
            raise EdgelabError(f"roof {self.name!r}: expected rates and bits above 0, got {rates}")
        if not (self.name.strip() and self.source.strip()):
            raise EdgelabError(f"expected a roof with a name and a source, got {self.name!r} and {self.source!r}")

    @property
    def ridge(self) -> float:
        """The intensity in MACs a byte from which on arithmetic is what a layer waits for."""
        return self.macs_per_second / self.bytes_per_second


CORTEX_M4 = Roof(
    "Cortex-M4 at 120 MHz",
    M4_CLOCK.value * M4_MACS.value,
    M4_CLOCK.value * M4_BYTES.value,
    8,
    f"{ST_CLOCK}; {M4_TIMING}: 2 MACs (SMLAD) or one 4-byte load a cycle",
)
"""It starts one instruction a cycle, a load or a MAC, so the two do not overlap and this roof is out of reach."""

ETHOS_U55 = Roof(
    "Ethos-U55-256 at 500 MHz",
    U55_CLOCK.value * U55_MACS.value,
    U55_CLOCK.value * U55_BYTES.value,
    8,
    f"{VELA_SYSTEM}: 256 MACs and 8 bytes of SRAM a cycle",
)
"""With weights and activations in SRAM; the same source reads flash at an eighth of this rate."""


@dataclass(frozen=True)
class Point:
    """A layer under a roof: the bytes it moves at least, and what bounds it."""

    layer: Layer
    bytes: float
    roof: Roof

    @property
    def intensity(self) -> float:
        """MACs for every byte moved."""
        return self.layer.macs / self.bytes

    @property
    def attainable(self) -> float:
        """MACs a second, at most."""
        return min(self.roof.macs_per_second, self.intensity * self.roof.bytes_per_second)

    @property
    def bound(self) -> Literal["memory", "compute"]:
        """What the layer waits for."""
        return "memory" if self.intensity < self.roof.ridge else "compute"

    @property
    def seconds(self) -> float:
        """Seconds the layer takes, at least."""
        return self.layer.macs / self.attainable


def bytes_moved(layer: Layer) -> float:
    """Bytes of parameters, input and output of `layer` for one image, each once; see the module.

    Raises EdgelabError where its width or a size is not positive.
    """
    width = layer.weight_bits or 0
    values = math.prod(layer.input_shape) + math.prod(layer.output_shape)
    bits = layer.parameters * width + values * (width if layer.activation_bits is None else layer.activation_bits)
    if not (bits > 0 and width > 0):
        raise EdgelabError(
            f"layer {layer.name!r}: expected positive shapes and bit widths, got {layer.input_shape} to "
            f"{layer.output_shape}, {layer.weight_bits} and {layer.activation_bits} bits"
        )
    return bits / BITS_PER_BYTE.value


def points(table: LayerTable, roof: Roof) -> tuple[Point, ...]:
    """Every layer of `table` that has MACs, under `roof`, in the order they run.

    Raises EdgelabError where no layer has MACs, or one has wider operands than the peak of the roof holds for.
    """
    layers = [layer for layer in table.layers if layer.macs]
    if not layers:
        raise EdgelabError("expected a network with convolution or fully connected layers, got none to place")
    for layer in layers:
        widest = max(layer.weight_bits or 0, layer.activation_bits or 0)
        if widest > roof.bits:
            raise EdgelabError(
                f"the roof of {roof.name} holds for {roof.bits}-bit operands, layer {layer.name!r} has {widest}: "
                "give a quantized file or another roof"
            )
    return tuple(Point(layer, bytes_moved(layer), roof) for layer in layers)
