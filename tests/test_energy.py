import ast
import inspect
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelab import energy, plots
from edgelab.energy import Constant, Machine, Memory, estimate, relative_energy
from edgelab.errors import EdgelabError
from edgelab.layers import Layer, LayerTable

SMALL = Memory(Constant(1024, "byte", "test"), Constant(10, "pJ per 64-bit access", "test"))


def convolution(bits=8, channels=64, positions=(16, 16), nonzero_share=1.0):
    weights = 3 * 3 * 32 * channels
    macs = weights * math.prod(positions)
    nonzero, effective = int(nonzero_share * weights), int(nonzero_share * macs)
    shapes = (*positions, 32), (*positions, channels)
    return Layer("conv", "convolution", *shapes, (3, 3), (1, 1), 1, weights, nonzero, macs, effective, bits, bits)


def plain_cnn(bits):
    rows = [("conv1", 3, 32, 32), ("conv2", 32, 64, 16), ("conv3", 64, 128, 8)]
    layers = []
    for name, i, o, side in rows:
        w, shapes = 9 * i * o, ((i, side, side), (o, side, side))
        macs = w * side * side
        layers.append(Layer(name, "convolution", *shapes, (3, 3), (1, 1), 1, w + o, w + o, macs, macs, bits, bits))
    for name, i, o in (("fc1", 2048, 256), ("fc2", 256, 10)):
        w = i * o
        layers.append(Layer(name, "fully connected", (i,), (o,), (), (), 1, w + o, w + o, w, w, bits, bits))
    return LayerTable(tuple(layers), {})


def of(*layers):
    return LayerTable(layers, {})


def cost(table, machine=None, **options):
    return sum(part.picojoules for part in estimate(table, machine, **options).parts)


def part(table, what, level, machine=None, **options):
    parts = estimate(table, machine, **options).parts
    return sum(p.picojoules for p in parts if (p.what, p.level) == (what, level))


def test_the_rule_gives_the_published_figures_of_the_plain_network():
    macs = plain_cnn(32).macs
    assert macs == 10_848_768
    assert relative_energy(macs, 32) == pytest.approx(43.395072, abs=1e-9)
    assert [f"{e:.2f}" for e in (relative_energy(macs, 32), relative_energy(macs, 8))] == ["43.40", "10.85"]
    assert f"{relative_energy(macs / 2, 32):.2f}" == "21.70"
    assert relative_energy(macs, 4) == relative_energy(macs, 8) / 2


@pytest.mark.parametrize(("macs", "bits"), [(-1, 8), (1, 0), (1, -8), (1, math.nan)])
def test_the_rule_refuses_what_cannot_be(macs, bits):
    with pytest.raises(EdgelabError, match=r"^expected MACs >= 0 and bits > 0, got .* MACs and .* bits$"):
        relative_energy(macs, bits)


def known_constants():
    for name, value in vars(energy).items():
        if isinstance(value, Constant):
            yield name, value
        if isinstance(value, Memory):
            yield f"{name}.capacity", value.capacity
            yield f"{name}.access", value.access


def test_every_constant_has_a_unit_and_a_source():
    constants = dict(known_constants())
    assert len(constants) > 20
    assert not [name for name, c in constants.items() if len(c.source) < 10 or not c.unit]


def test_the_model_hides_no_number():
    """Numbers stand in `Constant(...)` only; 0 and 1 (nothing, once) are allowed elsewhere."""
    tree = ast.parse(inspect.getsource(energy))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Constant"]
    inside = {id(inner) for call in calls for inner in ast.walk(call)}
    numbers = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, int | float)]
    hidden = [(n.lineno, n.value) for n in numbers if id(n) not in inside and n.value not in (0, 1)]
    assert len(inside) > 20 and hidden == []


def test_the_constants_are_horowitz_figures():
    integer = energy.INT8_ADD, energy.INT32_ADD, energy.INT8_MULTIPLY, energy.INT32_MULTIPLY
    floats = energy.FP16_ADD, energy.FP16_MULTIPLY, energy.FP32_ADD, energy.FP32_MULTIPLY
    assert [c.value for c in integer] == [0.03, 0.1, 0.2, 3.1]
    assert [c.value for c in floats] == [0.4, 1.1, 0.9, 3.7]
    memories = energy.CACHE_8KB, energy.CACHE_32KB, energy.CACHE_1MB, energy.DRAM_LOW, energy.DRAM_HIGH
    assert [m.access.value for m in memories] == [10, 20, 100, 1300, 2600]
    assert 32 * energy.DRAM_LOW.pj_per_bit == 650


