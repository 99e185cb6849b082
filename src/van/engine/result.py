"""What was found on an image: a result draws, saves and serializes itself. And where results of many images go."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from van.errors import VanError

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_QUALITY = 92  # of JPEG


@dataclass(kw_only=True)
class Result:
    """What was found on one image.

    Attributes:
        class_names: Names in the order of the labels.
        size: Height and width of the image in pixels.
        path: File of the image; None for arrays and images in memory.
        image: The decoded image, for drawing.
    """

    class_names: Sequence[str] = field(repr=False)
    size: tuple[int, int]
    path: str | None = None
    image: "Image | None" = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; the keys are documented in docs/results.md."""
        return {"image": self.path, "height": self.size[0], "width": self.size[1]}

    def row(self) -> dict[str, Any]:
        """Return the result as one line of a table.

        Raises:
            VanError: this type of result does not fit on a line.
        """
        raise VanError(f"A {type(self).__name__} object does not fit in a CSV row. Use a .jsonl file or a folder.")

    def summary(self) -> str:
        """Return what was found in a few words."""
        raise NotImplementedError

    def maps(self) -> "dict[str, Image]":
        """Return what has a value for each pixel, as images without loss; the keys are in docs/results.md."""
        return {}

    def draw(self) -> "Image":
        """Return a picture of the result: the image with what was found on it."""
        raise NotImplementedError

    def save(self, folder: str | Path, name: str | None = None) -> dict[str, str]:
        """Write the picture, and maps where the result has them.

        Args:
            folder: Made where it is missing.
            name: File name without ending; None takes that of the image.

        Returns:
            The names of the files by what they are, such as {"picture": "cat.jpg"}.
        """
        name = name or Path(self.path or "image").stem
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.draw().convert("RGB").save(Path(folder) / f"{name}.jpg", quality=PICTURE_QUALITY)
        return {"picture": f"{name}.jpg"}

    def shown(self) -> "Image":
        """Return the image to draw on.

        Raises:
            VanError: the result has no image: it was made without keeping it.
        """
        if self.image is None:
            raise VanError("This result has no image to draw on: it was made with keep_images=False.")
        return self.image


class FolderWriter:
    """Writes results into a folder: pictures and maps of every image, and all results as predictions.json.

    Args:
        folder: An existing folder.
        about: The predictor that makes the results.
    """

    def __init__(self, folder: Path, about: Any) -> None:
        self.folder = folder
        self.about = about
        self.entries: list[dict[str, Any]] = []
        self._taken: set[str] = set()

    def add(self, result: Result) -> None:
        """Write a result."""
        files = result.save(self.folder, self._name(Path(result.path or "image").stem))
        self.entries.append({**result.to_dict(), **files})

    def add_error(self, path: str, error: Exception) -> None:
        """Note that an image could not be read."""
        self.entries.append({"image": path, "error": str(error)})

    def close(self) -> None:
        """Write predictions.json."""
        text = json.dumps(self.entries, indent=1, ensure_ascii=False)
        (self.folder / "predictions.json").write_text(text + "\n", encoding="utf-8")

    def _name(self, stem: str) -> str:
        """Return a file name that no other result has; some file systems do not tell capitals apart."""
        number, name = 1, stem
        while name.lower() in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name.lower())
        return name


class FileWriter:
    """Writes results into one file as they come: a line of JSON (.jsonl) or a row of a table (.csv) for each image.

    Args:
        path: New file, .jsonl, .json or .csv.

    Raises:
        VanError: the ending is another one, or the file exists.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._csv = self.path.suffix.lower() == ".csv"
        if self.path.exists():
            raise VanError(f"{path} exists. Give another --output.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("x", encoding="utf-8", newline="")
        self._table: csv.DictWriter | None = None
        self._waiting: list[dict[str, Any]] = []

    def add(self, result: Result) -> None:
        """Write a result."""
        self._write({**result.row(), "error": ""} if self._csv else result.to_dict())

    def add_error(self, path: str, error: Exception) -> None:
        """Write that an image could not be read."""
        self._write({"image": path, "error": str(error)})

    def close(self) -> None:
        """Write what waits for its columns, and close the file."""
        if self._waiting:  # no image could be read
            table = csv.DictWriter(self._file, ["image", "error"], lineterminator="\n")
            table.writeheader()
            table.writerows(self._waiting)
        self._file.close()

    def _write(self, entry: dict[str, Any]) -> None:
        if not self._csv:
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            return
        if self._table is None and len(entry) == 2:  # an error, before the columns are known
            self._waiting.append(entry)
            return
        if self._table is None:
            self._table = csv.DictWriter(self._file, list(entry), lineterminator="\n")
            self._table.writeheader()
            self._table.writerows(self._waiting)
            self._waiting = []
        self._table.writerow(entry)


FILE_ENDINGS = (".csv", ".jsonl", ".json")
