"""The two frameworks' packages are twins: the same files, public functions and argument names in the same order."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "edgelab"
TWINS = ("tensorflow", "pytorch")
SIMILAR = {"qat.py", "combining.py"}  # the tools of one framework can do what those of the other cannot
# Fewer than eight bits: PyTorch only; Keras has MobileNet itself; only its models hide layers in models inside.
ALONE = {"_low_bit_file.py", "_mobilenet.py", "_flat.py"}
MODULES = sorted({path.name for twin in TWINS for path in (PACKAGE / twin).glob("*.py")} - ALONE)


def signatures(source: str) -> dict[str, list[str]]:
    """Every public function at module level -> its arguments' names."""
    functions = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    return {f.name: [a.arg for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs)] for f in functions}


def test_the_comparison_sees_names_and_order() -> None:
    assert signatures("def f(a, /, b, *, c=1): ...\ndef _g(): ...\nclass C:\n def h(self): ...") == {
        "f": ["a", "b", "c"]
    }


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_and_their_arguments_are_the_same(module: str) -> None:
    one, other = (signatures((PACKAGE / twin / module).read_text(encoding="utf-8")) for twin in TWINS)
    if module in SIMILAR:
        one, other = ({name: known[name] for name in one.keys() & other.keys()} for known in (one, other))
        other = {name: [argument for argument in other[name] if argument in one[name]] for name in other}
    assert one == other
    assert one or module == "__init__.py"


@pytest.mark.parametrize("blocks", ["DS_CNN_BLOCKS", "RESNET20_BLOCKS"])
def test_the_blocks_of_a_network_are_written_once(blocks: str) -> None:
    assert [p.name for p in PACKAGE.rglob("*.py") if f"\n{blocks} =" in p.read_text("utf-8")] == ["networks.py"]
