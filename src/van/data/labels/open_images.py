"""Open Images: CSV files with a line per box."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from van.data.coco import CocoSplit
from van.data.folders import SPLIT_FOLDERS, Split
from van.data.labels.base import ImageIndex, Need, Objects, in_order, number, splits_of
from van.data.labels.json_files import JsonFile
from van.errors import DataError

HOW = "CSV files with the columns ImageID, LabelName, XMin, XMax, YMin and YMax, such as train-annotations-bbox.csv"

_COLUMNS = {"ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"}


def find(root: Path, need: Need, jsons: list[JsonFile]) -> list[Path]:
    """Return the CSV files with boxes."""
    if need == "keypoints":
        return []
    files = (
        [root] if root.is_file() else [*root.glob("*.csv"), *root.glob("annotations/*.csv"), *root.glob("labels/*.csv")]
    )
    return [path for path in in_order(files) if path.suffix.lower() == ".csv" and set(_header(path)) >= _COLUMNS]


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def read(root: Path, found: list[Path], need: Need) -> dict[Split, CocoSplit]:
    """Read the boxes of the images that are there; of the data set most users have a part only.

    Raises:
        DataError: a file is malformed, or none of its images is there.
    """
    folder = root if root.is_dir() else root.parent
    names = _class_names(folder)
    files: dict[Split, Path] = {}
    for path in found:
        words = path.stem.lower().replace("_", "-").split("-")
        splits: tuple[Split, ...] = ("train", "val")
        named: Split | None = next((s for s in splits if set(words) & set(SPLIT_FOLDERS[s])), None)
        split: Split = named or "all"
        if split == "val" and split in files and "test" in words:
            continue  # validation comes before test
        if split in files and not (split == "val" and "test" in files[split].stem):
            raise DataError(
                f"{root} has several files for {split}: {files[split]}, {path}. Give the path of one of them."
            )
        files[split] = path
    if len(files) == 1:
        files = {"all": next(iter(files.values()))}
    parts = {}
    for split, path in sorted(files.items()):
        own = [folder / name for name in (*SPLIT_FOLDERS.get(split, ()), "images") if (folder / name).is_dir()]
        parts[split] = _read_file(path, ImageIndex(*(own or [folder])), names)
    return splits_of(parts, need)


def _class_names(folder: Path) -> dict[str, str]:
    """Return class names by label, such as "/m/01yrx", from a class-descriptions file; it may be missing."""
    found = [*folder.glob("*class-descriptions*.csv"), *folder.glob("*/*class-descriptions*.csv")]
    names: dict[str, str] = {}
    for path in in_order(found)[:1]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = {row[0]: row[1] for row in csv.reader(file) if len(row) >= 2 and row[0] != "LabelName"}
    return names


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}). Export or download it again.") from error


def _read_file(path: Path, index: ImageIndex, names: dict[str, str]) -> Objects:
    part = Objects(str(path))
    images: dict[str, dict | None] = {}
    for line, row in _rows(path):
        name, source = row["ImageID"], f"{path}, line {line}"
        if name not in images:
            file = index.find(name)
            images[name] = part.image(file) if file else None
        image = images[name]
        if image is None:
            continue
        try:
            x0, x1, y0, y1 = (number(row[key], key) for key in ("XMin", "XMax", "YMin", "YMax"))
            if not row["LabelName"]:
                raise ValueError("it has no LabelName")
            width, height = image["width"] or 0, image["height"] or 0
            group: dict[str, Any] = {"iscrowd": 1} if row.get("IsGroupOf") == "1" else {}
            box = [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height]
            part.add(image, names.get(row["LabelName"], row["LabelName"]), source, box=box, **group)
        except ValueError as error:
            part.problem(source, str(error), image)
    if not part.images:
        some = ", ".join(list(images)[:3])
        raise DataError(
            f"{path}: none of its {len(images)} images ({some}, ...) is there. Put them into images or train."
        )
    return part
