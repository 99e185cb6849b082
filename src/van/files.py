"""Files that appear whole or not at all, beside their final place."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from van.errors import DataError

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


@contextmanager
def parents_of(path: Path) -> Iterator[None]:
    """Make the folders above a path, and remove those of them that are empty when the block has ended."""
    made = [one for one in (path.parent, *path.parent.parents) if not one.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for one in made:
            if not any(one.iterdir()):
                one.rmdir()


@contextmanager
def new_folder_at(folder: str | Path) -> Iterator[Path]:
    """Give a folder beside its final place, and put it there when the block has ended without an error.

    Args:
        folder: Missing or empty.

    Raises:
        DataError: it holds files, before the block or because another process was faster.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder} already exists and is not an empty folder. Choose another folder, or remove this one first."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        beside.chmod(0o755)
        yield beside
        beside.replace(folder)
    except OSError as error:
        if folder.is_dir() and any(folder.iterdir()):
            raise DataError(f"Another process wrote to {folder} at the same time. Check its contents.") from error
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


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