def test_a_layer_by_hand():
    """One output of 4 products, 8 bits, all in the 1 MB memory with a 32 KB buffer: every access worked out."""
    layer = Layer("fc", "fully connected", (4,), (1,), (), (), 1, 4, 4, 4, 4, 8, 8)
    buffer, memory = 20 / 64, 100 / 64
    table = of(layer)
    assert part(table, "arithmetic", "compute") == pytest.approx(4 * (0.2 + 0.1) + 3.1)
    assert part(table, "weights", "on chip") == pytest.approx(32 * memory)
    assert part(table, "weights", "buffer") == pytest.approx((32 + 32) * buffer)
    assert part(table, "inputs", "buffer") == pytest.approx((32 + 32) * buffer)
    assert part(table, "outputs", "on chip") == pytest.approx(8 * memory)
    assert part(table, "partial sums", "buffer") == pytest.approx(2 * 32 * buffer)
    assert estimate(table).total_uj * 1e6 == pytest.approx(4.3 + (32 + 32 + 8) * memory + (64 + 64 + 64) * buffer)


@pytest.mark.parametrize(
    ("weight_bits", "activation_bits", "pj"),
    [(32, 32, 4.6), (16, 16, 1.5), (8, 8, 0.3), (4, 8, 0.2), (8, 16, 0.5), (8, 32, 4.6), (16, 32, 4.6)],
)
def test_arithmetic_follows_the_width_of_both_operands(weight_bits, activation_bits, pj):
    layer = replace(convolution(), weight_bits=weight_bits, activation_bits=activation_bits)
    rescale = 3.1 * math.prod(layer.output_shape) if activation_bits <= 16 and weight_bits <= 8 else 0
    assert part(of(layer), "arithmetic", "compute") == pytest.approx(layer.macs * pj + rescale)


def test_depthwise_layers_share_no_inputs_and_dense_layers_no_weights():
    depthwise = Layer(
        "dw", "depthwise convolution", (8, 8, 16), (8, 8, 16), (3, 3), (1, 1), 16, 144, 144, 9216, 9216, 8, 8
    )
    shared = convolution(positions=(8, 8))
    dense = Layer("fc", "fully connected", (64,), (32,), (), (), 1, 2048, 2048, 2048, 2048, 8, 8)

    def reads_a_mac(layer, what, moved):
        return (part(of(layer), what, "buffer") / (20 / 64) - 8 * moved) / 8 / layer.macs

    assert reads_a_mac(depthwise, "inputs", 1024) == pytest.approx(1)
    assert reads_a_mac(shared, "inputs", 8 * 8 * 32) == pytest.approx(1 / 2)
    assert reads_a_mac(dense, "weights", 2048) == pytest.approx(1)
    assert reads_a_mac(shared, "weights", shared.parameters) == pytest.approx(1 / 2)


def test_what_does_not_fit_on_the_chip_is_fetched_from_outside():
    levels = {bits: estimate(plain_cnn(bits)).by("level") for bits in (8, 32)}
    assert "off chip" not in levels[8] and levels[32]["off chip"] > 0
    dram = replace(Machine(), off_chip=energy.DRAM_HIGH)
    assert estimate(plain_cnn(32), dram).by("level")["off chip"] == pytest.approx(2 * levels[32]["off chip"])


def test_a_small_buffer_fetches_the_cheaper_operand_again():
    layer = convolution()
    small = Machine(buffer=SMALL)
    again = [
        part(of(layer), what, "on chip", small) / part(of(layer), what, "on chip") for what in ("weights", "inputs")
    ]
    weight_pieces, input_pieces = math.ceil(layer.parameters / 512), math.ceil(16 * 16 * 32 / 512)
    assert again == pytest.approx([input_pieces, 1])
    assert layer.parameters * input_pieces + 16 * 16 * 32 < layer.parameters + 16 * 16 * 32 * weight_pieces


def test_sums_too_long_for_the_buffer_are_parked_between_pieces():
    layer = Layer("fc", "fully connected", (2048,), (256,), (), (), 1, 2048 * 256, 1, 2048 * 256, 256, 8, 8)
    assert part(of(layer), "partial sums", "on chip") == 0
    parked = part(of(layer), "partial sums", "on chip", Machine(buffer=SMALL))
    assert parked == pytest.approx((2048 / 512 - 1) * 256 * 64 * 100 / 64)


def test_zeros_cost_as_much_as_other_weights_unless_asked_otherwise():
    dense, sparse = convolution(), convolution(nonzero_share=0.25)
    assert cost(of(sparse)) == cost(of(dense))
    skipped = estimate(of(sparse), zero_skipping=True).by("what")
    stored = estimate(of(sparse), sparse_storage=True).by("what")
    plain = estimate(of(sparse)).by("what")
    assert skipped["arithmetic"] < 0.3 * plain["arithmetic"] and skipped["weights"] == plain["weights"]
    assert stored["arithmetic"] == plain["arithmetic"] and stored["index"] > 0 and stored["weights"] < plain["weights"]


def test_a_mask_costs_more_than_it_saves_on_dense_weights():
    layer = convolution()
    assert cost(of(layer), sparse_storage=True) > cost(of(layer))
    assert part(of(layer), "index", "on chip", sparse_storage=True) == pytest.approx(layer.parameters * 100 / 64)


def test_idle_energy_is_static_power_times_time():
    layer = convolution(nonzero_share=0.5)
    machine = Machine(static_milliwatts=2, macs_per_second=1e6)
    assert estimate(of(layer), machine).by("level")["static"] == pytest.approx(2e-3 * layer.macs / 1e6 * 1e6)
    half = estimate(of(layer), machine, zero_skipping=True).by("what")["idle"]
    assert half == pytest.approx(estimate(of(layer), machine).by("what")["idle"] / 2)
    assert "idle" not in estimate(of(layer)).by("what")


