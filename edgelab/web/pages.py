"""What the building of the book puts into the pages that compute in the browser: elements and the data for them.

The scripts are book/_static/web/models.js and chart.js. Everything stands within the page or beside it: nothing is
asked from another host.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelab.web import models, runtime

if TYPE_CHECKING:
    import pandas as pd

SAMPLES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck", "cup")
SERVE = "python -m http.server --directory build/book"
MISSING = f""":::{{warning}}
**The runtime is missing in this copy of the book, so this page cannot run the networks.** It comes from npm and is put
in when the book is built. Install [Node.js](https://nodejs.org), which brings npm, and build the book again, with a
network the first time:

```bash
make book
{SERVE}
```

Then open `http://localhost:8000/book/in_your_browser.html`.
:::"""
FAMILIES = {
    "baseline": "not compressed",
    "longer_training": "not compressed",
    "longer_training_ema_ptq": "post-training quantization",
    "ptq": "post-training quantization",
    "qat": "quantization-aware training",
    "magnitude_pruning": "single weights pruned",
    "structured_pruning": "channels pruned",
    "distillation": "distillation",
    "ensemble_distillation": "distillation",
    "clustering": "weights clustered",
    "pqat": "techniques combined",
    "cqat": "techniques combined",
    "pcqat": "techniques combined",
    "linear_head": "a head on features from elsewhere",
}
FRAMEWORKS = {"tensorflow": "TensorFlow", "pytorch": "PyTorch"}
COSTS = ("bytes", "gzip_bytes", "macs", "energy_uj", "ram_bytes", "latency_ms")
CHART_HEADS = (
    *("No.", "Model", "Technique", "Framework", "Accuracy, %", "Bytes", "Gzipped", "MACs, M", "Energy, uJ"),
    *("RAM", "Latency, ms", "Dominated by"),
)
NOTHING = "*No measurement has been published yet.*"
IDENTITY = ["model", "technique", "framework", "seed", "bytes", "accuracy"]


def raw_html(html: str) -> str:
    """`html` as a block of a MyST page."""
    return f"```{{raw}} html\n{html}\n```"


def html_table(heads: Sequence[str], lines: Iterable[str], attributes: str = 'class="edgelab-table"') -> str:
    """A table of the `lines`, which are whole <tr> elements, under its `heads`."""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return f"<table {attributes}><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _data(name: str, value: object) -> str:
    """`value` within the page for scripts to read; no text in it can end the element."""
    return f'<script type="application/json" id="{name}">{json.dumps(value).replace("<", chr(92) + "u003c")}</script>'


def _assets(script: str) -> str:
    return (
        f'<link rel="stylesheet" href="../_static/web/web.css">\n<script src="../_static/web/{script}" defer></script>'
    )


def models_in_browser(root: Path) -> str:
    """The element in which the page runs the models of the tree at `root`, or how to get the runtime it lacks."""
    about = models.read(root)
    found = runtime.files(root)
    if not found:
        return MISSING
    sizes = {name: path.stat().st_size for name, path in found.items()}
    wasm = next(size for name, size in sizes.items() if name.endswith(".wasm"))
    version = json.loads(found[f"{runtime.PLACE}/package.json"].read_text(encoding="utf-8"))["version"]
    given = {
        "classes": about["classes"],
        "models": [asdict(each) for each in about["models"]],
        "samples": SAMPLES,
        "wasmBytes": wasm,
        "version": version,
        "serve": SERVE,
    }
    without = "<noscript><p>This needs JavaScript, which this browser has switched off.</p></noscript>"
    element = f'<div id="edgelab-models" class="edgelab-app">{without}</div>'
    return raw_html("\n".join([element, _data("edgelab-models-data", given), _assets("models.js")]))


def models_table(root: Path) -> str:
    """What the model files of the tree at `root` are and where they are from, as an HTML table."""
    lines = []
    for each in models.read(root)["models"]:
        link = f'<a href="../_static/models/{each.file}" download>{each.file}</a>'
        numbers = (f"{each.bytes:,}", f"{each.gzip_bytes:,}", f"{each.macs / 1e6:.1f} M", interval(asdict(each)))
        cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
        lines.append(f'<tr><th scope="row" class="name">{link}</th>{cells}<td>{each.measured}</td></tr>')
    return raw_html(html_table(("File", "Bytes", "Gzipped", "MACs", "Accuracy, %", "Measured"), lines))


def interval(row: Mapping[str, Any]) -> str:
    """Accuracy and its 95 % interval in percent."""
    return f"{100 * row['accuracy']:.2f} ({100 * row['accuracy_low']:.2f} to {100 * row['accuracy_high']:.2f})"


def family(technique: str) -> str:
    """The kind of technique that the chart filters by, such as "single weights pruned" for magnitude_pruning_95."""
    names = sorted((name for name in FAMILIES if technique == name or technique.startswith(f"{name}_")), key=len)
    return FAMILIES[names[-1]] if names else technique.replace("_", " ")


def comparable(frame: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The rows of the ledger `frame` measured on the data of the chapter `baseline`, in it or later."""
    own = frame[frame["chapter"] == baseline]["data_fingerprint"]
    return frame[frame["data_fingerprint"].isin(own) & (frame["chapter"] >= baseline)]


def measured_files(frame: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The files of the ledger `frame` measured on the data of the chapter `baseline`, each once, in order of size.

    A file that several chapters have measured has the first value that there is for every column.
    """
    shown = comparable(frame, baseline).sort_values("chapter", kind="stable")
    shown = shown.groupby(IDENTITY, sort=False, as_index=False).first()
    return shown.sort_values(["bytes", "accuracy"], ascending=[True, False], kind="stable")


def chart(frame: pd.DataFrame | None, baseline: str) -> str:
    """The interactive chart of accuracy against cost for the published ledger, and below it the same as a table."""
    if frame is None or (shown := measured_files(frame, baseline)).empty:
        return NOTHING
    rows = [_row(row) for row in shown.to_dict("records")]
    without = "<noscript><p>The chart needs JavaScript; the table below does not.</p></noscript>"
    element = f'<div id="edgelab-chart" class="edgelab-app">{without}</div>'
    return raw_html(
        "\n".join(
            [
                element,
                _table(rows),
                _data("edgelab-chart-data", {"rows": rows, "families": _in_order(rows)}),
                _assets("chart.js"),
            ]
        )
    )


def _in_order(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The families of `rows`, those of `FAMILIES` first."""
    own = [row["family"] for row in rows]
    return list(dict.fromkeys([name for name in FAMILIES.values() if name in own] + own))


def _row(row: Mapping[Any, Any]) -> dict[str, Any]:
    import pandas as pd

    names = ("model", "technique", "chapter", "seed", "data", "n_test", "accuracy", "accuracy_low", "accuracy_high")
    values = {name: row[name] for name in (*names, *COSTS, "latency_on")}
    told = {"framework": FRAMEWORKS.get(row["framework"], row["framework"]), "family": family(row["technique"])}
    return told | {name: None if pd.isna(value) else _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """A number or text that JSON knows; whole numbers without their fraction."""
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value.is_integer() and value > 1 else value


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as an HTML table; a letter stands for what latency was measured on."""
    from edgelab.pareto import dominated

    beaten = dominated(rows, "bytes")
    places = list(dict.fromkeys(row["latency_on"] for row in rows if row["latency_on"]))
    letters = {place: chr(ord("A") + number) for number, place in enumerate(places)}
    lines = (_line(number, row, letters, beaten.get(number)) for number, row in enumerate(rows))
    attributes = 'id="edgelab-chart-table" class="edgelab-table" aria-labelledby="edgelab-chart-caption"'
    notes = "; ".join(f"{letter}: {escape(place)}" for place, letter in letters.items())
    caption = (
        "Every measured file, from the smallest to the largest. The last column names the file that is as accurate"
    )
    caption += ' and costs no more, by <span id="edgelab-chart-cost">file size</span>; empty: there is none.'
    return (
        f'<p class="edgelab-note" id="edgelab-chart-caption">{caption}</p>\n'
        '<div class="edgelab-scroll" tabindex="0" role="region" aria-labelledby="edgelab-chart-caption">'
        f"{html_table(CHART_HEADS, lines, attributes)}</div>\n"
        f'<p class="edgelab-note">Energy is an estimate. Latency was measured on {notes}.</p>'
    )


def _line(number: int, row: Mapping[str, Any], letters: Mapping[str, str], winner: int | None) -> str:
    latency = "" if row["latency_ms"] is None else f"{row['latency_ms']:.3g} {letters[row['latency_on']]}"
    energy, ram = row["energy_uj"], row["ram_bytes"]
    texts = [row["model"], row["technique"], row["framework"]]
    numbers = [
        interval(row),
        f"{row['bytes']:,}",
        f"{row['gzip_bytes']:,}",
        f"{row['macs'] / 1e6:.2f}",
        "" if energy is None else f"{energy:,.0f}",
        "" if ram is None else f"{ram:,}",
        latency,
        "" if winner is None else str(winner + 1),
    ]
    cells = "".join(f"<td>{escape(str(text))}</td>" for text in texts)
    cells += "".join(f'<td class="number">{escape(text)}</td>' for text in numbers)
    return f'<tr id="file-{number + 1}" data-row="{number}"><th scope="row">{number + 1}</th>{cells}</tr>'
