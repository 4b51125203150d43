"""The page that `edgelab.budget` writes: one HTML file that asks for nothing else."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelab.files import file_hash
from edgelab.ledger import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgelab.budget import Check
    from edgelab.design import Design
    from edgelab.layers import LayerTable
    from edgelab.micro import Fit

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --good: #00664a; --bad: #a63c00; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 3rem; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.12rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; }
.kicker, .soft, figcaption, caption { color: var(--soft); font-size: .875rem; }
.kicker { margin: 0 0 .25rem; }
.verdict { margin: 1rem 0; padding: .7rem 1rem; border-left: .4rem solid; background: #f6f8fa; font-weight: 600; }
.met { border-color: var(--good); } .missed { border-color: var(--bad); }
.checks { display: grid; grid-template-columns: repeat(auto-fit, minmax(13.5rem, 1fr)); gap: .8rem; margin: 1rem 0; }
.check { border: 1px solid var(--line); border-radius: .4rem; padding: .75rem .9rem; }
.check h3 { display: flex; justify-content: space-between; align-items: baseline; margin: 0; font-size: 1rem; }
.check .value { font-size: 1.3rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.mark { font-size: .8rem; font-weight: 650; } .met .mark { color: var(--good); } .missed .mark { color: var(--bad); }
.check svg { display: block; width: 100%; height: 1.1rem; margin: .3rem 0; }
.check p { font-size: .84rem; line-height: 1.4; margin: .15rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .84rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--soft); }
tbody th { font-weight: 600; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
.facts tbody th { width: 9rem; } .facts td { overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 2rem; }
pre { margin: 0; padding: .6rem .8rem; background: #f6f8fa; font-size: .72rem; line-height: 1.5; white-space: pre-wrap;
  overflow-wrap: anywhere; }
figure { margin: 0; } figure img { display: block; width: 100%; max-width: 42rem; height: auto; }
summary { cursor: pointer; font-size: .875rem; }
@media (max-width: 52rem) { .pair { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 36rem) { body { padding: 1.25rem 1rem 2rem; } h1 { font-size: 1.3rem; }
  .wide thead { display: none; } .wide tr, .wide th, .wide td { display: block; border: 0; padding: 0; }
  .wide tr { border-bottom: 1px solid var(--line); padding: .4rem 0; }
  .layers :is(th, td):is(:nth-child(2), :nth-child(3)) { display: none; } .wide td:last-child { color: var(--soft); }
  .boards :is(th, td):is(:nth-child(2), :nth-child(3)) { display: none; } .layers table { font-size: .78rem; }
  .facts tbody th { width: 6.5rem; white-space: normal; }
  th, td { padding-right: .5rem; } }
@media print { @page { margin: 13mm; } html { font-size: 11px; } body { max-width: none; padding: 0; font-size: 11px; }
  h2 { margin-top: 1rem; break-after: avoid; } .check, figure, tr { break-inside: avoid; } details { display: none; }
  .checks { grid-template-columns: repeat(4, 1fr); } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .scroll { overflow: visible; } figure img { max-width: 11cm; } }
"""


@dataclass(frozen=True)
class Page:
    """All that stands on the page; `no_boards` says why there are no boards."""

    file: Path
    row: Mapping[str, Any]
    checks: Sequence[Check]
    verdict: str
    table: LayerTable
    arena: int | None
    boards: Sequence[Fit]
    no_boards: str
    design: Design | None


def html(page: Page) -> str:
    """The whole page. Whatever comes from outside is escaped."""
    met = all(check.met for check in page.checks)
    name = page.design.in_words() if page.design else page.file.name
    body = [
        f'<p class="kicker">Device-budget report on {escape(page.file.name)}, {escape(_day(page.row))}</p>',
        f"<h1>{escape(name)}</h1>",
        f'<p class="verdict {"met" if met else "missed"}">{escape(page.verdict)}</p>',
        f'<div class="checks">{"".join(map(_card, page.checks))}</div>',
        _section("Every measure", _measures(page)),
        '<div class="pair">',
        _section("Design", _design(page)),
        _section("Where the energy goes", _energy(page)),
        "</div>",
        _section("Layers", _layers(page.table)),
        _section("Which boards it fits", _boards(page)),
        _section("Where the numbers come from", _provenance(page)),
        _section("Ledger row", _ledger(page.row)),
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}: {'meets' if met else 'does not meet'} the budget</title><style>{STYLE}</style>"
    )
    whole = "\n".join(part for part in body if part)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n<main>\n{whole}\n</main>\n</body></html>\n'