WIDTHS = st.sampled_from([(4, 8), (8, 8), (8, 16), (16, 16), (32, 32)])


@settings(max_examples=60, deadline=None)
@given(WIDTHS, WIDTHS, st.integers(1, 9), st.sampled_from([1, 32, 1024]), st.booleans(), st.booleans())
def test_fewer_bits_never_cost_more(one, other, size, kilobytes, sparse_storage, zero_skipping):
    narrow, wide = sorted((one, other))
    machine = Machine(buffer=Memory(Constant(kilobytes * 1024, "byte", "test"), SMALL.access))
    layer = convolution(positions=(size, size), channels=8 * size, nonzero_share=0.5)
    options = {"sparse_storage": sparse_storage, "zero_skipping": zero_skipping}
    costs = [
        cost(of(replace(layer, weight_bits=weight, activation_bits=activation)), machine, **options)
        for weight, activation in (narrow, wide)
    ]
    assert costs[0] <= costs[1] * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 128), st.integers(1, 128), st.integers(1, 20), st.integers(1, 20), st.sampled_from([8, 32]))
def test_fewer_channels_or_positions_never_cost_more(channels, others, side, other_side, bits):
    small = convolution(bits, min(channels, others), (min(side, other_side),) * 2)
    large = convolution(bits, max(channels, others), (max(side, other_side),) * 2)
    assert cost(of(small), Machine(buffer=SMALL)) <= cost(of(large), Machine(buffer=SMALL)) * (1 + 1e-12)


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_more_zeros_never_cost_more(one, other):
    few, many = (of(convolution(nonzero_share=share)) for share in sorted((one, other)))
    for options in ({"zero_skipping": True}, {"sparse_storage": True}, {"sparse_storage": True, "zero_skipping": True}):
        assert cost(few, **options) <= cost(many, **options) * (1 + 1e-12)


def test_the_table_adds_up_and_says_that_it_is_an_estimate():
    table = estimate(plain_cnn(8))
    for column in ("layer", "kind", "what", "level"):
        assert math.fsum(table.by(column).values()) == pytest.approx(table.total_uj)
    frame = table.to_frame()
    assert list(frame.columns) == ["layer", "kind", "what", "level", "picojoules"]
    assert frame["picojoules"].sum() == pytest.approx(1e6 * table.total_uj)
    assert "stimate" in table.note and "ESTIMATE" in energy.__doc__ and "ESTIMATE" in estimate.__doc__


def test_layers_without_macs_cost_nothing():
    pool = Layer("pool", "MaxPool2d", (32, 8, 8), (32, 4, 4), activation_bits=8)
    assert cost(of(convolution(), pool)) == cost(of(convolution()))
    with pytest.raises(EdgelabError, match=r"^expected a network with convolution or fully connected layers, got none"):
        estimate(of(pool))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nonzero": 10**9}, r"^layer 'conv': expected non-zero weights and effective MACs within their totals, got "),
        ({"effective_macs": -1}, r"^layer 'conv': expected non-zero weights and effective MACs within their totals"),
        (
            {"weight_bits": None},
            r"^layer 'conv': expected positive shapes, groups and bit widths, got .* None and 8 bits$",
        ),
        ({"groups": 0}, r"^layer 'conv': expected positive shapes, groups and bit widths, got .* 0 groups, "),
        ({"output_shape": (0, 16, 64)}, r"^layer 'conv': expected positive shapes, groups and bit widths, got "),
    ],
)
def test_impossible_layers_get_one_line(changes, message):
    with pytest.raises(EdgelabError, match=message) as caught:
        estimate(of(replace(convolution(), **changes)))
    assert "\n" not in str(caught.value)


def test_an_unknown_activation_width_is_taken_from_the_weights():
    assert cost(of(replace(convolution(), activation_bits=None))) == cost(of(convolution()))


def test_impossible_machines_get_one_line():
    with pytest.raises(EdgelabError, match=r"^idle energy is static power times time: give macs_per_second"):
        Machine(static_milliwatts=1)
    with pytest.raises(
        EdgelabError, match=r"^expected static_milliwatts >= 0 and macs_per_second > 0, got -1 and inf$"
    ):
        Machine(static_milliwatts=-1)
    with pytest.raises(EdgelabError, match=r"macs_per_second > 0, got 1 and 0$"):
        Machine(static_milliwatts=1, macs_per_second=0)


def test_the_figure_by_layer_says_what_it_draws():
    table = estimate(plain_cnn(32))
    figure = plots.energy_by_layer(table)
    layers = table.by("layer")
    assert f"{table.total_uj:.4g} uJ in all" in figure.alt and f"Most in {max(layers, key=layers.get)}," in figure.alt
    assert "off chip, uJ" in figure.table.html and "fc1" in figure.table.html and table.note in figure.caption
    assert figure.svg == plots.energy_by_layer(table).svg
