"""Energy and latency models held against measured boards: MLPerf Tiny v0.7 to v1.2, four networks, int8.

The data lie beside this file, with their source in README.md. A model predicts the network it has not seen on a board
from the others measured there:

- `macs`: energy proportional to MACs; one constant a board, the mean of the logarithms.
- `macs, least squares`: the same, the constant by least squares, in which the largest network decides.
- `mean profile`: no physics, only each network's average share on the other boards; what a table can do.
- `estimate`: proportional to `edgelab.energy.estimate`; one constant a board.
- `cost ratios`: board constant x (MACs + a x bytes of weights + b x outputs); one constant a board, and two ratios that
  are fitted on other boards only (by name, since the same chip appears in many submissions).
- `cost ratios, network unseen`: the same, with the ratios fitted without the network that is predicted.

What the ratios mean. On these processors energy is nearly time x a constant power (`power`), and time is instructions.
So b is what an output costs beside its MACs (starting and ending loops, gathering inputs, bringing a 32-bit sum back to
8 bits, storing it), in units of a MAC; it is paid once an output, however long its sum, as the reuse rule of
`edgelab.energy` moves a partial sum once. a is what a weight costs beside its MACs: being loaded once, which only the
autoencoder, with one MAC a weight, shows.

Read `cost ratios` together with `mean profile` and `network unseen`. With four networks, two ratios are nearly a table
of the networks themselves: a hangs on the autoencoder and b on ResNet-8, and without them both fall to zero. On a
network that no board has shown, the ratios do worse than MACs alone. The estimate does worst: instructions, which it
leaves out, hide the price of fetching weights, so it puts the autoencoder at three or four times its energy.

Where the ratios fail (`error_table`). They come from other boards, so they miss most where a system treats a network
unlike those boards: vww comes out far too high on the systems that seem to leave out zero weights (`skipped_zeros`) and
on NDP9120, ad on EK-RA6M4 and on the first submission of xG24-DK2601B, while ic on EK-RA6M4 comes out far too low. Such
a network also shifts the constant of its system, and with it what is predicted for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from edgelab.energy import BITS_PER_BYTE, estimate
from edgelab.errors import EdgelabError
from edgelab.layers import Layer, LayerTable

if TYPE_CHECKING:
    import pandas as pd

HERE = Path(__file__).parent
NETWORKS = ("ad", "ic", "kws", "vww")
COSTS = ["macs", "weight_bytes", "outputs"]
SYSTEM = ["round", "organisation", "board", "system"]
Quantity = Literal["energy_uJ", "latency_ms"]

FEWEST = 3  # networks a system must have measured, so that two are left to fit its constant
OUTLIER = 0.1  # log error beyond which a residual counts linearly, not squared: measurements spread by about 10 %
LOG_BOUNDS = (-6.0, 8.0)  # a ratio lies between 1/400 of a MAC and 3,000 MACs


class CostRatios(NamedTuple):
    """Cost of a byte of weights and of an output, in units of a MAC."""

    weight_byte: float
    output: float


def measurements() -> pd.DataFrame:
    """Every published result, one row a network and system: latency (ms) and energy (uJ) an inference, where given."""
    import pandas as pd

    return pd.read_csv(HERE / "mlperf_tiny.csv").astype({"MACs": "Int64"})


def network_table(name: str) -> LayerTable:
    """The counted layers of a reference network: ad (autoencoder), ic (ResNet-8), kws (DS-CNN), vww (MobileNet).

    Raises EdgelabError for another name.
    """
    import pandas as pd

    if name not in NETWORKS:
        raise EdgelabError(f"unknown MLPerf Tiny network {name!r}: choose one of {', '.join(NETWORKS)}")
    rows = pd.read_csv(HERE / "networks.csv", dtype={"kernel": str, "stride": str}).query("network == @name")
    shapes = ("input_shape", "output_shape", "kernel", "stride")
    layers = []
    for row in rows.drop(columns="network").fillna("").to_dict("records"):
        sizes = {key: tuple(int(size) for size in str(row[key]).split("x") if size) for key in shapes}
        values: dict[str, Any] = {str(key): value for key, value in (row | sizes).items()}
        layers.append(Layer(**values))
    return LayerTable(tuple(layers), {})


def features() -> pd.DataFrame:
    """What the models know of each network: MACs, bytes of weights (all and non-zero), outputs, the estimate (uJ)."""
    import pandas as pd

    def row(table: LayerTable) -> dict[str, float]:
        counted = [(layer, (layer.weight_bits or 0) / BITS_PER_BYTE.value) for layer in table.layers]
        return {
            "macs": table.macs,
            "weight_bytes": sum(layer.parameters * width for layer, width in counted),
            "outputs": sum(int(np.prod(layer.output_shape)) for layer in table.layers),
            "effective_macs": table.effective_macs,
            "effective_weight_bytes": sum(layer.nonzero * width for layer, width in counted),
            "estimate_uj": estimate(table).total_uj,
        }

    return pd.DataFrame({name: row(network_table(name)) for name in NETWORKS}).T.rename_axis("network")


def systems(quantity: Quantity = "energy_uJ") -> pd.DataFrame:
    """`quantity` of every system in the closed division, one column a network, NaN where it was not measured.

    Float32 systems, results submitted again unchanged, and systems with fewer than three networks are left out.
    Raises EdgelabError for an unknown quantity.
    """
    if quantity not in get_args(Quantity):
        raise EdgelabError(f"unknown quantity {quantity!r}: choose one of {', '.join(get_args(Quantity))}")
    rows = measurements()
    rows = rows[(rows["division"] == "closed") & ~rows["system"].str.contains("float")]
    table = rows.pivot(index=SYSTEM, columns="network", values=quantity)[list(NETWORKS)].dropna(thresh=FEWEST)
    repeated = table.reset_index("round").duplicated(subset=list(NETWORKS)).to_numpy()
    return table[~repeated]


def _log_costs(ratios: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Logarithm of MACs + ratios x (bytes of weights, outputs) for each row of `known`."""
    return np.log(known[:, 0] + known[:, 1:] @ ratios)


