"""That the comparison of notebooks with their outputs finds what it should, and only that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]


def test_nbval_compares_results_but_neither_progress_nor_looks(tmp_path: Path) -> None:
    v4 = nbformat.v4

    def cell(source: str, printed: str, progress: str = "") -> nbformat.NotebookNode:
        outputs = [v4.new_output("stream", name="stderr", text=progress)] if progress else []
        outputs.append(v4.new_output("stream", name="stdout", text=printed))
        return v4.new_code_cell(source, outputs=outputs, execution_count=1)

    cells = [
        cell("import os, sys\n_ = sys.stderr.write('epoch 2')\nprint(1 + 1)", "2\n", "epoch 1"),
        cell("print(os.path.basename(os.path.dirname(os.environ['EDGELAB_LEDGER']))[:14])", "edgelab-pytest\n"),
        cell("print(1 + 1)", "3\n"),
        cell("print('<td style=\"a:b\">4</td>')", '<td style="a:c">4</td>\n'),
        cell("print('<td style=\"a:b\">4</td>')", '<td style="a:b">5</td>\n'),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "00_x.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", str(tmp_path), "-q", "--confcutdir", str(ROOT)]
    command += ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), "-p", "conftest"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "2 failed, 3 passed" in done.stdout, done.stdout
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 2 and "Cell 2" in failed[0] and "Cell 4" in failed[1]
