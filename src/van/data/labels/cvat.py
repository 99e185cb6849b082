"""CVAT for images 1.1: one XML for all images."""

from pathlib import Path
from typing import Any

import numpy as np

from van.data.coco import CocoSplit
from van.data.folders import Split
from van.data.labels.base import (
    Element,
    ImageIndex,
    Need,
    Objects,
    box_around,
    ellipse,
    in_order,
    known_class,
    number,
    read_xml,
    rectangle,
    split_folders,
    split_of,
    splits_of,
)
from van.data.labels.json_files import JsonFile
from van.errors import DataError

HOW = "annotations.xml of CVAT for images 1.1, with the images beside it or in images"

_META = ("job", "task", "project")


def find(root: Path, need: Need, jsons: list[JsonFile]) -> list[Path]:
    """Return the XML files whose root element is annotations."""
    folders = [root, *split_folders(root).values()] if root.is_dir() else []
    files = (
        [root]
        if root.is_file()
        else [path for folder in dict.fromkeys(folders) for path in in_order(folder.glob("*.xml"))[:5]]
    )
    found = []
    for path in files:
        try:
            if path.suffix.lower() == ".xml" and read_xml(path, only_root=True).tag == "annotations":
                found.append(path)
        except DataError:
            if path.name == "annotations.xml" or path == root:  # reading it says what is wrong
                found.append(path)
    return found


def read(root: Path, found: list[Path], need: Need) -> dict[Split, CocoSplit]:
    """Read all images; where they have a subset such as Train, it is their split.

    Raises:
        DataError: a file is broken or of CVAT for video.
    """
    parts: dict[Split, Objects] = {}
    classes: list[str] = []
    points: list[str] = []
    folder = root if root.is_dir() else root.parent
    index = ImageIndex(folder)
    for file in found:
        top = read_xml(file)
        if top.find("track") is not None:
            raise DataError(f"{file} is of CVAT for video, which is not read. Export it as CVAT for images 1.1.")
        labels = next((e for name in _META if (e := top.find(f"meta/{name}/labels")) is not None), None)
        for label in [] if labels is None else labels.findall("label"):
            name, parent = label.findtext("name") or "", label.findtext("parent")
            if parent:
                points += [name] if name not in points else []
            elif name not in classes and label.findtext("type") != "tag":
                classes.append(name)
        if labels is None:
            raise DataError(f"{file} has no labels in meta/task, meta/job or meta/project. Export it again.")
        for element in top.findall("image"):
            beside = split_of(file.parent.name) if file.parent != folder else None
            split = beside or split_of(element.get("subset") or "") or "all"
            part = parts.setdefault(split, Objects(str(file)))
            _read_image(part, file, element, index, classes, points)
    if "all" in parts and len(parts) > 1:
        raise DataError(
            f"{found[0]}: some images have a subset of train or val and some have not. Give all of them one."
        )
    names: tuple[Split, ...] = ("train", "val", "all")
    ordered: dict[Split, Objects] = {split: parts[split] for split in names if split in parts}
    if set(ordered) in ({"train"}, {"val"}):
        ordered = {"all": next(iter(ordered.values()))}
    return splits_of(ordered, need, classes, keypoints=points)


def _read_image(
    part: Objects, file: Path, element: Element | Any, index: ImageIndex, classes: list[str], points: list[str]
) -> None:
    name = element.get("name") or ""
    here = file.parent / name
    path = next((p for p in (here, file.parent / "images" / name) if name and p.is_file()), None) or index.find(name)
    try:
        size: Any = tuple(int(number(element.get(key), key)) for key in ("width", "height"))
    except ValueError:
        size = None
    image = part.image(path or here, size)
    if path is None:
        part.problem(f"{file}, line {element.line}", f"there is no image {name!r}", image)
        return
    layers: list[tuple[float, Any]] = []
    for shape in element:
        try:
            layers.append((number(shape.get("z_order") or 0, "z_order"), shape))
        except ValueError as error:
            part.problem(f"{file}, line {getattr(shape, 'line', 0)}", str(error), image)
    for _, shape in sorted(layers, key=lambda layer: layer[0]):  # the lowest layer first
        source = f"{file}, line {shape.line}"
        if shape.tag == "tag":
            continue
        try:
            label = known_class(shape.get("label") or "", classes, "the labels of the file")
            part.add(image, label, source, **_shape(shape, points))
        except ValueError as error:
            part.problem(source, str(error), image)


def _shape(shape: Element | Any, points: list[str]) -> dict[str, Any]:
    """Return what a shape is in the terms of Objects.add.

    Raises:
        ValueError: it is none that an object can have, or it is malformed.
    """

    def values(*names: str) -> list[float]:
        return [number(shape.get(name), name) for name in names]

    angle = number(shape.get("rotation") or 0, "rotation")
    if shape.tag == "box":
        x0, y0, x1, y1 = values("xtl", "ytl", "xbr", "ybr")
        if angle:
            return {"polygons": [rectangle(x0, y0, x1 - x0, y1 - y0, angle, center=True)]}
        return {"box": [x0, y0, x1 - x0, y1 - y0]}
    if shape.tag == "polygon":
        return {"polygons": [_points(shape)]}
    if shape.tag == "ellipse":
        return {"polygons": [ellipse(*values("cx", "cy", "rx", "ry"), angle=angle)]}
    if shape.tag == "mask":
        left, top, width, height = values("left", "top", "width", "height")
        runs = [int(number(n, "rle")) for n in (shape.get("rle") or "").split(",")]
        if sum(runs) != int(width) * int(height) or min(runs) < 0:
            raise ValueError(f"the runs of the mask do not add up to {width:g} x {height:g} pixels")
        pixels = np.repeat(np.arange(len(runs)) % 2, runs).reshape(int(height), int(width))
        return {"mask": (pixels.astype(bool), left, top)}
    if shape.tag == "skeleton":
        keypoints = [0.0] * 3 * len(points)
        for point in shape.findall("points"):
            at = 3 * points.index(known_class(point.get("label") or "", points, "the points of the skeleton"))
            if point.get("outside") != "1":
                keypoints[at : at + 3] = [*_points(point)[:2], 1.0 if point.get("occluded") == "1" else 2.0]
        seen = [v for i in range(0, len(keypoints), 3) if keypoints[i + 2] for v in keypoints[i : i + 2]]
        return {"keypoints": keypoints, "box": box_around(seen)}
    raise ValueError(f"a {shape.tag} is not an object; box, polygon, ellipse, mask and skeleton are read")


def _points(shape: Element | Any) -> list[float]:
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"points is {shape.get('points')!r}, expected x,y;x,y;...")
    return [number(value, "a coordinate") for pair in pairs for value in pair]