def _fit(logs: np.ndarray, known: np.ndarray) -> CostRatios:
    """The ratios that explain `logs` (systems, networks) best when every system has its own constant."""
    from scipy.optimize import least_squares

    def residuals(log_ratios: np.ndarray) -> np.ndarray:
        rest = logs - _log_costs(np.exp(log_ratios), known)
        return (rest - rest.mean(1, keepdims=True)).ravel()

    found = least_squares(residuals, np.ones(2), bounds=LOG_BOUNDS, loss="soft_l1", f_scale=OUTLIER)
    return CostRatios(*(float(ratio) for ratio in np.exp(found.x)))


def cost_ratios(
    quantity: Quantity = "energy_uJ", without_board: str | None = None, without_network: str | None = None
) -> CostRatios:
    """The two ratios fitted on all systems that measured all four networks, but for one board or one network."""
    table = systems(quantity).dropna()
    table = table[table.index.get_level_values("board") != without_board]
    kept = [name for name in NETWORKS if name != without_network]
    known = features().loc[kept, COSTS]
    return _fit(np.log(table[kept].to_numpy()), known.to_numpy())


Shape = Callable[[np.ndarray, "pd.DataFrame", int], np.ndarray]
Scale = Callable[[np.ndarray, np.ndarray], float]


def _macs(others: np.ndarray, networks: pd.DataFrame, held: int) -> np.ndarray:
    return np.log(networks["macs"].to_numpy())


def _mean_profile(others: np.ndarray, networks: pd.DataFrame, held: int) -> np.ndarray:
    return (others - others.mean(1, keepdims=True)).mean(0)


def _estimate(others: np.ndarray, networks: pd.DataFrame, held: int) -> np.ndarray:
    return np.log(networks["estimate_uj"].to_numpy())


def _ratios(others: np.ndarray, networks: pd.DataFrame, held: int) -> np.ndarray:
    costs = networks[COSTS].to_numpy()
    return _log_costs(np.array(_fit(others, costs)), costs)


def _ratios_unseen(others: np.ndarray, networks: pd.DataFrame, held: int) -> np.ndarray:
    costs = networks[COSTS].to_numpy()
    seen = np.arange(len(costs)) != held
    return _log_costs(np.array(_fit(others[:, seen], costs[seen])), costs)


def _mean_of_logs(own: np.ndarray, shape: np.ndarray) -> float:
    return float(np.nanmean(own - shape))


def _least_squares(own: np.ndarray, shape: np.ndarray) -> float:
    known = ~np.isnan(own)
    measured, relative = np.exp(own[known]), np.exp(shape[known])
    return float(np.log(measured @ relative / (relative @ relative)))


# How the networks' costs relate, from other systems and the networks, and how that is scaled to the board; all in logs.
MODELS: dict[str, tuple[Shape, Scale]] = {
    "macs": (_macs, _mean_of_logs),
    "macs, least squares": (_macs, _least_squares),
    "mean profile": (_mean_profile, _mean_of_logs),
    "estimate": (_estimate, _mean_of_logs),
    "cost ratios": (_ratios, _mean_of_logs),
    "cost ratios, network unseen": (_ratios_unseen, _mean_of_logs),
}


def _without(logs: np.ndarray, held: int) -> np.ndarray:
    left = logs.copy()
    left[held] = np.nan
    return left


