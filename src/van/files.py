"""Files that appear whole or not at all, beside their final place."""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

CHECKSUMS = "SHA256SUMS"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name beside its place, and put it there when it is on the disk.

    It gets the permissions of any other new file.

    Args:
        path: The file; one that was there stays until the new one is complete.
        write: Called with the path to write to.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        write(unfinished)
        unfinished.chmod(mode)  # safetensors makes private files
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_atomically(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(partial(file.read, 1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_checksums(folder: Path, names: Sequence[str]) -> None:
    """Write SHA256SUMS, which `sha256sum --check SHA256SUMS` reads.

    Args:
        folder: Where the files are.
        names: Their names in it; of folders all files are taken, and what does not exist is passed over.
    """
    lines = []
    for given in (folder / name for name in names):
        for path in sorted(given.rglob("*")) if given.is_dir() else [given]:
            if path.is_file():
                lines.append(f"{checksum(path)}  {path.relative_to(folder).as_posix()}\n")
    write_text(folder / CHECKSUMS, "".join(lines))
