"""Energy: the course's rule of thumb, and a physical estimate per layer with the source of every constant.

The rule (`relative_energy`) has no unit and compares variants of one network: effective MACs in millions times bytes an
operand. The estimate (`estimate`) adds up arithmetic and the traffic between memories, in picojoules.

It is an ESTIMATE: figures of a 45 nm process from 2014, perfect scheduling, and nothing for fetching and decoding
instructions, which on a microcontroller costs more than all the rest. Use it to compare designs and to see where the
energy goes; its microjoules are no promise. `edgelab.boards` holds it against measured boards and says where it fails.

Reuse rule, layer by layer:

- The arithmetic units keep a tile of 2 positions x 2 output channels in registers: a weight read from the buffer serves
  the positions of the tile, an input its channels. A fully connected layer has one position and a depthwise layer one
  channel a group, so there is less to share.
- Half of the buffer is for weights and half for inputs. One of the two stays and is fetched once; the other is fetched
  again for each piece of the first that does not fit. Whichever order costs less is taken. Groups share no data and are
  taken one by one.
- The 32-bit sum of an output is finished in registers and passes through the buffer once (a write and a read). Where
  the weights of one output exceed their half, it is made in pieces and parked in the activations' memory meanwhile.
- Weights and activations live on the chip if all weights and the largest layer's input and output fit there together;
  otherwise the weights live off the chip, and the activations too if they do not fit alone.
- A write costs as much as a read. Biases are fetched like weights. Pooling, additions, activation functions and other
  layers without MACs cost nothing.
- Zeros are stored and multiplied like other weights unless asked otherwise, as on ordinary processors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edgelab.errors import EdgelabError

if TYPE_CHECKING:
    import pandas as pd

    from edgelab.layers import Layer, LayerTable


@dataclass(frozen=True)
class Constant:
    """A number of the model with its unit and where it comes from."""

    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Memory:
    """A memory: how much fits (bytes) and what one access to a 64-bit word costs (pJ)."""

    capacity: Constant
    access: Constant

    @property
    def pj_per_bit(self) -> float:
        """Picojoules a bit read or written."""
        return self.access.value / WORD_BITS.value


HOROWITZ = "Horowitz, Computing's energy problem, ISSCC 2014, doi:10.1109/ISSCC.2014.6757323, 45 nm, 0.9 V"
DEFINITION = "by definition"
CHOICE = "a choice of this model, stated in the module's reuse rule"

INT8_ADD = Constant(0.03, "pJ", HOROWITZ)  # for comparison only: sums of 8-bit products need 32 bits
INT32_ADD = Constant(0.1, "pJ", HOROWITZ)
INT8_MULTIPLY = Constant(0.2, "pJ", HOROWITZ)
INT32_MULTIPLY = Constant(3.1, "pJ", HOROWITZ)
FP16_ADD = Constant(0.4, "pJ", HOROWITZ)
FP16_MULTIPLY = Constant(1.1, "pJ", HOROWITZ)
FP32_ADD = Constant(0.9, "pJ", HOROWITZ)
FP32_MULTIPLY = Constant(3.7, "pJ", HOROWITZ)

WORD_BITS = Constant(64, "bit per access", HOROWITZ)
CACHE_8KB = Memory(Constant(8 * 1024, "byte", HOROWITZ), Constant(10, "pJ per 64-bit access", HOROWITZ))
CACHE_32KB = Memory(Constant(32 * 1024, "byte", HOROWITZ), Constant(20, "pJ per 64-bit access", HOROWITZ))
CACHE_1MB = Memory(Constant(1024 * 1024, "byte", HOROWITZ), Constant(100, "pJ per 64-bit access", HOROWITZ))
_UNLIMITED = Constant(math.inf, "byte", CHOICE)
DRAM_LOW = Memory(_UNLIMITED, Constant(1300, "pJ per 64-bit access", f"{HOROWITZ}, lower end of 1.3-2.6 nJ"))
DRAM_HIGH = Memory(_UNLIMITED, Constant(2600, "pJ per 64-bit access", f"{HOROWITZ}, upper end of 1.3-2.6 nJ"))

INT8_BITS = Constant(8, "bit", HOROWITZ)
INTEGER_WEIGHT_BITS = Constant(8, "bit", "Jacob et al. 2018, arXiv:1712.05877: integer weights have at most 8 bits")
INTEGER_BITS = Constant(16, "bit", "TensorFlow Lite: 16-bit activations with 8-bit weights")
HALF_BITS = Constant(16, "bit", "IEEE 754 binary16")
SUM_BITS = Constant(32, "bit", "Jacob et al. 2018, arXiv:1712.05877: 8-bit products are summed in 32 bits")
MASK_BITS = Constant(1, "bit per weight", "by definition of a bit mask of the non-zero weights")
TILE_POSITIONS = Constant(2, "positions", "Lai et al. 2018, CMSIS-NN, arXiv:1801.06601: 2x2 matrix kernel")
TILE_CHANNELS = Constant(2, "output channels", "Lai et al. 2018, CMSIS-NN, arXiv:1801.06601: 2x2 matrix kernel")
BUFFER_SHARE = Constant(0.5, "share of the buffer for weights, and for inputs", CHOICE)
WRITE_AND_READ = Constant(2, "accesses of a partial sum each time it is put aside", CHOICE)

BITS_PER_BYTE = Constant(8, "bit per byte", DEFINITION)
MILLION = Constant(1e6, "MACs per million MACs", DEFINITION)
PJ_PER_UJ = Constant(1e6, "pJ per uJ", DEFINITION)
PJ_PER_MJ = Constant(1e9, "pJ per mJ", DEFINITION)


def relative_energy(effective_macs: float, bits: float) -> float:
    """The rule of thumb: effective MACs in millions times bytes an operand (`bits` / 8). It has no unit.

    The float32 `plain_cnn` (10,848,768 MACs) has 43.40, in int8 10.85, with half of its weights at zero 21.70.
    Raises EdgelabError for a negative count or a width that is not positive.
    """
    if effective_macs < 0 or not bits > 0:
        raise EdgelabError(f"expected MACs >= 0 and bits > 0, got {effective_macs} MACs and {bits} bits")
    return effective_macs / MILLION.value * bits / BITS_PER_BYTE.value


What = Literal["arithmetic", "weights", "index", "inputs", "outputs", "partial sums", "idle"]
Level = Literal["compute", "buffer", "on chip", "off chip", "static"]


@dataclass(frozen=True)
class Machine:
    """The hardware the estimate assumes: a buffer beside the arithmetic units, memory on the chip, memory off the chip.

    Idle energy is static power (`static_milliwatts`) times the time the MACs take at `macs_per_second`; both are yours
    to give, and without them no idle energy is counted.
    Raises EdgelabError for a static power without a throughput and for negative values.
    """

    buffer: Memory = CACHE_32KB
    on_chip: Memory = CACHE_1MB
    off_chip: Memory = DRAM_LOW
    static_milliwatts: float = 0
    macs_per_second: float = math.inf

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.static_milliwatts < 0 or not self.macs_per_second > 0:
            raise EdgelabError(
                "expected static_milliwatts >= 0 and macs_per_second > 0, "
                f"got {self.static_milliwatts} and {self.macs_per_second}"
            )
        if self.static_milliwatts > 0 and math.isinf(self.macs_per_second):
            raise EdgelabError("idle energy is static power times time: give macs_per_second with static_milliwatts")


@dataclass(frozen=True)
class Part:
    """Energy of one layer (pJ) spent on one thing at one level of the machine."""

    layer: str
    kind: str
    what: What
    level: Level
    picojoules: float


@dataclass(frozen=True)
class EnergyTable:
    """The estimate for one inference: its parts, each a layer, a purpose and a level. See the module for the rules."""

    parts: tuple[Part, ...]
    note: str = (
        "Estimate from 45 nm figures (Horowitz 2014) without instruction overhead: compare designs with it, "
        "do not read it as a measurement."
    )

    @property
    def total_uj(self) -> float:
        """Microjoules an inference, estimated."""
        return math.fsum(part.picojoules for part in self.parts) / PJ_PER_UJ.value

    def by(self, column: Literal["layer", "kind", "what", "level"]) -> dict[str, float]:
        """Microjoules for each layer, kind of layer, purpose or level, in order of appearance."""
        sums: dict[str, float] = {}
        for part in self.parts:
            key = getattr(part, column)
            sums[key] = sums.get(key, 0.0) + part.picojoules / PJ_PER_UJ.value
        return sums

    def to_frame(self) -> pd.DataFrame:
        """One row a part: layer, kind, what, level, picojoules."""
        import pandas as pd

        return pd.DataFrame([vars(part) for part in self.parts])


def estimate(
    table: LayerTable, machine: Machine | None = None, *, sparse_storage: bool = False, zero_skipping: bool = False
) -> EnergyTable:
    """Estimate the energy of one inference of the network in `table`; an ESTIMATE, see the module for its rules.

    `sparse_storage` keeps only non-zero weights and a bit mask that says where they belong. `zero_skipping` is hardware
    that leaves out MACs on zero weights; without sparse storage it still reads the zeros to find them. Where a layer's
    activation width is not known, that of its weights is taken.
    Raises EdgelabError for a table without MACs or with counts and widths that cannot be.
    """
    machine = machine or Machine()
    layers = [layer for layer in table.layers if layer.macs]
    if not layers:
        raise EdgelabError("expected a network with convolution or fully connected layers, got none to estimate")
    plans = [_Plan(layer, machine, "on chip", "on chip", sparse_storage, zero_skipping) for layer in layers]
    weights_at, activations_at = _homes(plans, machine)
    placed = (replace(plan, weights_at=weights_at, activations_at=activations_at) for plan in plans)
    return EnergyTable(tuple(part for plan in placed for part in _parts(plan)))


@dataclass(frozen=True)
class _Plan:
    """One layer on one machine: what is moved between which memories, in bits."""

    layer: Layer
    machine: Machine
    weights_at: Level
    activations_at: Level
    sparse_storage: bool
    zero_skipping: bool

    def __post_init__(self) -> None:
        layer = self.layer
        if not (0 <= layer.nonzero <= layer.parameters and 0 <= layer.effective_macs <= layer.macs):
            raise EdgelabError(
                f"layer {layer.name!r}: expected non-zero weights and effective MACs within their totals, got "
                f"{layer.nonzero} of {layer.parameters} and {layer.effective_macs} of {layer.macs}"
            )
        if not min(self.weight_bits, self.activation_bits, self.inputs, self.outputs, layer.groups) > 0:
            raise EdgelabError(
                f"layer {layer.name!r}: expected positive shapes, groups and bit widths, got {layer.input_shape} to "
                f"{layer.output_shape}, {layer.groups} groups, {layer.weight_bits} and {layer.activation_bits} bits"
            )

    @property
    def weight_bits(self) -> int:
        return self.layer.weight_bits or 0

    @property
    def activation_bits(self) -> int:
        return self.weight_bits if self.layer.activation_bits is None else self.layer.activation_bits

    @property
    def inputs(self) -> int:
        return math.prod(self.layer.input_shape)

    @property
    def outputs(self) -> int:
        return math.prod(self.layer.output_shape)

    @property
    def active_macs(self) -> int:
        return self.layer.effective_macs if self.zero_skipping else self.layer.macs

    @property
    def is_integer(self) -> bool:
        return self.weight_bits <= INTEGER_WEIGHT_BITS.value and self.activation_bits <= INTEGER_BITS.value

    @property
    def stored(self) -> tuple[float, float]:
        """Bits of the stored weights, and of the mask that comes with them."""
        if self.sparse_storage:
            return self.layer.nonzero * self.weight_bits, self.layer.parameters * MASK_BITS.value
        return self.layer.parameters * self.weight_bits, 0

    @property
    def half_buffer(self) -> float:
        return self.machine.buffer.capacity.value * BUFFER_SHARE.value * BITS_PER_BYTE.value

    @property
    def weight_tile(self) -> float:
        """MACs a weight read from the buffer serves: the positions of the tile."""
        return min(TILE_POSITIONS.value, max(1, self.layer.macs / max(1, self.layer.parameters)))

    @property
    def input_tile(self) -> float:
        """MACs an input read from the buffer serves: the channels of the tile, of one group."""
        channels = self.layer.parameters * self.outputs / self.layer.macs
        return min(TILE_CHANNELS.value, max(1, math.floor(channels / self.layer.groups)))

    def pj_per_bit(self, level: Level) -> float:
        memories = {"buffer": self.machine.buffer, "on chip": self.machine.on_chip, "off chip": self.machine.off_chip}
        return memories[level].pj_per_bit

    def fetches(self) -> tuple[int, int]:
        """How often the weights and the inputs are fetched into the buffer: the cheaper of the two loop orders."""
        weights, inputs = sum(self.stored), self.inputs * self.activation_bits
        pieces = [max(1, math.ceil(bits / self.layer.groups / self.half_buffer)) for bits in (weights, inputs)]
        costs = (weights * self.pj_per_bit(self.weights_at), inputs * self.pj_per_bit(self.activations_at))
        orders = (1, pieces[0]), (pieces[1], 1)
        return min(orders, key=lambda times: times[0] * costs[0] + times[1] * costs[1])

    def rounds(self) -> int:
        """In how many pieces the sum of one output is made."""
        weights_of_an_output = self.layer.macs / self.outputs * sum(self.stored) / max(1, self.layer.parameters)
        return max(1, math.ceil(weights_of_an_output / self.half_buffer))


def _homes(plans: Sequence[_Plan], machine: Machine) -> tuple[Level, Level]:
    """Where weights and activations live: on or off the chip."""
    room = machine.on_chip.capacity.value * BITS_PER_BYTE.value
    weights = sum(sum(plan.stored) for plan in plans)
    activations = max((plan.inputs + plan.outputs) * plan.activation_bits for plan in plans)
    if weights + activations <= room:
        return "on chip", "on chip"
    return "off chip", "on chip" if activations <= room else "off chip"


def _pj_per_mac(plan: _Plan) -> float:
    """Picojoules a MAC. Integer products scale with both widths: from Horowitz's 8 bits, his 32 come out within 4 %."""
    if plan.is_integer:
        scale = (plan.weight_bits / INT8_BITS.value) * (plan.activation_bits / INT8_BITS.value)
        return INT8_MULTIPLY.value * scale + INT32_ADD.value
    if max(plan.weight_bits, plan.activation_bits) <= HALF_BITS.value:
        return FP16_MULTIPLY.value + FP16_ADD.value
    return FP32_MULTIPLY.value + FP32_ADD.value


