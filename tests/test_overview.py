"""That the comparison and the advice say what the published ledger says, and stop where it no longer bears them out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from edgelab import book, ledger, overview
from edgelab.errors import EdgelabError
from edgelab.overview import _advice
from edgelab.web import pages

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return ledger.read(ROOT / "book" / "results" / "ledger.csv")


def row_of(published: pd.DataFrame, source: overview.Source) -> pd.Series:
    """The one row of the ledger that `source` means."""
    same = published[list(overview.Source._fields)].eq(list(source)).all(axis=1) & (published["seed"] == 0)
    (found,) = published[same].iloc
    return found


def test_every_answer_quotes_the_accuracies_of_its_rows_and_links_to_them(published: pd.DataFrame) -> None:
    answers = overview.advice(published).split("\n\n")
    files = pages.measured_files(published, overview.BASELINE).reset_index(drop=True)
    for advice, answer in zip(overview.ADVICE, answers, strict=True):
        assert answer.startswith(f"**{advice.question}**")
        numbers = [int(number) for number in re.findall(r"every_file\.html#file-(\d+)\"", answer)]
        rows = [row_of(published, source) for source in advice.sources]
        for number, row in zip(numbers, rows, strict=True):
            linked = files.iloc[number - 1]
            assert [linked[name] for name in pages.IDENTITY] == [row[name] for name in pages.IDENTITY]
        shown = {f"{100 * row['accuracy']:.2f}" for row in rows}
        quoted = re.findall(r"(\d+\.\d\d) %", answer)
        assert quoted and set(quoted) <= shown


@pytest.mark.parametrize("advice", overview.ADVICE, ids=lambda advice: advice.question)
def test_an_answer_that_its_rows_do_not_bear_out_stops_the_book(
    advice: overview.Advice, published: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the rows in reverse order: what is better becomes what is worse."""
    turned = replace(advice, sources=advice.sources[::-1])
    monkeypatch.setattr(_advice, "ADVICE", (turned,))
    with pytest.raises(EdgelabError, match=r"no longer holds of the published rows: rewrite it$"):
        overview.advice(published)


def test_a_row_that_is_gone_is_named(published: pd.DataFrame) -> None:
    gone = overview.ADVICE[0].sources[0]
    left = published[~published[list(overview.Source._fields)].eq(list(gone)).all(axis=1)]
    with pytest.raises(EdgelabError, match=f"the ledger has no row {' '.join(gone)}: publish that chapter"):
        overview.advice(left)


def test_every_file_of_a_chapter_has_its_line_with_its_numbers(published: pd.DataFrame) -> None:
    text = overview.techniques(published)
    files = pages.measured_files(published, overview.BASELINE).to_dict("records")
    lines = re.findall(r'<tr><th scope="row"><a href="every_file\.html#file-(\d+)">\d+</a></th>(.*?)</tr>', text)
    first = {number for number, row in enumerate(files, 1) if row["seed"] == 0}
    assert sorted(int(number) for number, _ in lines) == sorted(first)
    for number, line in lines:
        row, cells = files[int(number) - 1], re.findall(r"<td[^>]*>(.*?)</td>", line)
        assert cells[0] == row["technique"]
        assert cells[3:6] == [f"{row['bytes']:,}", f"{row['gzip_bytes']:,}", f"{row['nonzero']:,}"]
    under = {part.split("\n", 1)[0]: part.count('<tr><th scope="row">') for part in text.split("### ")[1:]}
    assert list(under)[:3] == ["plain_cnn", "resnet8", "ds_cnn"]
    assert under["ds_cnn"] == sum(row["model"] == "ds_cnn" and row["seed"] == 0 for row in files)


def test_times_are_those_of_one_chapter_and_one_processor(published: pd.DataFrame) -> None:
    source = overview.Source("02_pruning", "plain_cnn", "structured_pruning_2x", "tensorflow")
    narrow, dense = row_of(published, source), row_of(published, source._replace(technique="baseline"))
    line = next(line for line in overview.techniques(published).split("<tr>") if f"{narrow['bytes']:,}" in line)
    assert f">{narrow['latency_ms'] / dense['latency_ms']:.2f}</td>" in line
    elsewhere = published.copy()
    elsewhere.loc[elsewhere["technique"] == "baseline", "latency_on"] = "another processor"
    line = next(line for line in overview.techniques(elsewhere).split("<tr>") if f"{narrow['bytes']:,}" in line)
    assert line.split("</tr>")[0].endswith("<td class=number></td>")


