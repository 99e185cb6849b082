"""What engines keep between processes: converted networks and what was measured, below the user's cache folder.

An entry is a folder that appears whole or not at all, with checksums of its files. A damaged one is removed and made
again. Several processes may write at once: the first one to finish wins, and the others' entries are the same.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from van.files import CHECKSUMS, checksum, write_checksums

LARGEST = 8 * 2**30  # bytes of all entries together; those that were not used for longest go first


def cache_folder() -> Path:
    """Return the folder of the cache: van/engines below XDG_CACHE_HOME, by default ~/.cache (Windows: LOCALAPPDATA)."""
    base = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None)
    return (Path(base) if base else Path.home() / ".cache") / "van" / "engines"


def key_of(*parts: Any) -> str:
    """Return the name of an entry: a hash of what it depends on, and of the versions and the code of the networks.

    Args:
        *parts: What else it depends on; anything that JSON can hold.
    """
    return hashlib.sha256(json.dumps([*parts, _environment()]).encode()).hexdigest()[:40]


@cache
def _environment() -> list[str]:
    """Return the versions of packages that build networks, and a hash of the code of ours."""
    found = []
    for name in ("torch", "torchvision", "timm", "transformers", "openvino", "onnx", "onnxruntime", "onnxscript"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    code = hashlib.sha256()
    root = Path(__file__).parents[2]
    for folder in ("export", "models", "networks", "ops"):
        for path in sorted((root / folder).rglob("*.py")):
            code.update(path.read_bytes())
    return [*found, code.hexdigest()]


@cache
def processor() -> str:
    """Return the name of the processor, and its instructions where the system tells them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    known = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in reversed(lines)}
    names = [known[name] for name in ("model name", "flags") if name in known]
    return " ".join(names) or platform.processor() or platform.machine()


def find(key: str) -> Path | None:
    """Return the folder of an entry, or None where there is no whole one; a damaged one is removed.

    Args:
        key: See key_of.
    """
    folder = cache_folder() / key
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        whole = bool(lines)
        for line in lines:
            expected, _, name = line.partition("  ")
            whole = whole and checksum(folder / name) == expected
        if whole:
            os.utime(folder / CHECKSUMS)  # when it was used
            return folder
    except (OSError, UnicodeDecodeError):
        pass
    discard(key)
    return None


def store(key: str, write: Callable[[Path], object]) -> Path | None:
    """Write an entry, and return its folder; None where the cache cannot be written, which is no error.

    Args:
        key: See key_of.
        write: Called with the folder to write files into.
    """
    parent = cache_folder()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=parent))
    except OSError:
        return None
    try:
        write(unfinished)
        write_checksums(unfinished, sorted(path.name for path in unfinished.iterdir()))
        try:
            unfinished.rename(parent / key)
        except OSError:  # another process was faster
            return find(key)
        _remove_oldest(parent, key)
        return parent / key
    except OSError:
        return None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def discard(key: str) -> None:
    """Remove an entry, if there is one."""
    shutil.rmtree(cache_folder() / key, ignore_errors=True)


def remembered(key: str) -> Any:
    """Return a value that `remember` stored; None if there is none."""
    folder = find(key)
    try:
        return json.loads((folder / "value.json").read_text(encoding="utf-8")) if folder else None
    except (OSError, ValueError):
        return None


def remember(key: str, value: Any) -> None:
    """Store a value that JSON can hold."""
    store(key, lambda folder: (folder / "value.json").write_text(json.dumps(value), encoding="utf-8"))


def _remove_oldest(parent: Path, newest: str) -> None:
    """Remove the entries that were not used for longest, where all together are too large."""
    entries = []
    for folder in parent.iterdir():
        try:
            size = sum(path.stat().st_size for path in folder.iterdir())
            entries.append(((folder / CHECKSUMS).stat().st_mtime, size, folder.name))
        except OSError:  # unfinished, or being removed
            continue
    total = sum(size for _, size, _ in entries)
    for _, size, name in sorted(entries):
        if total <= LARGEST:
            break
        if name != newest:
            discard(name)
            total -= size
