import re
from functools import cache

import numpy as np
import pytest

from edgelab import boards, plots
from edgelab.errors import EdgelabError

MACS = {"ad": 264_192, "ic": 12_501_632, "kws": 2_656_768, "vww": 7_489_664}


@cache
def checked(quantity):
    return boards.check_against_boards(quantity)


@cache
def summary(quantity):
    return boards.summarise(checked(quantity))


def test_the_networks_are_the_reference_networks():
    known = boards.features()
    assert known["macs"].astype(int).to_dict() == MACS
    published = boards.measurements().dropna(subset="MACs")
    assert published.groupby("network")["MACs"].unique().map(list).to_dict() == {k: [v] for k, v in MACS.items()}
    assert [boards.network_table(name).macs for name in boards.NETWORKS] == list(MACS.values())
    first = boards.network_table("ic").layers[0]
    assert (first.input_shape, first.output_shape, first.kernel) == ((32, 32, 3), (32, 32, 16), (3, 3))
    assert known["outputs"].to_dict() == {"ad": 1672, "ic": 86026, "kws": 72012, "vww": 231554}


def test_the_readme_states_the_figures_the_networks_have():
    readme = (boards.HERE / "README.md").read_text(encoding="utf-8")
    columns = ["macs", "effective_macs", "weight_bytes", "outputs"]
    for name, row in boards.features()[columns].iterrows():
        assert f"| {name} | " + " | ".join(f"{int(value):,}" for value in row) + " |" in readme
    assert "Apache License 2.0" in readme and "mlcommons/tiny" in readme
    assert "Version 2.0, January 2004" in (boards.HERE / "LICENSE-APACHE-2.0.md").read_text(encoding="utf-8")


def test_a_board_has_one_name():
    def plain(text):
        return re.sub("[^a-z0-9]", "", text.lower())

    rows = boards.measurements()[["board", "system"]].drop_duplicates()
    chips = rows["board"].str.extract(
        r"((?:[A-Z]*\d[A-Z0-9]+)|Andes\w+-\w+|Snapdragon|Xuantie|Zybo|ZedBoard|TinkerV|Z2|Z7)"
    )[0]
    chips = chips.replace({"NDP9120": "9120"})  # called by its number only
    assert chips.notna().all()
    assert [s for c, s in zip(chips, rows["system"], strict=True) if plain(c) not in plain(s)] == []
    assert len(rows[rows["board"] == "NUCLEO-L4R5ZI"]) > 5


def test_systems_are_closed_int8_and_counted_once():
    energy = boards.systems("energy_uJ")
    assert (len(energy), len(energy.dropna())) == (24, 20)
    assert energy.index.is_unique and not energy.reset_index("round").duplicated(list(boards.NETWORKS)).any()
    names = boards.systems("latency_ms").index.get_level_values("system")
    assert not names.str.contains("float").any() and "pynq-z2" not in names


def test_ratios_predict_a_board_they_have_not_seen_within_fifteen_percent():
    """The claim: one constant a board, fewer than the three networks it is fitted on, and at most 15 % median error."""
    for quantity in ("energy_uJ", "latency_ms"):
        medians = summary(quantity)["all"]
        assert medians["cost ratios"] <= 0.15 < medians["macs"]
        assert (summary(quantity).loc["cost ratios", list(boards.NETWORKS)] <= 0.15).all()
        assert summary(quantity).loc["cost ratios", "boards"] <= 0.15


def test_what_the_docstring_admits_is_so():
    medians = summary("energy_uJ")["all"]
    assert medians["cost ratios, network unseen"] > medians["macs"]
    assert abs(medians["cost ratios"] - medians["mean profile"]) < 0.05
    assert medians["estimate"] == medians.max()
    check = checked("energy_uJ")
    autoencoder = check.query("model == 'estimate' and network == 'ad' and complete")["error"].median() + 1
    assert 3 < autoencoder < 5
    assert boards.cost_ratios(without_network="ad").weight_byte < 0.1
    assert boards.cost_ratios(without_network="ic").output < 0.1
    macs = check.query("model == 'macs' and complete").groupby("network")["error"].median()
    assert macs["ic"] > 0.3 and (macs.drop("ic") < 0).all()


def test_energy_is_time_times_a_constant_power():
    power = boards.power().dropna()
    spread = power.max(axis=1) / power.min(axis=1)
    assert len(power) == 20 and 1 < spread.median() < 1.15
    assert (spread > 1.3).sum() == 1
    ratios = np.array([boards.cost_ratios("energy_uJ"), boards.cost_ratios("latency_ms")])
    assert np.all(ratios[1] / ratios[0] < 1.3) and np.all(ratios[0] / ratios[1] < 1.3)


def test_the_ratios_do_not_hang_on_a_single_board():
    ratios = [boards.cost_ratios(without_board=board) for board in boards.systems().index.unique("board")]
    for values in zip(*ratios, strict=True):
        assert max(values) / min(values) < 1.3


def test_a_prediction_uses_neither_its_own_measurement_nor_its_board(monkeypatch):
    before = checked("energy_uJ")
    table = boards.systems("energy_uJ")
    changed = table.copy()
    on_board = changed.index.get_level_values("board") == "NUCLEO-L4R5ZI"
    changed.loc[on_board, "ic"] *= 10
    monkeypatch.setattr(boards, "systems", lambda quantity="energy_uJ": changed)
    after = boards.check_against_boards()
    mine = (before["board"] == "NUCLEO-L4R5ZI") & (before["network"] == "ic")
    assert np.array_equal(before.loc[mine, "predicted"], after.loc[mine, "predicted"])
    other = (before["board"] == "NUCLEO-L4R5ZI") & (before["network"] == "vww") & (before["model"] == "macs")
    assert (before.loc[other, "predicted"] != after.loc[other, "predicted"]).all()


