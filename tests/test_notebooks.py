"""What every chapter has to keep to, and its set-up cell run as in Colab. Outputs are compared by nbval."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTED = sorted((ROOT / "book" / "executed").glob("*.ipynb"))
URL = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
SETUP = f"""import importlib.util
if importlib.util.find_spec("edgelab") is None:
    %pip install -q "edgelab @ git+{URL}\""""
SECTIONS = (
    "In one sentence",
    "Predict",
    "By hand",
    "With the tools",
    "Measure",
    "When it goes wrong",
    "Exercise",
    "Take-aways",
    "References",
)

chapter = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str = "code") -> list[nbformat.NotebookNode]:
    """The cells of one kind, without the one papermill adds."""
    found = nbformat.read(path, as_version=4).cells
    return [c for c in found if c.cell_type == kind and "injected-parameters" not in c.metadata.get("tags", [])]


def words(source: str) -> str:
    """Source without blank lines and indentation: layout may differ, code may not."""
    return "\n".join(line.strip() for line in source.splitlines() if line.strip())


def test_there_are_chapters_once_there_is_a_folder() -> None:
    if not (ROOT / "notebooks").is_dir():
        pytest.skip("no chapter has been written yet")
    assert NOTEBOOKS


@chapter
def test_is_valid_and_small(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=4))
    code = cells(path)
    assert len(code) <= 20
    assert {i: c.source.count("\n") + 1 for i, c in enumerate(code) if c.source.count("\n") >= 15} == {}


@chapter
def test_has_one_parameters_cell_with_the_profile(path: Path) -> None:
    (tagged,) = (c for c in cells(path) if "parameters" in c.metadata.get("tags", []))
    assert 'profile = "ci"' in tagged.source


@chapter
def test_has_the_outputs_of_a_clean_run_from_top_to_bottom(path: Path) -> None:
    code = [c for c in cells(path) if c.source.strip()]
    counts = [c.execution_count for c in code]
    assert None not in counts, "run it: make publish PROFILE=ci"
    assert counts == sorted(counts)
    outputs = [output for c in code for output in c.outputs]
    assert outputs
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []


@chapter
def test_has_no_trace_of_the_machine_it_ran_on(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert set(notebook.metadata) <= {"kernelspec", "language_info", "title"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(set(c.metadata) <= {"tags", "editable", "slideshow"} for c in notebook.cells)


@chapter
def test_has_the_sections_of_a_chapter_in_order(path: Path) -> None:
    lines = [line for c in cells(path, "markdown") for line in c.source.splitlines()]
    assert sum(line.startswith("# ") for line in lines) == 1
    pattern = re.compile(rf"(?:## |\*\*)({'|'.join(SECTIONS)})\b")
    assert tuple(match[1] for match in map(pattern.match, lines) if match) == SECTIONS


@chapter
def test_starts_with_the_same_set_up_cell(path: Path) -> None:
    assert words(cells(path)[0].source) == words(SETUP)


@chapter
@pytest.mark.parametrize("kind", ["code", "markdown"])
def test_the_published_copy_has_the_same_cells(path: Path, kind: str) -> None:
    copy = ROOT / "book" / "executed" / path.name
    assert copy.exists(), "publish it: make publish"
    same = [c.source for c in cells(copy, kind)] == [c.source for c in cells(path, kind)]
    assert same, "publish it again: make publish"


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.stem)
def test_a_published_copy_is_complete(path: Path) -> None:
    assert (ROOT / "notebooks" / path.name).exists(), "its chapter is gone"
    outputs = [output for c in cells(path) for output in c.outputs]
    assert outputs
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
    assert "papermill" not in nbformat.read(path, as_version=4).metadata


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.parametrize("path", [*NOTEBOOKS, *EXECUTED], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_exercise_waits_to_be_solved_and_its_folded_solution_passes(path: Path) -> None:
    """Told by the outputs: nbval runs the cells, and a failing assertion would have left an error."""
    tagged = {tag: [c for c in cells(path) if tag in c.metadata.get("tags", [])] for tag in ("exercise", "solution")}
    (exercise,), (solution,) = tagged.values()
    assert re.search(r'"solved" if .* else "not solved yet"', exercise.source)
    assert printed(exercise).splitlines()[-1] == "not solved yet"
    assert re.search(r"^ *assert ", solution.source, re.MULTILINE), "the solution does not check itself"
    assert printed(solution), "the solution has not run to its end"
    assert "hide-cell" in solution.metadata.tags, "the solution is not folded in the book"


@pytest.fixture(scope="module")
def colab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that has everything this one has, except edgelab: what Colab is like.

    The third-party packages are linked into a folder that a .pth file adds; nothing is fetched.
    """
    folder = tmp_path_factory.mktemp("colab")
    third_party = folder / "third-party"
    third_party.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "edgelab" not in entry.name and entry.suffix != ".pth":
            (third_party / entry.name).symlink_to(entry)
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(site) / "third-party.pth").write_text(f"{third_party}\n")
    return python


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of one commit with the files of this working tree, committed here or not.

    This one is not cloned: it may be shallow, which pip's `git clone --filter=blob:none` does not get through.
    """
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git repository: nothing says which files belong to the project")
    folder = tmp_path_factory.mktemp("published")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "--all", "--force"), ("commit", "-qm", "all")):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


def run_in(python: Path, published: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python` outside the project, without a network.

    pip looks up no index and builds with what is there; git takes the folder `published` for the published repository.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON", "COV_"))}
    environment |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    settings = {"safe.directory": "*", f"url.{published.as_uri()}.insteadOf": URL}
    environment["GIT_CONFIG_COUNT"] = str(len(settings))
    for i, (key, value) in enumerate(settings.items()):
        environment |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}
    return subprocess.run(
        [python, *arguments], cwd=python.parents[2], env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_set_up_cell_installs_edgelab_in_colab(colab: Path, published: Path, tmp_path: Path) -> None:
    missing = run_in(colab, published, "-c", "import edgelab")
    assert "No module named 'edgelab'" in missing.stderr
    script = tmp_path / "cell.ipy"
    script.write_text(f"{cells(NOTEBOOKS[0])[0].source if NOTEBOOKS else SETUP}\n")
    ran = run_in(colab, published, "-m", "IPython", "--no-banner", str(script))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    where = run_in(colab, published, "-c", "import edgelab, edgelab.cli, edgelab.data; print(edgelab.__file__)")
    assert where.returncode == 0, ran.stdout + ran.stderr + where.stderr
    installed = Path(where.stdout.strip())
    assert installed.is_relative_to(colab.parents[1] / "lib")
    assert (installed.parent / "py.typed").exists()
    kept = {path.name for path in (published / "edgelab" / "checkpoints").glob("*.safetensors")}
    assert kept == {path.name for path in installed.parent.glob("checkpoints/*.safetensors")}

    again = run_in(colab, published, "-m", "IPython", "--no-banner", str(script))
    assert again.stdout == "", "a second run installs nothing"