def _day(row: Mapping[str, Any]) -> str:
    return str(row.get("when") or "")[:10] or "no date"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), kind: str = "") -> str:
    """A table of text; the first cell of a row is its heading, the columns `numbers` stand to the right."""

    def cell(tag: str, at: int, text: str) -> str:
        side = ' class="number"' if at in numbers else ""
        scope = f' scope="{"col" if tag == "col" else "row"}"' if tag != "td" else ""
        name = "td" if tag == "td" else "th"
        return f"<{name}{scope}{side}>{escape(text)}</{name}>"

    titles = "".join(cell("col", at, text) for at, text in enumerate(head))
    body = "".join(
        f"<tr>{''.join(cell('td' if at else 'row', at, text) for at, text in enumerate(row))}</tr>" for row in rows
    )
    shown = f"<thead><tr>{titles}</tr></thead>" if any(head) else ""
    return f'<div class="scroll {kind}"><table>{shown}<tbody>{body}</tbody></table></div>'


def _card(check: Check) -> str:
    """One limit: what was measured, a bar with the limit as a line, and the words."""
    met = "met" if check.met else "missed"
    limit = f"{'at most' if check.at_most else 'at least'} {check.told(check.limit)}"
    if check.unit == "bytes" and not check.limit % 1024:
        limit += f" ({check.limit // 1024:,}\N{NO-BREAK SPACE}KiB)"
    value = "not measured" if check.measured is None else check.told(check.measured)
    notes = f"<p>{escape(f'{check.note[0].upper()}{check.note[1:]}.')}</p>" if check.note else ""
    return (
        f'<section class="check {met}"><h3>{escape(_titled(check.name))}'
        f'<span class="mark">{"✓ met" if check.met else "✗ not met"}</span></h3>'
        f'<div class="value">{escape(value)}</div>{_bar(check)}'
        f"<p>{escape(limit)}<br><b>{escape(check.by_how_much())}</b></p>"
        f'{notes}<p class="soft">{escape(_titled(check.how))}</p></section>'
    )


def _titled(text: str) -> str:
    return text[0].upper() + text[1:]


def _bar(check: Check) -> str:
    """A bar for what was measured and a line for the limit; accuracy is drawn around its limit, the rest from zero."""
    if check.measured is None:
        return ""
    least, most = 0.0, 1.08 * max(check.limit, check.measured)
    if not check.at_most:
        reach = 1.6 * max(abs(check.limit - check.measured), 1.0)
        least, most = max(check.limit - reach, 0.0), min(check.limit + reach, 100.0)
    bar, line = (100 * (value - least) / (most - least) for value in (check.measured, check.limit))
    colour = "#00664a" if check.met else "#a63c00"
    told = f"{check.name}: {check.told(check.measured)} against a limit of {check.told(check.limit)}"
    return (
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{escape(told)}">'
        '<rect x="0" y="2" width="100" height="6" fill="#eaeef2"/>'
        f'<rect x="0" y="2" width="{bar:.2f}" height="6" fill="{colour}"/>'
        f'<rect x="{line - 0.5:.2f}" y="0" width="1" height="10" fill="#1b1f24"/></svg>'
    )


