"""ONNX Runtime for the browser, from npm at the version that book/web/package-lock.json pins.

It is fetched once into build/web/ of the tree. Without Node.js, or without a network the first time, the book is built
without it, and its page says so.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from edgelab.errors import EdgelabError
from edgelab.files import exclusive, file_hash

PACKAGE = "onnxruntime-web"
# The module brings its loader within it. Its name ends in .js, for some servers do not know .mjs as JavaScript.
WANTED = {
    "dist/ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.js",
    "dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
    "package.json": "package.json",
}
PLACE = "book/_static/ort"
NPM = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")
SECONDS = 300


def _folder(root: Path) -> Path | None:
    """Where the runtime of the tree at `root` is or will be; None where the tree asks for none."""
    lock = root / "book" / "web" / "package-lock.json"
    return root / "build" / "web" / file_hash(lock)[:12] if lock.is_file() else None


def files(root: Path) -> dict[str, Path]:
    """Place in the stage of the book -> file, for all files of the runtime; empty where it has not been installed."""
    folder = _folder(root)
    if folder is None or not folder.is_dir():
        return {}
    return {f"{PLACE}/{name}": folder / name for name in WANTED.values()}


def install(root: Path) -> str:
    """Fetch the runtime with npm unless it is there; returns why it is not there afterwards, or "" where it is."""
    folder = _folder(root)
    if folder is None or folder.is_dir():
        return ""
    npm = shutil.which("npm")
    if not npm:
        return "there is no npm: install Node.js, which brings it, and build again"
    with exclusive(folder.parent / "web.lock", lambda: print("book: another build fetches its runtime: waiting")):
        if folder.is_dir():
            return ""
        print(f"book: fetching {PACKAGE} from npm, once", flush=True)
        try:
            _fetch(root, npm, folder)
        except EdgelabError as error:
            return str(error)
    return ""


def _fetch(root: Path, npm: str, folder: Path) -> None:
    """Have npm install, which checks what it fetches against the lock file, and keep what is needed in `folder`."""
    with TemporaryDirectory(dir=folder.parent) as name:
        for file in ("package.json", "package-lock.json"):
            shutil.copyfile(root / "book" / "web" / file, Path(name, file))
        try:
            done = subprocess.run([npm, *NPM], cwd=name, capture_output=True, text=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EdgelabError(f"npm cannot be run ({error})") from error
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "error" in line.lower()] or ["no reason given"]
            raise EdgelabError(f"npm failed ({said[0].strip()[:160]}): build again with a network")
        kept = Path(name, "kept")
        kept.mkdir()
        try:
            for source, target in WANTED.items():
                shutil.copyfile(Path(name, "node_modules", PACKAGE, source), kept / target)
        except FileNotFoundError as error:
            raise EdgelabError(f"{PACKAGE} has no {source}: name a version that has it in book/web") from error
        kept.rename(folder)
