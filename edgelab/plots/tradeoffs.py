"""What was measured: accuracy against what it costs, and the table of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from edgelab.errors import EdgelabError
from edgelab.plots._base import (
    COLOURS,
    STYLE,
    Figure,
    Table,
    legend_below,
    new_canvas,
    plain_numbers,
    style_of,
    table,
    to_svg,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from edgelab.ledger import Record


def accuracy_against_size(ledger: pd.DataFrame) -> Figure:
    """Test accuracy with its 95 % interval against the bytes of the file, one point for every row of `ledger`.

    Marker and colour say which model, filled points are TensorFlow's files and rings PyTorch's.
    Raises EdgelabError where there are no rows.
    """
    import matplotlib as mpl

    if ledger.empty:
        raise EdgelabError("no measurements to draw: run a chapter that measures something first")
    frame = ledger.sort_values(["model", "bytes"])
    rows: list[Any] = frame.to_dict("records")
    models = list(dict.fromkeys(frame["model"]))
    with mpl.rc_context(STYLE):
        canvas, (ax,) = new_canvas(1)
        for row in rows:
            _point(ax, row, models.index(row["model"]))
        ax.set(xlabel="size of the model file, kB (logarithmic)", ylabel="test accuracy, %", xscale="log")
        plain_numbers(ax.xaxis, (1, 2, 5))
        ax.margins(0.12)
        legend_below(canvas, legend_entries(models, sorted(set(frame["framework"]))), fontsize=10)
        svg = to_svg(canvas)
    numbers = frame[["model", "technique", "framework", "data", "seed", "bytes"]].assign(
        **{name.replace("_", " ") + ", %": 100 * frame[name] for name in ("accuracy", "accuracy_low", "accuracy_high")}
    )
    best, smallest = max(rows, key=itemgetter("accuracy")), min(rows, key=itemgetter("bytes"))
    alt = (
        f"Accuracy against file size for {len(frame)} model files. Most accurate: {_told(best)}. "
        f"Smallest: {_told(smallest)}."
    )
    data = " and ".join(sorted(set(frame["data"])))
    caption = f"Test accuracy on {data} against the size of the model file; bars are 95 % intervals."
    return Figure(svg, alt, caption, table(numbers, "Accuracy and size of every file"))


def _point(ax: Axes, row: Mapping[str, Any], index: int) -> None:
    accuracy = 100 * row["accuracy"]
    interval = [[accuracy - 100 * row["accuracy_low"]], [100 * row["accuracy_high"] - accuracy]]
    style = style_of(index) | framework_style(row["framework"], COLOURS[index % len(COLOURS)])
    ax.errorbar(row["bytes"] / 1000, accuracy, interval, capsize=4, linestyle="", **style)


def framework_style(framework: str, colour: str) -> dict[str, Any]:
    """A small filled point or a larger ring: the same network in both frameworks shows as a point within a ring."""
    filled = framework == "tensorflow"
    return {"mfc": colour if filled else "none", "ms": 6 if filled else 11, "mew": 1.6, "zorder": 3 if filled else 2}


def legend_entries(models: Sequence[str], frameworks: Sequence[str]) -> list[Line2D]:
    """What the colours and markers of `models` mean, and how the files of `frameworks` are told apart."""
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], linestyle="", label=model, **style_of(i)) for i, model in enumerate(models)]  # type: ignore[arg-type]
    for framework in frameworks:
        label = {"tensorflow": "filled: TensorFlow", "pytorch": "ring: PyTorch"}.get(framework, framework)
        style = framework_style(framework, "#555555")
        entries.append(Line2D([], [], linestyle="", marker="o", color="#555555", label=label, **style))
    return entries


def _told(row: Mapping[str, Any]) -> str:
    return (
        f"{row['model']} ({row['technique']}, {row['framework']}) with {row['accuracy']:.1%} at {row['bytes']:,} bytes"
    )


def results(records: Sequence[Record], caption: str) -> Table:
    """The tables under every "Measure" section: what each file gives and weighs, and below it what a run of it takes.

    One row a file; the technique is shown where there are several. What was measured for none of `records` has no
    column. Raises EdgelabError where there are no records.
    """
    import pandas as pd

    if not records:
        raise EdgelabError("no records to show: measure a file first")
    rows = [
        {
            "model": record.model,
            "technique": record.technique,
            "runtime": {"ai-edge-litert": "LiteRT", "onnxruntime": "ONNX Runtime"}[record.runtime.split(" ")[0]],
            "accuracy, %": interval(vars(record)),
            "bytes": record.bytes,
            "gzip": record.gzip_bytes,
            "parameters": record.parameters,
            "not zero": record.nonzero,
            "MACs": record.macs,
            "effective": record.effective_macs,
            "energy": None if record.relative_energy is None else round(record.relative_energy, 2),
            "RAM": record.ram_bytes,
            "uJ": _three_digits(record.energy_uj),
            "ms": _three_digits(record.latency_ms),
        }
        for record in records
    ]
    frame = (
        pd.DataFrame(rows)
        .astype(dict.fromkeys(("parameters", "not zero", "MACs", "effective", "RAM"), "Int64"))
        .dropna(axis="columns", how="all")
    )
    if frame["technique"].nunique() == 1:
        frame = frame.drop(columns="technique")
    costs = list(frame.columns).index("MACs")
    whose = [name for name in ("model", "technique", "runtime") if name in frame]
    parts = (caption, frame.iloc[:, :costs]), ("What a run takes", frame[[*whose, *frame.columns[costs:]]])
    tables = [table(part, f"{title}. {_units(part, records)}".strip()) for title, part in parts]
    return Table("".join(part.html for part in tables), " ".join(part.caption for part in tables))


def _three_digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def _units(frame: pd.DataFrame, records: Sequence[Record]) -> str:
    """What the short headers mean, of the columns that are there."""
    meanings = {
        "accuracy, %": "accuracy with 95 % interval",
        "gzip": "bytes on disk and after gzip",
        "not zero": "parameters of all layers and how many of them are not zero",
        "effective": "effective: MACs with a weight that is not zero",
        "energy": "energy: million MACs times bytes per operand",
        "RAM": "RAM: bytes of activations at their peak",
        "uJ": "uJ: estimated energy of an inference",
        "ms": f"ms: median latency of an image, {_places(records)}",
    }
    told = "; ".join(meaning for name, meaning in meanings.items() if name in frame)
    return f"{told[0].upper()}{told[1:]}." if told else ""


def _places(records: Sequence[Record]) -> str:
    """Runtime and processor of every latency, each once."""
    return "; ".join(dict.fromkeys(record.latency_on for record in records if record.latency_on))


def interval(row: Mapping[str, Any]) -> str:
    """The accuracy of `row` with its 95 % interval in percent, such as "83.72 (82.98 to 84.43)"."""
    low, high = 100 * row["accuracy_low"], 100 * row["accuracy_high"]
    return f"{100 * row['accuracy']:.2f} ({low:.2f} to {high:.2f})"