def _measures(page: Page) -> str:
    row = page.row
    rows: list[tuple[str, str, str]] = []

    def add(name: str, column: str, form: str, unit: str, how: str) -> None:
        if row.get(column) is not None:
            rows.append((name, f"{row[column]:{form}} {unit}".strip(), how))

    if row.get("accuracy") is not None:
        low, high = 100 * row["accuracy_low"], 100 * row["accuracy_high"]
        told = f"{100 * row['accuracy']:.2f} % ({low:.2f} to {high:.2f})"
        where = f"{row['n_test']:,} images of {row['data']}"
        rows.append(("accuracy", told, f"share of {where} put into the right class; in brackets the 95 % interval"))
    add("file", "bytes", ",", "bytes", "on disk, and in flash")
    add("file after gzip", "gzip_bytes", ",", "bytes", "level 9: what an update over the air would send")
    add("parameters", "parameters", ",", "", "weights and biases in the file")
    add("of these not zero", "nonzero", ",", "", "counted in the file")
    add("MACs", "macs", ",", "an image", "multiplications with weights of convolutions and fully connected layers")
    add("of these on no zero", "effective_macs", ",", "an image", "what hardware that skips zero weights would do")
    add("relative energy", "relative_energy", ".2f", "", "million MACs that are not on zeros, times bytes an operand")
    add("energy", "energy_uj", ".2f", "uJ an image", "estimate for a 45 nm accelerator (Horowitz 2014), no measurement")
    add("RAM, activations", "ram_bytes", ",", "bytes", "most that are alive at once, counted in the graph")
    if page.arena is not None:
        told = "smallest that TensorFlow Lite Micro starts in: activations, scratch memory, records"
        rows.append(("RAM, arena", f"{page.arena:,} bytes", told))
    add(
        "latency",
        "latency_ms",
        ".3f",
        "ms an image",
        f"median on this computer, not the device: {row.get('latency_on')}",
    )
    add("making it", "wall_s", ",.0f", "s", "trainings it stands on, on the machines they ran on")
    return _table(("measure", "value", "how"), rows, kind="wide")


def _design(page: Page) -> str:
    design, row = page.design, page.row
    if not design:
        return '<p class="soft">The file came as it is: how it was made is not known here.</p>'
    rows = [
        ("network", design.model),
        ("channels", f"removed until the MACs are {design.speed_up:g}x fewer" if design.speed_up > 1 else "all"),
        ("teacher", "yes" if design.teacher else "none"),
        ("weights set to zero", f"{design.sparsity:.0%}"),
        ("bits", f"{design.bits}"),
        ("in the ledger", str(row.get("technique"))),
        ("seed", str(row.get("seed"))),
    ]
    return _table(("", ""), rows, kind="facts")


def _energy(page: Page) -> str:
    from edgelab import energy, plots
    from edgelab.errors import EdgelabError

    try:
        return plots.energy_by_layer(energy.estimate(page.table))._repr_html_()
    except EdgelabError:
        return ""


def _layers(table: LayerTable) -> str:
    from edgelab.plots._base import short_names

    shown = [layer for layer in table.layers if layer.macs or layer.parameters]
    rows = [
        (
            name,
            layer.kind,
            "x".join(map(str, layer.output_shape)),
            f"{layer.parameters:,}",
            f"{1 - layer.nonzero / layer.parameters:.0%}" if layer.parameters else "",
            f"{layer.macs:,}",
            "" if layer.weight_bits is None else str(layer.weight_bits),
        )
        for name, layer in zip(short_names([layer.name for layer in shown]), shown, strict=True)
    ]
    rows.append(("all", "", "", f"{table.parameters:,}", "", f"{table.macs:,}", ""))
    return _table(("layer", "kind", "output", "parameters", "zero", "MACs", "bits"), rows, (3, 4, 5, 6), "layers")


def _boards(page: Page) -> str:
    if not page.boards:
        return f'<p class="soft">Boards were not asked: {escape(page.no_boards)}.</p>'
    told = (
        '<p class="soft">The whole board, not the share of it that the limits above may stand for; runtime, program '
        "and optimised kernels are allowed for.</p>"
    )
    rows = [
        (fit.board.name, f"{fit.board.ram // 1024:,}", f"{fit.board.flash // 1024:,}", fit.verdict)
        for fit in page.boards
    ]
    return told + _table(("board", "RAM, KiB", "flash, KiB", "does it fit?"), rows, (1, 2), "boards")


def _provenance(page: Page) -> str:
    row = page.row
    data = f"{row['data']}, fingerprint {row.get('data_fingerprint')}" if row.get("data") else "accuracy not measured"
    rows = [
        ("model file", f"{page.file.name}, SHA-256 {file_hash(page.file)}"),
        ("run by", str(row.get("runtime"))),
        ("data", data),
        ("machine", str(row.get("machine"))),
        ("source", f"edgelab at commit {row.get('commit')}"),
        ("versions", str(row.get("versions"))),
        ("measured", str(row.get("when"))),
    ]
    return _table(("", ""), rows, kind="facts")


def _ledger(row: Mapping[str, Any]) -> str:
    """The row as it stands in the ledger, where there is one."""
    if not row.get("technique"):
        return ""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [COLUMNS, ["" if row.get(name) is None else row[name] for name in COLUMNS]]
    )
    return f"<pre>{escape(text.getvalue())}</pre>"