def test_a_board_that_follows_the_model_is_predicted_exactly(monkeypatch):
    known, table = boards.features(), boards.systems().dropna()
    costs = known["macs"] + 0.7 * known["weight_bytes"] + 30 * known["outputs"]
    made = table.copy()
    made[:] = np.outer(np.arange(1, len(made) + 1), costs[list(boards.NETWORKS)])
    monkeypatch.setattr(boards, "systems", lambda quantity="energy_uJ": made)
    assert boards.cost_ratios() == pytest.approx((0.7, 30), rel=1e-3)
    errors = boards.check_against_boards().groupby("model")["error"].apply(lambda e: e.abs().max())
    assert errors["cost ratios"] < 1e-3 and errors["cost ratios, network unseen"] < 1e-2 < errors["macs"]


def test_macs_rank_latency_wrongly_on_some_boards_but_not_energy():
    latency = boards.misranked("latency_ms")
    assert len(latency) >= 5 and set(latency["fewer"]) == {"vww"} and set(latency["more"]) == {"ic"}
    assert (latency["ratio"] > 1.1).sum() >= 5 and latency.attrs["pairs"] > 300
    for row in latency.itertuples():
        values = boards.systems("latency_ms").loc[(row.round, row.organisation, row.board, row.system)]
        assert values["vww"] / values["ic"] == pytest.approx(row.ratio) and row.ratio > 1
    assert boards.misranked("energy_uJ").empty and boards.misranked("energy_uJ").attrs["pairs"] == 132


def test_some_systems_skip_zero_weights():
    found = boards.skipped_zeros("energy_uJ")
    gap = found[~found["skips"]]["all_weights"].min() - found[found["skips"]]["all_weights"].max()
    assert 0 < found["skips"].sum() < len(found) and gap > 0.1
    assert set(found[found["skips"]].index.unique("round")) == {"v1.1", "v1.2"}
    zeros = boards.network_table("vww")
    assert zeros.nonzero / zeros.parameters == pytest.approx(0.18, abs=0.01)


def test_medians_by_board_and_worst():
    check = checked("energy_uJ")
    by_board = boards.summarise(check, "board")
    chosen = check[check["complete"] & (check["model"] == "macs")]
    assert by_board.loc["macs", "EK-RA6M4"] == chosen[chosen["board"] == "EK-RA6M4"]["error"].abs().median()
    assert by_board.loc["macs", "worst"] == chosen["error"].abs().max()
    assert by_board.loc["macs", "all"] == chosen["error"].abs().median()
    assert "NDP9120" not in by_board.columns and "NDP9120" in set(check["board"])


def test_the_table_of_errors_has_every_prediction_and_the_worst_system_first():
    check = checked("energy_uJ")
    for model in boards.MODELS:
        table = boards.error_table(check, model)
        rows = check[check["model"] == model].set_index([*boards.SYSTEM, "network"])
        assert table.notna().to_numpy().sum() == len(rows) == 4 * 20 + 3 * 4
        for (*system, network), row in rows.iterrows():
            off = 100 * (row["predicted"] / row["measured"] - 1)
            assert table.loc[tuple(system), network] == pytest.approx(off)
        assert set(table.index) == set(boards.systems().index)
        assert table.abs().max(axis=1).is_monotonic_decreasing
        assert table.iloc[0].abs().max() == pytest.approx(100 * summary("energy_uJ").loc[model, "worst"])
    table = boards.error_table(check)
    assert list(table.columns) == list(boards.NETWORKS)
    three = table.loc[("v1.0", "syntiant", "NDP9120", "syntiant_9120_0v9_30mhz")]
    assert np.isnan(three["ad"]) and three.drop("ad").notna().all()
    assert np.median(table.dropna().abs()) == pytest.approx(100 * summary("energy_uJ").loc["cost ratios", "all"])


def test_the_ratios_fail_where_the_docstring_says():
    table = boards.error_table(checked("energy_uJ"))
    found = boards.skipped_zeros()
    skipping = table.index.isin(found[found["skips"]].index)
    assert table["vww"][skipping].min() > 20 and skipping[:3].all()
    rest = table[~skipping].melt(ignore_index=False, value_name="error").reset_index()
    far = rest[rest["error"].abs() > 25]
    assert set(zip(far["network"], far["round"], far["board"], far["error"] > 0, strict=True)) == {
        ("ad", "v0.7", "EK-RA6M4", True),
        ("ic", "v0.7", "EK-RA6M4", False),
        ("ad", "v0.7", "xG24-DK2601B", True),
        ("vww", "v1.0", "NDP9120", True),
    }


def test_unknown_names_get_one_line():
    with pytest.raises(EdgelabError, match=r"^unknown quantity 'watts': choose one of energy_uJ, latency_ms$"):
        boards.check_against_boards("watts")
    with pytest.raises(EdgelabError, match=r"^unknown MLPerf Tiny network 'kwz': choose one of ad, ic, kws, vww$"):
        boards.network_table("kwz")
    with pytest.raises(EdgelabError, match=r"^unknown model 'ratios': choose one of macs; .*; cost ratios; [^;]*$"):
        boards.error_table(checked("energy_uJ"), "ratios")


def test_the_figure_of_the_check_says_its_medians():
    check = checked("energy_uJ")
    figure, medians = plots.board_check(check), summary("energy_uJ")["all"]
    for model in plots.CHECKED:
        assert f"{model} {100 * medians[model]:.0f} %" in figure.alt
    assert "on 20 systems" in figure.alt and all(model in figure.table.html for model in boards.MODELS)
