"""Writing predictions as masks to train on."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from van.data.labels.convert import free_name
from van.data.semantic import CLASS_FILE
from van.tasks.semantic.results import Segmentation


class MaskLabels:
    """Writes the folders images and masks, and the file of the classes.

    Args:
        folder: An empty folder.
        class_names: Names in the order of the labels.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self._images, self._masks = folder / "images", folder / "masks"
        for place in (self._images, self._masks):
            place.mkdir()
        (folder / CLASS_FILE).write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")
        self._taken: set[str] = set()
        self._count = 0

    def add(self, result: Segmentation) -> int:
        """Copy an image and write its mask, and return how many classes it shows."""
        self._count += 1
        source = Path(str(result.path))
        name = free_name(source, str(self._count), self._taken)
        shutil.copyfile(source, self._images / name)
        result.maps()["classes"].save((self._masks / name).with_suffix(".png"))
        return len(result.shares)

    def close(self) -> list[str]:
        """Nothing is left."""
        return []
