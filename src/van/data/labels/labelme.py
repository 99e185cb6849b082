"""LabelMe: a JSON beside each image."""

import base64
import binascii
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from van.data.coco import CocoSplit
from van.data.folders import Split
from van.data.labels.base import (
    Need,
    Objects,
    ellipse,
    image_beside,
    in_order,
    number,
    read_json,
    split_folders,
    splits_of,
)
from van.data.labels.json_files import JsonFile, kind_of
from van.errors import DataError

HOW = "JSON files with 'shapes' beside the images, alone or in folders of splits"

_IGNORED = ("__ignore__", "_background_")


def find(root: Path, need: Need, jsons: list[JsonFile]) -> list[Path]:
    """Return a file that shows the format."""
    return [file.path for file in jsons if file.kind == "LabelMe"][:1]


def read(root: Path, found: list[Path], need: Need) -> dict[Split, CocoSplit]:
    """Read all files; images without a JSON are left out, as nobody has looked at them.

    Points belong to the rectangle or polygon of the same group, and their labels are the names of the keypoints.
    """
    folders: dict[Split, Path] = split_folders(root if root.is_dir() else root.parent)
    if not any(found[0].is_relative_to(folder) for folder in folders.values()):
        folders.clear()
        folders["all"] = found[0].parent
    contents: dict[Split, list[tuple[Path, Any]]] = {}
    parts: dict[Split, Objects] = {}
    for split, folder in folders.items():
        part = parts[split] = Objects(str(folder))
        contents[split] = []
        for file in [root] if root.is_file() else in_order(folder.glob("**/*.json")):
            try:
                content = read_json(file)
            except DataError as error:
                part.problem(file, str(error).removeprefix(f"{file}").lstrip(":, ").rstrip("."), _unread(part, file))
                continue
            if kind_of(content) == "LabelMe":
                contents[split].append((file, content))
    names = dict.fromkeys(
        str(shape.get("label"))
        for files in contents.values() for _, content in files for shape in _shapes(content)
        if shape.get("shape_type") == "point" and shape.get("group_id") is not None
    )  # fmt: skip
    for split, files in contents.items():
        for file, content in files:
            _read_file(parts[split], file, content, list(names), need)
    return splits_of({split: part for split, part in parts.items() if part.images}, need, keypoints=list(names))


def _unread(part: Objects, file: Path) -> dict[str, Any] | None:
    """Return the image of a file that cannot be read, so that it can be left out."""
    path = image_beside(file)
    return part.image(path) if path else None


def _shapes(content: Any) -> list[dict[str, Any]]:
    shapes = content.get("shapes")
    return [shape for shape in shapes if isinstance(shape, dict)] if isinstance(shapes, list) else []


def _read_file(part: Objects, file: Path, content: Any, names: list[str], need: Need) -> None:
    stated = file.parent / str(content.get("imagePath") or "").replace("\\", "/")
    path = stated if stated.is_file() else image_beside(file)
    size = (content.get("imageWidth"), content.get("imageHeight"))
    image = part.image(path or stated, None if None in size else size)
    if not isinstance(content.get("shapes"), list):
        part.problem(file, f"'shapes' is {type(content.get('shapes')).__name__}, expected a list", image)
        return
    if path is None:
        inside = "; the image is only inside the JSON: save it beside it" if content.get("imageData") else ""
        part.problem(file, f"there is no image {stated}, and none of its name beside it{inside}", image)
        return
    groups: dict[Any, dict[str, Any]] = {}
    points: list[tuple[str, dict[str, Any], list[float]]] = []
    for place, shape in enumerate(content["shapes"], 1):
        source = f"{file}, shape {place}"
        try:
            found = _shape(shape)
            if shape["label"] in _IGNORED:
                continue
            group = shape.get("group_id")
            if "point" in found:
                points.append((source, shape, found["point"]))
            elif group is not None and group in groups and groups[group]["category_id"] == shape["label"]:
                _join(groups[group], found, image)
            else:
                record = part.add(image, shape["label"], source, **found)
                if group is not None:
                    groups.setdefault(group, record)
        except (ValueError, KeyError, TypeError, IndexError, binascii.Error, OSError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            part.problem(source, what, image)
    for source, shape, (x, y) in points:
        owner = groups.get(shape.get("group_id"))
        if owner is None:
            if need == "keypoints":
                part.problem(
                    source, f"the point {shape['label']!r} has no rectangle or polygon with its group_id", image
                )
            continue
        values = owner.setdefault("keypoints", [0.0] * 3 * len(names))
        at = 3 * names.index(str(shape["label"]))
        values[at : at + 3] = [x, y, 1 if (shape.get("flags") or {}).get("occluded") else 2]
        owner["num_keypoints"] = sum(v > 0 for v in values[2::3])
    if need == "keypoints":
        for owner in groups.values():
            owner.setdefault("keypoints", [0.0] * 3 * len(names))
            owner.setdefault("num_keypoints", 0)


def _shape(shape: Any) -> dict[str, Any]:
    """Return what a shape is in the terms of Objects.add, or a point.

    Raises:
        ValueError: it is none that an object can have.
    """
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise ValueError("a shape needs a label, points and a shape_type")
    kind = shape.get("shape_type") or "polygon"
    points = [(number(x, "a coordinate"), number(y, "a coordinate")) for x, y in shape["points"]]
    flat = [v for point in points for v in point]
    if kind in ("polygon", "oriented_rectangle") and len(points) >= 3:
        return {"polygons": [flat]}
    if kind in ("rectangle", "mask") and len(points) in (2, 4):
        (x0, x1), (y0, y1) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))
        if kind == "mask":
            mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))).astype(bool)
            return {"mask": (mask, x0, y0)}
        return {"box": [x0, y0, x1 - x0, y1 - y0]}
    if kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        return {"polygons": [ellipse(*points[0], radius, radius)]}
    if kind == "point" and len(points) == 1:
        return {"point": flat}
    raise ValueError(
        f"{kind} with {len(points)} points is not an object; polygons of 3 points or more, rectangles, circles, masks "
        "and points are read"
    )


def _join(record: dict[str, Any], found: dict[str, Any], image: dict[str, Any]) -> None:
    """Add a further part to an object of several parts."""
    part = Objects("")
    new = part.add(image, 0, "", **found)
    if "segmentation" in new and isinstance(record.get("segmentation"), list) and isinstance(new["segmentation"], list):
        record["segmentation"] += new["segmentation"]
    elif "segmentation" in new or "segmentation" in record:
        raise ValueError("the parts of a group are of different kinds, expected polygons only")
    (x, y, w, h), (a, b, c, d) = record["bbox"], new["bbox"]
    left, top = min(x, a), min(y, b)
    record["bbox"] = [left, top, max(x + w, a + c) - left, max(y + h, b + d) - top]
    record["area"] = record["bbox"][2] * record["bbox"][3]
