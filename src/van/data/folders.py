"""Where data sets and their splits are found."""

import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from van.errors import DataError

Split = Literal["train", "val", "all"]
OnBadImage = Literal["error", "skip"]

SHAPES = "shapes"
"""Name of the built-in data set of the dense tasks."""

SPLIT_FOLDERS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "test", "testing"),
}
"""Names that the folder of a split may have, in order of preference."""

_URL = re.compile(r"(https?|ftp|s3|gs|hf):/")


def refuse_url(path: str | Path) -> None:
    """Raise DataError if a path is a URL.

    Args:
        path: A path. A pathlib.Path made from a URL is recognized too, although it has lost a slash.
    """
    if match := _URL.match(str(path)):
        rest = str(path)[match.end() :].lstrip("/")
        raise DataError(f"{match[1]}://{rest} is a URL. URLs are not supported: download the file and give its path.")


def refuse_special(path: str | Path) -> None:
    """Raise DataError if a path is neither a file nor a folder: reading a pipe, socket or device may never end.

    Args:
        path: A path. One that does not exist is passed over: opening it says so.
    """
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(f"{path} is a pipe, socket or device, expected a file. Remove or replace it.")


def files_below(
    folder: str | Path, endings: Collection[str], apart: Collection[tuple[int, int]] = frozenset()
) -> list[str]:
    """Return the files below a folder that have one of some endings, hidden files and folders aside.

    Symbolic links are followed, but a folder to which several of them lead is read once. What is no folder counts as a
    file: reading it says whether it is one.

    Args:
        folder: Where to look.
        endings: In lower case, with their dots.
        apart: Identities of further folders to which no link may lead; see identity.

    Raises:
        DataError: a link leads to one of them or to a folder that holds it, or a folder cannot be opened.
    """
    try:
        own = identity(folder)
        return list(_files(str(folder), tuple(endings), (own,), {own}, apart))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be opened ({error.strerror}). Check its permissions.") from error


def identity(path: str | Path) -> tuple[int, int]:
    """Return what tells a file or folder from all others, however many links lead to it."""
    found = Path(path).stat()
    return found.st_dev, found.st_ino


def _files(
    folder: str,
    endings: tuple[str, ...],
    chain: tuple[tuple[int, int], ...],
    seen: set[tuple[int, int]],
    apart: Collection[tuple[int, int]],
) -> Iterator[str]:
    """Yield the files of a folder; chain has the folders that lead to it, seen all that were read."""
    with os.scandir(folder) as opened:
        entries = sorted((entry for entry in opened if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        if not entry.is_dir():
            if entry.name.lower().endswith(endings):
                yield entry.path
            continue
        own = identity(entry.path)
        if own in chain or own in apart:
            raise DataError(
                f"{entry.path} is a link to {os.path.realpath(entry.path)}, whose images would be found more than "
                "once. Remove the link."
            )
        if own not in seen:
            seen.add(own)
            yield from _files(entry.path, endings, (*chain, own), seen, apart)


def data_folder(data: str, root: str | Path | None = None) -> Path:
    """Return the folder of a data set; the built-in shapes are generated if they are missing.

    Args:
        data: A folder, or "shapes".
        root: Where the shapes are stored; by default the folder "data".

    Raises:
        DataError: data is a URL, or the shapes cannot be written.
    """
    refuse_url(data)
    if data != SHAPES:
        return Path(data)
    from van.data.shapes import shapes_folder

    return shapes_folder(root)