def test_no_file_of_a_front_is_dominated(published: pd.DataFrame) -> None:
    text = overview.fronts(published)
    files = pages.measured_files(published, overview.BASELINE).to_dict("records")
    for cost, line in zip(("bytes", "gzip_bytes", "macs"), text.split("<tr><th")[2:], strict=False):
        chosen = {int(number) - 1 for number in re.findall(r"#file-(\d+)", line)}
        first = [f for f in files if f["seed"] == 0]
        for index, row in enumerate(files):
            if row["seed"] != 0:
                assert index not in chosen
                continue
            better = [f for f in first if f[cost] < row[cost] and f["accuracy"] >= row["accuracy"]]
            better += [f for f in first if f[cost] <= row[cost] and f["accuracy"] > row["accuracy"]]
            assert (index in chosen) == (not better)


def test_what_was_repeated_is_told_with_its_mean_and_its_gain(published: pd.DataFrame) -> None:
    rows = published[(published["chapter"] == overview.BASELINE) & (published["model"] == "ds_cnn")]
    dense = rows[rows["technique"] == "baseline"]
    shares = {
        "baseline": (0.80, 0.82, 0.81),
        "ptq_int8": (0.79, 0.8101, 0.80),
        "magnitude_pruning_50": (0.80, 0.83, 0.80),
    }
    made = [
        dense.assign(technique=technique, seed=seed, accuracy=share)
        for technique, values in shares.items()
        for seed, share in enumerate(values)
    ]
    text = overview.repeats(pd.concat(made))
    lines = {
        row[0]: row[1:] for row in re.findall(r'"name">(\w+)</th><td>TensorFlow</td>' + 4 * "<td[^>]*>(.*?)</td>", text)
    }
    assert lines["baseline"] == ("3", "81.00 (78.52 to 83.48)", "", "")
    assert lines["ptq_int8"] == ("3", "80.00 (77.51 to 82.50)", "-1.00 (-1.01 to -0.98)", "yes")
    assert lines["magnitude_pruning_50"][3] == "no"
    assert text.count("### ds_cnn") == 1


def test_claims_stand_beside_the_rows_they_are_compared_with(published: pd.DataFrame) -> None:
    text = overview.claims(published)
    assert "10.85 M MACs, energy 43.40 | `plain_cnn`, `baseline`: " in text
    assert len(text.splitlines()) == 2 + len(overview.CLAIMS)
    for claim in overview.CLAIMS:
        assert claim.figures in text
        for source in claim.sources:
            row = row_of(published, source)
            assert f"`{row['model']}`, `{row['technique']}`: {100 * row['accuracy']:.2f} % on `{row['data']}`" in text


def test_without_measurements_every_part_says_so(tmp_path: Path) -> None:
    for name in ("advice", "techniques", "coverage", "fronts", "repeats", "goals", "claims"):
        assert book.fill(f"<!-- edgelab: {name} -->", tmp_path) == "*No measurement has been published yet.*"


def test_every_technique_has_networks_in_both_frameworks_or_a_reason(published: pd.DataFrame) -> None:
    lines, shown = overview.coverage(published).splitlines()[2:], pages.comparable(published, overview.BASELINE)
    assert len(lines) == len(overview.KINDS)
    for kind, line in zip(overview.KINDS, lines, strict=True):
        for cell, framework in zip(line.split(" | ")[1:], ("tensorflow", "pytorch"), strict=True):
            own = shown[shown["technique"].str.fullmatch(kind.pattern) & (shown["framework"] == framework)]
            assert (kind.gaps[framework] in cell) if own.empty else (f"`{own['model'].iloc[0]}`" in cell)


