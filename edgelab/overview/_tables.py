"""Every technique in one table a network, the Pareto fronts, and how far the estimate of energy is off."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from edgelab import seeds
from edgelab.overview._rows import BASELINE, Row, Rows, Source, by_source, cited
from edgelab.profiles import MODELS
from edgelab.web.pages import FRAMEWORKS, NOTHING, comparable, family, html_table, interval, measured_files, raw_html

if TYPE_CHECKING:
    import pandas as pd

FRONTS = {
    "bytes": "bytes of the file",
    "gzip_bytes": "bytes after gzip",
    "macs": "MACs",
    "ram_bytes": "RAM for activations",
    "energy_uj": "estimated energy",
}


def _place(model: str) -> tuple[int, str]:
    """Sorts the course's networks as it shows them, then the others by name."""
    return (*MODELS, model).index(model), model


def techniques(frame: pd.DataFrame | None) -> str:
    """Every technique on every network in both frameworks, as an HTML table for each network."""
    if frame is None:
        return NOTHING
    known = by_source(frame)
    first: dict[int, Row] = {}
    for source in sorted(known):
        first.setdefault(known[source]["number"], known[source])
    parts = []
    for model in sorted({row["model"] for row in first.values()}, key=_place):
        own = [row for row in first.values() if row["model"] == model]
        own.sort(
            key=lambda row: (
                row["technique"] != "baseline",
                family(row["technique"]),
                row["technique"],
                row["framework"],
            )
        )
        parts += [f"### {model}", _table(own, known)]
    return "\n\n".join(parts)


def _table(rows: Rows, known: Mapping[Source, Row]) -> str:
    heads = (
        "No.",
        "Technique",
        "Framework",
        "Accuracy, %",
        "Bytes",
        "Gzipped",
        "Non-zero",
        "MACs, M",
        "RAM",
        "Energy, uJ",
        "Time, of the baseline's",
    )
    table = html_table(heads, (_line(row, known) for row in rows))
    frame = f'class="edgelab-scroll edgelab-wide" tabindex="0" role="region" aria-label="{rows[0]["model"]}"'
    return raw_html(f"<div {frame}>{table}</div>")


def _line(row: Row, known: Mapping[Source, Row]) -> str:
    before = known.get(Source(row["chapter"], row["model"], "baseline", row["framework"]))
    same = before is not None and before["latency_on"] == row["latency_on"]
    numbers = (
        interval(row),
        f"{row['bytes']:,}",
        f"{row['gzip_bytes']:,}",
        f"{row['nonzero']:,}",
        f"{row['macs'] / 1e6:.2f}",
        f"{row['ram_bytes']:,.0f}",
        f"{row['energy_uj']:,.0f}",
        f"{row['latency_ms'] / before['latency_ms']:.2f}" if before is not None and same else "",
    )
    link = f'<a href="every_file.html#file-{row["number"]}">{row["number"]}</a>'
    words = f'<th scope="row">{link}</th><td>{escape(row["technique"])}</td><td>{FRAMEWORKS[row["framework"]]}</td>'
    return f"<tr>{words}{''.join(f'<td class=number>{number}</td>' for number in numbers)}</tr>"


def fronts(frame: pd.DataFrame | None) -> str:
    """For every cost the files that no other dominates, from the cheapest to the most accurate, as an HTML table.

    Only those of seed 0: the best of several seeds would stand there for its luck.
    """
    from edgelab.pareto import front

    if frame is None:
        return NOTHING
    files: list[Any] = measured_files(frame, BASELINE).to_dict("records")
    rows = [{**row, "number": index + 1} for index, row in enumerate(files) if row["seed"] == 0]
    lines = []
    for cost, name in FRONTS.items():
        chosen = [rows[index] for index in front(rows, cost)]
        told = "; ".join(
            f"{escape(row['model'])} {escape(row['technique'])} ({FRAMEWORKS[row['framework']]}) "
            f"{100 * row['accuracy']:.2f} {cited([row])}"
            for row in chosen
        )
        lines.append(
            f'<tr><th scope="row" class="name">{name}</th><td class="number">{len(chosen)}</td><td>{told}</td></tr>'
        )
    return raw_html(html_table(("Cost", "Files", "The front, accuracy in %"), lines))


def repeats(frame: pd.DataFrame | None) -> str:
    """What was trained with several seeds: mean, interval and paired difference, as an HTML table for each network.

    Bytes and MACs are those of seed 0.
    """
    if frame is None or (found := seeds.repeated(comparable(frame, BASELINE))).empty:
        return NOTHING
    heads = (
        *("Technique", "Framework", "Seeds", "Mean, %", "Against the reference, points", "Clear?"),
        *("Bytes", "Gzipped", "MACs, M", "Energy, uJ"),
    )
    known, parts = by_source(frame), []
    for model, own in sorted(found.groupby("model"), key=lambda part: _place(str(part[0]))):
        lines = [
            _repeated(row, known[Source(*(row[name] for name in Source._fields))]) for row in own.to_dict("records")
        ]
        frame_of = f'class="edgelab-scroll edgelab-wide" tabindex="0" role="region" aria-label="{model}, several seeds"'
        parts += [f"### {model}", raw_html(f"<div {frame_of}>{html_table(heads, lines)}</div>")]
    return "\n\n".join(parts)


def _repeated(row: Mapping[Any, Any], first: Row) -> str:
    mean = f"{row['accuracy']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    gain = f"{row['points']:+.2f} ({row['points_low']:+.2f} to {row['points_high']:+.2f})"
    compared = ["", ""] if row["clear"] is None else [gain, "yes" if row["clear"] else "no"]
    costs = [
        f"{first['bytes']:,}",
        f"{first['gzip_bytes']:,}",
        f"{first['macs'] / 1e6:.2f}",
        f"{first['energy_uj']:,.0f}",
    ]
    numbers = [f"{row['seeds']}", mean, *compared, *costs]
    name = f'<th scope="row" class="name">{escape(row["technique"])}</th><td>{FRAMEWORKS[row["framework"]]}</td>'
    return f"<tr>{name}{''.join(f'<td class=number>{number}</td>' for number in numbers)}</tr>"


def energy_error() -> str:
    """How far the estimate of energy is from measured boards, in a sentence."""
    from edgelab.boards import check_against_boards, summarise

    found = summarise(check_against_boards())["all"]
    return (
        "How far off? For every board of MLPerf Tiny, each of its networks was predicted from the others measured "
        f"there. The median error is {100 * found['estimate']:.0f} % for this estimate, {100 * found['macs']:.0f} % "
        f"for MACs alone, and {100 * found['cost ratios']:.0f} % where the costs of operations and traffic are learnt "
        "from other boards. So compare variants of one network by it, not networks; no board will show these "
        "microjoules."
    )
