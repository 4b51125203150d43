"""Provenance: versions, commit, machine, time."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgelab import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A committed source tree with a package folder and a results folder."""
    for file in ("edgelab/__init__.py", "book/results/ledger.csv"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("old\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_collect_says_when_and_what() -> None:
    """Four strings; the time is now, in UTC."""
    found = provenance.collect()
    assert list(found) == ["versions", "commit", "machine", "when"]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(found["when"])) < timedelta(minutes=1)
    assert datetime.fromisoformat(found["when"]).utcoffset() == timedelta(0)


def test_versions_name_what_is_installed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not there is left out."""
    import numpy

    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package-at-all"))
    assert provenance.versions() == f"numpy {numpy.__version__}"


def test_nothing_heavy_is_imported() -> None:
    """Neither framework is loaded to say its version."""
    source = (
        "import sys; from edgelab import provenance; text = provenance.collect()['versions'];"
        "print('torch' in text, sorted({'torch', 'tensorflow', 'tf_keras', 'onnxruntime'} & set(sys.modules)))"
    )
    root = str(Path(provenance.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", source], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"


def test_commit_is_the_source_trees(tree: Path) -> None:
    """Clean, then dirty by a changed or a new file of the package; results and checkpoints do not count."""
    head = git(tree, "rev-parse", "HEAD")
    assert provenance.commit(tree / "edgelab") == head
    (tree / "book/results/ledger.csv").write_text("new\n")
    (tree / "edgelab/checkpoints").mkdir()
    (tree / "edgelab/checkpoints/a.safetensors").write_text("new\n")
    assert provenance.commit(tree / "edgelab") == head
    (tree / "edgelab/new.py").write_text("new\n")
    assert provenance.commit(tree / "edgelab") == f"{head}-dirty"
    (tree / "edgelab/new.py").unlink()
    (tree / "edgelab/__init__.py").write_text("new\n")
    assert provenance.commit(tree / "edgelab") == f"{head}-dirty"


def test_commit_of_another_project_is_not_taken(tree: Path) -> None:
    """A package installed into a virtual environment inside someone's repository has no commit."""
    installed = tree / "venv/site-packages/edgelab"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert provenance.commit(installed) == ""


def test_commit_without_git(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No git, no commit, no error."""
    monkeypatch.setenv("PATH", "")
    assert provenance.commit(tree / "edgelab") == ""


def test_processor_from_linux() -> None:
    """x86 says flags, Arm says Features and often no name."""
    name, flags = provenance._linux(
        "model name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx_vnni\n\nmodel name\t: other\n"
    )
    assert (name, flags) == ("Some CPU @ 2 GHz", {"fpu", "avx2", "avx_vnni"})
    name, flags = provenance._linux("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert (name, flags) == ("", {"fp", "asimd", "asimddp"})


def test_processor_from_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's names for the same instructions; those that are off (0) are not named."""
    answers = {
        ("machdep.cpu.brand_string",): "Apple M2",
        ("hw.optional",): "hw.optional.neon: 1\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0",
    }
    monkeypatch.setattr(provenance, "_output", lambda _, *rest: answers.get(tuple(r for r in rest if r != "-n")))
    monkeypatch.setattr(provenance.Path, "exists", lambda _: False)
    monkeypatch.setattr(provenance.platform, "system", lambda: "Darwin")
    assert provenance.machine().startswith(f"Apple M2, {os.cpu_count()} cores, neon dotprod, Darwin")


@pytest.mark.parametrize(
    ("instructions", "text"),
    [
        (("avx2",), "avx2, no VNNI"),
        (("avx2", "avx512f", "avx512_vnni"), "avx2 avx512f avx512_vnni"),
        (("neon",), "neon, no dot product"),
        (("neon", "dotprod"), "neon dotprod"),
        ((), "no known int8 instructions"),
    ],
)
def test_what_int8_lacks_is_named(instructions: tuple[str, ...], text: str) -> None:
    assert provenance.int8_text(instructions) == text


def test_machine_is_made_of_processor_and_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_name_and_flags", lambda: ("Chip, mark 2", {"avx_vnni", "fpu", "avx2"}))
    assert (provenance.processor(), provenance.int8_instructions()) == ("Chip  mark 2", ("avx2", "avx_vnni"))
    assert provenance.machine().startswith(f"Chip  mark 2, {os.cpu_count()} cores, avx2 avx_vnni, ")