def test_a_gap_without_a_reason_and_a_reason_without_a_gap_stop_the_book(published: pd.DataFrame) -> None:
    ours = published["technique"].str.fullmatch("p?cqat")
    with pytest.raises(EdgelabError, match=r"in tensorflow has no rows and no reason for that: publish that chapter"):
        overview.coverage(published[~ours])
    both = pd.concat([published, published[ours].assign(framework="pytorch")])
    with pytest.raises(EdgelabError, match=r"in pytorch has rows and a reason for having none: publish that chapter"):
        overview.coverage(both)


def test_every_measured_technique_belongs_to_a_kind(published: pd.DataFrame) -> None:
    """But for controls, and designs of several steps."""
    shown = pages.comparable(published, overview.BASELINE)["technique"]
    several = (
        r"magnitude_pruning_0|longer_training(_ema)?|distillation_without_teacher|linear_head|(ptq|qat)_pruned_int8"
    )
    several += r"|.*_ptq_int8|structured_pruning_\w+_qat_lsq_4bit"
    known = "|".join(f"({kind.pattern})" for kind in overview.KINDS)
    assert sorted({name for name in shown if not re.fullmatch(f"{known}|{several}", name)}) == []


def test_the_error_of_the_energy_is_that_of_the_check_against_boards() -> None:
    from edgelab import boards

    found = boards.summarise(boards.check_against_boards())["all"]
    assert f"{100 * found['estimate']:.0f} % for this estimate" in overview.energy_error()


def mean_of(published: pd.DataFrame, source: overview.Source) -> float:
    """The mean accuracy over all seeds that the ledger has of `source`, 0..1."""
    return published[published[list(overview.Source._fields)].eq(list(source)).all(axis=1)]["accuracy"].mean()


def cells_of(published: pd.DataFrame, goal: overview.Goal) -> list[str]:
    (line,) = (line for line in overview.goals(published).splitlines() if line.startswith(f"| {goal.text} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("goal", overview.GOALS, ids=lambda goal: goal.text)
def test_a_goal_is_reached_or_it_says_what_is_missing(goal: overview.Goal, published: pd.DataFrame) -> None:
    """Reckoned anew from the ledger: the worst file of several decides."""
    _, told, _, verdict, onward = cells_of(published, goal)
    rows, others = ([100 * mean_of(published, s) for s in given] for given in (goal.sources, goal.against))
    if not rows:
        assert verdict == "not tried" and onward == goal.onward
        return
    least = [other - goal.within for other in others] or [goal.accuracy] * len(rows)
    short = max(needed - row for row, needed in zip(rows, least, strict=True))
    assert verdict == ("reached" if short < 0.005 else f"missed by {short:.2f} points")
    assert onward == (overview._goals.DASH if verdict == "reached" else goal.onward) != ""
    assert len(re.findall(r"every_file\.html#file-", told)) == len(goal.sources)


def test_a_goal_is_missed_once_its_worst_file_falls_short(published: pd.DataFrame) -> None:
    goal, worse = overview.GOALS[0], published.copy()
    mine = published[list(overview.Source._fields)].eq(list(goal.sources[-1])).all(axis=1)
    worse.loc[mine, "accuracy"] = row_of(published, goal.against[-1])["accuracy"] - 0.0062
    assert cells_of(published, goal)[3] == "reached"
    assert cells_of(worse, goal)[3] == "missed by 0.12 points"


def test_no_file_is_nearer_to_a_goal_than_the_one_that_is_shown(published: pd.DataFrame) -> None:
    photos = published[(published["data"] == "cifar10-jpeg") & (published["seed"] == 0)]
    plain, small = overview.GOALS[-2:]
    best = photos[photos["model"] == "plain_cnn"]["accuracy"].max()
    assert mean_of(published, plain.sources[0]) > best - 0.004, "another network is clearly nearer"
    few_bits = photos["technique"].str.contains("int8|bit|pqat|cqat")
    fits = photos[few_bits & (photos["bytes"] <= 100_000) & (photos["macs"] < 12.55e6)]
    assert row_of(published, small.sources[0])["accuracy"] == fits["accuracy"].max()
