"""Labels of objects in any format: which one it is, and reading it in COCO's terms.

A format is a file in this package and a line in FORMATS. Its module has

    HOW                      how it is recognized, in words
    find(root, need, jsons)  the files that show it, without reading more than it takes; an empty list for other formats
    read(root, found, need)  the annotations by split: train and val, or all
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from van.data.coco import CocoSplit
from van.data.folders import Split, data_folder, refuse_special
from van.data.labels.base import Need
from van.data.labels.json_files import json_files
from van.data.labels.unsupported import name_of
from van.errors import DataError

FORMATS = {
    "COCO": "coco",
    "YOLO": "yolo",
    "Pascal VOC": "voc",
    "LabelMe": "labelme",
    "CVAT": "cvat",
    "Label Studio": "label_studio",
    "Open Images": "open_images",
}
"""Modules of the formats by name."""


@dataclass(frozen=True)
class Labels:
    """Label files of a known format; see `find_labels`.

    Attributes:
        root: The folder or file of the data set.
        format: Name of the format.
        files: The files that show it.
        need: What is learned from them.
    """

    root: Path
    format: str
    files: list[Path]
    need: Need

    def read(self) -> dict[Split, CocoSplit]:
        """Read the annotations by split: train and val as far as the data has them, or all.

        Raises:
            DataError: a file cannot be read, or lacks what all depends on. What concerns single images and objects is
                in the problems of a split; see van.data.coco_checks.
        """
        return module_of(self.format).read(self.root, self.files, self.need)


def module_of(name: str) -> Any:
    """Return the module of a format."""
    return import_module(f"van.data.labels.{FORMATS[name]}")


def find_labels(data: str | Path, need: Need = "boxes", data_root: str | Path | None = None) -> Labels:
    """Recognize the format of a data set by its files.

    Args:
        data: Folder of the data set, its label file, or "shapes".
        need: What is to be learned.
        data_root: Where the built-in shapes are stored.

    Raises:
        DataError: there is no such data, its format is unknown or not read, or it fits several formats.
    """
    root = data_folder(str(data), data_root)
    refuse_special(root)
    if not root.exists():
        raise DataError(f"{root} does not exist. Give the folder of the data set, or its label file.")
    jsons = json_files(root)
    found = {name: files for name in FORMATS if (files := module_of(name).find(root, need, jsons))}
    if len(found) == 1:
        name, files = next(iter(found.items()))
        return Labels(root, name, files, need)
    if found:
        candidates = "; ".join(f"{name} ({files[0]})" for name, files in found.items())
        raise DataError(
            f"{root} fits several label formats: {candidates}. Give the path of the label file, or keep the files of "
            "one format only."
        )
    if unread := name_of(root, jsons):
        raise DataError(f"{root} looks like {unread}, which is not read. Convert it to {', '.join(FORMATS)}.")
    what = {"boxes": "boxes", "masks": "masks", "keypoints": "keypoints (for COCO person_keypoints)"}[need]
    lines = "\n".join(f"  {name}: {module_of(name).HOW}" for name in FORMATS)
    raise DataError(f"{root} has no labels with {what} in a known format. Looked for\n{lines}")


def open_labels(data: str | Path, need: Need = "boxes", data_root: str | Path | None = None) -> dict[Split, CocoSplit]:
    """Recognize the format of a data set and read it; see `find_labels` and `Labels.read`."""
    return find_labels(data, need, data_root).read()