def check_against_boards(quantity: Quantity = "energy_uJ") -> pd.DataFrame:
    """Every model's prediction of every network on every system, from the system's other networks.

    One row a prediction: model, the system, `complete` (whether it measured all four networks), network, `measured` and
    `predicted` (in the unit of `quantity`) and `error` (predicted / measured - 1). Ratios and profiles come from the
    complete systems of other boards. Raises EdgelabError for an unknown quantity.
    """
    import pandas as pd

    table, networks, rows = systems(quantity), features(), []
    for board, own_systems in table.groupby("board"):
        others = np.log(table[table.index.get_level_values("board") != board].dropna().to_numpy())
        for model, (shape_of, scale_of) in MODELS.items():
            for held, network in enumerate(NETWORKS):
                shape = shape_of(others, networks, held)
                for labels, values in zip(own_systems.index, own_systems.to_numpy(), strict=True):
                    scale = scale_of(_without(np.log(values), held), shape)
                    known = (not np.isnan(values).any(), network, values[held], float(np.exp(shape[held] + scale)))
                    rows.append((model, *labels, *known))
    frame = pd.DataFrame(rows, columns=["model", *SYSTEM, "complete", "network", "measured", "predicted"])
    return frame.dropna(subset="measured").assign(error=lambda f: f["predicted"] / f["measured"] - 1)


def summarise(check: pd.DataFrame, by: Literal["network", "board"] = "network") -> pd.DataFrame:
    """Median absolute error of each model for each network or board, over `all` of them, and the `worst` error.

    Takes the complete systems of a `check_against_boards`. `boards` is the median of the boards' own medians: it keeps
    the chips that were submitted often from deciding.
    """
    known = check[check["complete"]].assign(size=lambda f: f["error"].abs())
    models = known.groupby("model", sort=False)["size"]
    boards = known.groupby(["model", "board"], sort=False)["size"].median().groupby("model", sort=False).median()
    table = known.pivot_table(index="model", columns=by, values="size", aggfunc="median", sort=False)
    return table.assign(all=models.median(), boards=boards, worst=models.max())


def error_table(check: pd.DataFrame, model: str = "cost ratios") -> pd.DataFrame:
    """Error of every single prediction of a model: predicted / measured - 1 in %, positive where it says too much.

    Takes a `check_against_boards`, whose measurements README.md names. One row a system, the one with the largest error
    first; one column a network, NaN where it was not measured. Unlike `summarise`, this keeps the systems with three
    networks. Raises EdgelabError for an unknown model.
    """
    if model not in MODELS:
        raise EdgelabError(f"unknown model {model!r}: choose one of {'; '.join(MODELS)}")
    table = 100 * check[check["model"] == model].pivot(index=SYSTEM, columns="network", values="error")[list(NETWORKS)]
    return table.loc[table.abs().max(axis=1).sort_values(ascending=False).index]


def misranked(quantity: Quantity = "energy_uJ") -> pd.DataFrame:
    """Pairs of networks on a system of which the one with fewer MACs needs more: `ratio` says how much more.

    One row a pair: the system, `fewer` and `more` (MACs), `ratio`. The attribute `attrs["pairs"]` counts all pairs that
    were compared. A ratio near 1 is within the spread of measurements.
    """
    import pandas as pd

    macs = features()["macs"]
    rows, pairs = [], 0
    table = systems(quantity)
    for labels in table.index:
        measured = table.loc[labels].dropna()
        for fewer in measured.index:
            for more in measured.index[macs[measured.index] > macs[fewer]]:
                pairs += 1
                if measured[fewer] > measured[more]:
                    rows.append((*labels, fewer, more, measured[fewer] / measured[more]))
    frame = pd.DataFrame(rows, columns=[*SYSTEM, "fewer", "more", "ratio"])
    frame.attrs["pairs"] = pairs
    return frame


def power() -> pd.DataFrame:
    """Mean power during an inference (mW): energy over latency, of the systems that measured both."""
    energy = systems("energy_uJ")
    return energy / systems("latency_ms").reindex(energy.index)


def skipped_zeros(quantity: Quantity = "energy_uJ") -> pd.DataFrame:
    """Which systems seem to leave out zero weights: the network vww has 82 % zeros, mostly in channels that are dead.

    One row a complete system: `all_weights` and `non_zero` are measured over predicted for vww, once from all MACs and
    weights and once from those that are not zero; `skips` says which is nearer. The ratios come from other boards, the
    scale from the board's other networks; no measurement of vww is used. An inference, not what vendors state.
    """
    networks = features()
    held = NETWORKS.index("vww")
    effective = ["effective_macs", "effective_weight_bytes", "outputs"]
    table = systems(quantity).dropna()
    found = table[[]].copy()
    for board, own in table.groupby("board"):
        ratios = np.array(cost_ratios(quantity, str(board), "vww"))
        costs = {"all_weights": networks[COSTS], "non_zero": networks[COSTS].copy()}
        costs["non_zero"].loc["vww"] = networks.loc["vww", effective].to_numpy()
        for column, known in costs.items():
            rest = np.log(own.to_numpy()) - _log_costs(ratios, known.to_numpy())
            found.loc[own.index, column] = np.exp(rest[:, held] - np.delete(rest, held, axis=1).mean(1))
    off = np.abs(np.log(found[["all_weights", "non_zero"]].to_numpy()))
    return found.assign(skips=off[:, 1] < off[:, 0])
