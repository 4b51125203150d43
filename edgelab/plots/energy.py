"""Where the energy goes, and how far its models are off on measured boards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgelab.plots._base import COLOURS, HATCHES, STYLE, Figure, new_canvas, short_names, style_of, table, to_svg

if TYPE_CHECKING:
    import pandas as pd

    from edgelab.energy import EnergyTable

LEVELS = {
    "compute": "arithmetic",
    "buffer": "reads and writes of the buffer beside it",
    "on chip": "of the memory on the chip",
    "off chip": "of the memory off the chip",
    "static": "idle power",
}
CHECKED = ("macs", "cost ratios", "cost ratios, network unseen")


def energy_by_layer(energy: EnergyTable) -> Figure:
    """Estimated energy of every layer (uJ an inference), stacked by the level of the machine it is spent at."""
    import matplotlib as mpl

    parts = energy.to_frame()
    layers = list(dict.fromkeys(parts["layer"]))
    micro = parts.assign(uj=parts["picojoules"] / 1e6).groupby(["layer", "level"], sort=False)["uj"].sum()
    frame = micro.unstack(fill_value=0).loc[layers]
    frame = frame[[level for level in LEVELS if level in frame.columns]]
    with mpl.rc_context(STYLE):
        canvas, (ax,) = new_canvas(1)
        canvas.set_figheight(max(2.4, 0.9 + 0.3 * len(frame)))
        left = 0 * frame.iloc[:, 0]
        for index, level in enumerate(frame.columns):
            style: dict[str, Any] = {
                "color": COLOURS[index],
                "hatch": HATCHES[index],
                "edgecolor": "white",
                "label": level,
            }
            ax.barh(range(len(frame)), frame[level], left=left, **style)
            left = left + frame[level]
        ax.set_xlabel("estimated energy, uJ an inference")
        ax.set_yticks(range(len(frame)), short_names(layers), fontsize=10)
        ax.set_ylim(len(frame) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        canvas.legend(loc="outside upper center", ncols=len(frame.columns), frameon=False)
        svg = to_svg(canvas)
    totals, levels = frame.sum(axis=1), frame.sum()
    alt = (
        f"Estimated energy of {len(frame)} layers, {energy.total_uj:.4g} uJ in all. Most in {totals.idxmax()}, "
        f"{totals.max() / totals.sum():.0%}; by level most in {levels.idxmax()}, {levels.max() / levels.sum():.0%}."
    )
    numbers = frame.assign(total=totals).add_suffix(", uJ").rename_axis(columns=None).reset_index()
    meaning = "; ".join(f"{level}: {LEVELS[level]}" for level in frame.columns)
    caption = f"Estimated energy by layer and by the memory level where it is spent ({meaning}). {energy.note}"
    return Figure(svg, alt, caption, table(numbers, "Estimated energy by layer and level"))


def board_check(check: pd.DataFrame) -> Figure:
    """Errors of the energy models on measured boards, from `edgelab.boards.check_against_boards`, complete systems.

    One point a system, one band a network, one lane a model; the table has the medians of every model.
    """
    import matplotlib as mpl

    from edgelab.boards import summarise

    known = check[check["complete"]]
    networks = sorted(set(known["network"]))
    with mpl.rc_context(STYLE):
        canvas, (ax,) = new_canvas(1)
        for index, model in enumerate(CHECKED):
            rows = known[known["model"] == model]
            lanes = [networks.index(name) + 0.25 * (index - 1) for name in rows["network"]]
            ax.plot(100 * rows["error"], lanes, linestyle="", mfc="none", label=model, **style_of(index))  # type: ignore[arg-type]
        ax.axvline(0, color="#555555", linewidth=1)
        ax.set(xlabel="predicted against measured, % too much", yticks=range(len(networks)), yticklabels=networks)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        canvas.legend(loc="outside upper center", ncols=len(CHECKED), frameon=False, fontsize=10)
        svg = to_svg(canvas)
    medians = 100 * summarise(check)
    told = "; ".join(f"{model} {error:.0f} %" for model, error in medians.loc[list(CHECKED), "all"].items())
    count = len(known[["round", "organisation", "system"]].drop_duplicates())
    alt = f"Errors of predictions for four networks on {count} systems. Median absolute error: {told}."
    caption = f"Each of {count} measured systems, each network predicted from the system's others."
    numbers = medians.add_suffix(", %").reset_index()
    return Figure(svg, alt, caption, table(numbers, "Median absolute error of every model by network, and the worst"))
