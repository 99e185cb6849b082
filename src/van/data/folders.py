"""Where data sets and their splits are found."""

import re
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