def _arithmetic(plan: _Plan) -> float:
    """Picojoules for the MACs and, for integers, one 32-bit product an output that brings its sum back to scale."""
    rescale = plan.outputs * INT32_MULTIPLY.value if plan.is_integer else 0
    return plan.active_macs * _pj_per_mac(plan) + rescale


def _weight_traffic(plan: _Plan) -> Iterator[tuple[What, Level, float]]:
    """Bits of weights and mask: into the buffer as often as needed, from there to the registers tile by tile."""
    macs = plan.layer.macs
    reads = plan.layer.effective_macs if plan.sparse_storage and plan.zero_skipping else macs
    used: tuple[tuple[What, float], ...] = (
        ("weights", reads * plan.weight_bits),
        ("index", macs * MASK_BITS.value if plan.sparse_storage else 0),
    )
    for (what, read), stored in zip(used, plan.stored, strict=True):
        fetched = stored * plan.fetches()[0]
        yield what, plan.weights_at, fetched
        yield what, "buffer", fetched + read / plan.weight_tile


def _activation_traffic(plan: _Plan) -> Iterator[tuple[What, Level, float]]:
    """Bits of inputs, outputs and partial sums."""
    fetched = plan.inputs * plan.activation_bits * plan.fetches()[1]
    yield "inputs", plan.activations_at, fetched
    yield "inputs", "buffer", fetched + plan.active_macs * plan.activation_bits / plan.input_tile
    yield "outputs", plan.activations_at, plan.outputs * plan.activation_bits
    sums = plan.outputs * SUM_BITS.value * WRITE_AND_READ.value
    yield "partial sums", "buffer", sums
    yield "partial sums", plan.activations_at, sums * (plan.rounds() - 1)


def _parts(plan: _Plan) -> Iterator[Part]:
    layer, machine = plan.layer, plan.machine
    yield Part(layer.name, layer.kind, "arithmetic", "compute", _arithmetic(plan))
    for what, level, bits in (*_weight_traffic(plan), *_activation_traffic(plan)):
        if bits:
            yield Part(layer.name, layer.kind, what, level, bits * plan.pj_per_bit(level))
    if machine.static_milliwatts:
        seconds = plan.active_macs / machine.macs_per_second
        yield Part(layer.name, layer.kind, "idle", "static", machine.static_milliwatts * seconds * PJ_PER_MJ.value)
