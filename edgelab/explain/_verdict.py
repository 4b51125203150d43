"""The sentences of the verdict on an int8 file, each made from the figures of its profile alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from edgelab.explain._profile import BUILT_IN, CONVERSION, LAYOUT, XNNPACK, Operator, Profile, counterparts, total
from edgelab.latency import three
from edgelab.layers.table import CONVOLUTION

NOTABLE = 0.05  # the least part of the time, or of a difference, that is mentioned
LARGE = 0.2  # the least part of a difference at which one operator is named


def difference(ours: Profile, theirs: Profile, direction: str, instructions: tuple[str, ...]) -> list[str]:
    """Where the time is lost or won, where the operators show what the whole files show (`direction`)."""
    if direction == "no different":
        return []
    sign = 1 if direction == "slower" else -1
    whole = ours.sum_ms - theirs.sum_ms
    if sign * whole <= 0:
        sums = f"{three(ours.sum_ms)} and {three(theirs.sum_ms)} ms"
        return [f"The operators one by one do not show that: they add up to {sums}."]
    before, after = theirs.by_group(), ours.by_group()
    parts = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in {**after, **before}}
    listed = [
        f"{name} {three(abs(part))} {'more' if part > 0 else 'less'}"
        for name, part in sorted(parts.items(), key=lambda item: -abs(item[1]))
        if abs(part) >= NOTABLE * abs(whole)
    ]
    said = f"The operators take {three(abs(whole))} ms {'more' if sign > 0 else 'less'} than in float32"
    return [f"{said}: {', '.join(listed)}.", *_largest(ours, theirs, whole, instructions)]


def _largest(ours: Profile, theirs: Profile, whole: float, instructions: tuple[str, ...]) -> list[str]:
    """The operator that makes most of the difference among those whose part is twice that of their MACs or more."""
    macs = sum(operator.layer.macs for operator in ours.operators) or 1
    pairs = zip(ours.operators, counterparts(ours.operators, theirs.operators), strict=True)
    found = [
        ((operator.ms - other.ms) / whole, place, operator, other)
        for place, (operator, other) in enumerate(pairs, 1)
        if other and (operator.ms - other.ms) / whole >= max(LARGE, 2 * operator.layer.macs / macs)
    ]
    if not found:
        return []
    part, place, operator, other = max(found, key=lambda entry: entry[0])
    much = _percent(part) if part <= 1 else "more than all"
    named, share = _named(place, operator), _percent(operator.layer.macs / macs)
    reason = ""
    if operator.ms > other.ms:
        left = operator.kernel == BUILT_IN and other.kernel == XNNPACK
        reason = "; XNNPACK runs it in float32 but not in int8" if left else _padding(operator, instructions)
    times = f"{three(operator.ms)} ms against {three(other.ms)} in float32"
    return [f"{named} alone makes {much} of that with {share} of the MACs: {times}{reason}."]


def _padding(operator: Operator, instructions: tuple[str, ...]) -> str:
    """XNNPACK's x86 kernels take eight int8 input channels at a time and fill up fewer (MRx8c8, MRx16c8)."""
    layer = operator.layer
    if operator.kernel != XNNPACK or operator.arithmetic != "int8" or "avx2" not in instructions:
        return ""
    channels = layer.input_shape[-1] // layer.groups if layer.kind == CONVOLUTION and layer.input_shape else 8
    few = f"its {channels} input channels cost" if channels > 1 else "its one input channel costs"
    return f"; {few} as much as 8, as many as the kernel takes at a time" if channels < 8 else ""


def main_kernel(profile: Profile) -> str:
    """Whose kernels make most MACs."""
    macs = dict.fromkeys((operator.kernel for operator in profile.operators), 0)
    for operator in profile.operators:
        macs[operator.kernel] += operator.layer.macs
    return max(macs, key=macs.__getitem__, default="")


def where(profile: Profile) -> str:
    """Which kernels ran the operators, and in which numbers."""
    main = main_kernel(profile)
    working = [operator for operator in profile.operators if operator.group != CONVERSION]
    elsewhere = [operator for operator in working if operator.kernel != main]
    here = [operator for operator in working if operator.kernel == main]
    floats = [operator for operator in here if operator.floats]
    late = [operator for operator in here if "weights" in operator.arithmetic]
    exact = len(here) - len(floats) - len(late)
    said = [
        f"{'All' if exact == len(working) else f'{exact} of'} {len(working)} operators run in {main}'s int8 kernels"
    ]
    if elsewhere:
        said.append(f"{_kinds(elsewhere)} in {elsewhere[0].kernel}'s{_share(elsewhere, profile)}")
    if floats:
        said.append(f"{_kinds(floats)} in float32{_share(floats, profile)}")
    if late:
        said.append(f"{_kinds(late)} on values that are quantized at run time{_share(late, profile)}")
    if profile.plain_ms is not None and main == XNNPACK:
        said.append(f"without XNNPACK, in LiteRT's own kernels, the network takes {three(profile.plain_ms)} ms")
    return "; ".join(said) + "."


def spent(profile: Profile) -> str:
    """What takes the time, and what conversions add."""
    if not profile.sum_ms:
        return "No operator could be timed."
    groups = profile.by_group()
    name = max(groups, key=groups.__getitem__)
    overhead = (groups.get(CONVERSION, 0.0) + groups.get(LAYOUT, 0.0)) / profile.sum_ms
    said = f"{_percent(groups[name] / profile.sum_ms)} of the operators' time is {name}"
    if groups.keys() & {CONVERSION, LAYOUT}:
        said += f", {_percent(overhead)} converting to and from int8 and changing the layout"
    return f"{said[0].upper()}{said[1:]}."


def better_without(profile: Profile) -> list[str]:
    """Operators that LiteRT's own kernels would run faster than XNNPACK, where that is a notable part of the whole."""
    said = []
    for place, operator in enumerate(profile.operators, 1):
        plain = operator.plain_ms
        if operator.kernel != BUILT_IN and plain is not None and operator.ms - plain > NOTABLE * profile.whole_ms:
            times = f"{three(plain)} instead of {three(operator.ms)} ms"
            said.append(f"{_named(place, operator)} would take {times} in LiteRT's own kernel, without XNNPACK.")
    return said


def check(profile: Profile) -> str:
    """How far the operators' times can be believed."""
    missing = sum(math.isnan(operator.ms) for operator in profile.operators)
    said = f"{profile.method}, the operators add up to {three(profile.sum_ms)} ms"
    said += f", the network takes {three(profile.whole_ms)} ms beside them"
    return f"{said}{f'; {missing} of them could not be timed' if missing else ''}."


def rate(operators: Sequence[Operator]) -> float:
    """GMAC/s of the operators that make MACs, NaN where none does or their time is too short to be seen."""
    counted = [operator for operator in operators if operator.layer.macs and not math.isnan(operator.ms)]
    ms = total(counted)
    return sum(operator.layer.macs for operator in counted) / ms / 1e6 if ms else math.nan


def _named(place: int, operator: Operator) -> str:
    shapes = " to ".join(
        "x".join(map(str, shape)) for shape in (operator.layer.input_shape, operator.layer.output_shape)
    )
    return f"Operator {place} ({operator.kind}, {shapes})"


def _kinds(operators: Sequence[Operator]) -> str:
    counts = Counter(operator.kind for operator in operators)
    return ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in counts.items())


def _share(operators: Sequence[Operator], profile: Profile) -> str:
    return f" ({_percent(total(operators) / profile.sum_ms)} of the time)" if profile.sum_ms else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
