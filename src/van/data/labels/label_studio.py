"""Label Studio: one JSON with a list of tasks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from van.data.coco import CocoSplit
from van.data.folders import Split
from van.data.labels.base import ImageIndex, Need, Objects, ellipse, number, read_json, rectangle, split_of, splits_of
from van.data.labels.json_files import JsonFile
from van.errors import DataError

HOW = "the JSON export of Label Studio, with the images beside it or below"

_SHAPES = ("rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels", "keypointlabels")
_PREFIX = 9  # an upload's name starts with eight digits and a hyphen


def find(root: Path, need: Need, jsons: list[JsonFile]) -> list[Path]:
    """Return the JSON files."""
    return [file.path for file in jsons if file.kind == "Label Studio"]


def read(root: Path, found: list[Path], need: Need) -> dict[Split, CocoSplit]:
    """Read all tasks with an annotation that was not skipped; predictions are left out.

    Of several annotations of a task the one marked as ground truth counts, else the first.

    Raises:
        DataError: there are several files that are not those of train and val.
    """
    folder = root if root.is_dir() else root.parent
    index = ImageIndex(folder)
    files: dict[Split, Path] = {}
    for path in found:
        split = (split_of(path.stem) or split_of(path.parent.name) or "all") if len(found) > 1 else "all"
        if split in files or (split == "all" and len(found) > 1):
            listed = ", ".join(map(str, found))
            raise DataError(f"{root} has several Label Studio files: {listed}. Give the path of one of them.")
        files[split] = path
    contents = {split: (path, read_json(path)) for split, path in sorted(files.items())}
    names = dict.fromkeys(
        label
        for _, content in contents.values() for task in content for result in _results(task) or ()
        for label in _value(result).get("keypointlabels") or ()
    )  # fmt: skip
    parts = {}
    for split, (path, content) in contents.items():
        part = parts[split] = Objects(str(path))
        for place, task in enumerate(content, 1):
            results = _results(task)
            if results is not None:
                _read_task(part, path, place, task, results, index, list(names), need)
    return splits_of(parts, need, keypoints=list(names))


def _results(task: Any) -> list[dict[str, Any]] | None:
    """Return the results of the annotation that counts; None if nobody has labeled the task."""
    annotations = (task.get("annotations") or task.get("completions") or []) if isinstance(task, dict) else []
    done = [a for a in annotations if isinstance(a, dict) and not (a.get("was_cancelled") or a.get("skipped"))]
    if not done:
        return None
    chosen = next((a for a in done if a.get("ground_truth")), done[0])
    return [result for result in chosen.get("result") or [] if isinstance(result, dict)]


def _value(result: dict[str, Any]) -> dict[str, Any]:
    value = result.get("value")
    return value if isinstance(value, dict) else {}


def _image_names(task: dict[str, Any]) -> Iterator[str]:
    """Yield the names that the image of a task may have."""
    data = task.get("data") or {}
    values = [task.get("file_upload"), *(data.values() if isinstance(data, dict) else [])]
    for value in values:
        if isinstance(value, str) and value:
            parts = urlsplit(value)
            local = parse_qs(parts.query).get("d")  # /data/local-files/?d=folder/a.jpg
            name = Path(local[0] if local else unquote(parts.path)).name
            yield name
            if len(name) > _PREFIX and name[_PREFIX - 1] == "-":
                yield name[_PREFIX:]


def _read_task(
    part: Objects,
    file: Path,
    place: int,
    task: dict[str, Any],
    results: Sequence[dict[str, Any]],
    index: ImageIndex,
    names: list[str],
    need: Need,
) -> None:
    tried = list(_image_names(task))
    path = index.find(*tried)
    where = f"{file}, task {task.get('id', place)}"
    if path is None:
        image = part.image(Path(tried[0]) if tried else file, (None, None))
        part.problem(
            where, f"there is no image {' or '.join(map(repr, dict.fromkeys(tried)))} below {file.parent}", image
        )
        return
    image = part.image(path)
    owners: dict[Any, dict[str, Any]] = {}
    points: list[tuple[str, dict[str, Any]]] = []
    for number_, result in enumerate(results, 1):
        source = f"{where}, result {result.get('id', number_)}"
        kind, value = result.get("type"), _value(result)
        if kind not in _SHAPES:
            if kind in ("rectangle", "polygon", "brush", "ellipse", "keypoint", "labels"):
                continue  # repeats a labeled region without its label
            if kind not in ("choices", "textarea", "rating", "relation", "number", "taxonomy"):
                part.problem(source, f"a {kind} is not an object; {', '.join(_SHAPES)} are read", image)
            continue
        labels = value.get(kind) or []
        if kind == "keypointlabels":
            points.append((source, result))
            continue
        try:
            if not labels:
                raise ValueError("it has no label")
            found = _shape(kind, value, result, image["width"] or 0, image["height"] or 0)
            owners[result.get("id")] = part.add(image, str(labels[0]), source, **found)
        except ValueError as error:
            part.problem(source, str(error), image)
    for source, result in points:
        value = _value(result)
        owner = owners.get(result.get("parentID"))
        if owner is None:
            if need == "keypoints":
                part.problem(source, "the keypoint belongs to no region: it needs the parentID of a rectangle", image)
            continue
        try:
            x, y = (
                number(value.get("x"), "x") / 100 * image["width"],
                number(value.get("y"), "y") / 100 * image["height"],
            )
            at = 3 * names.index(value["keypointlabels"][0])
        except (ValueError, TypeError, KeyError, IndexError) as error:
            part.problem(source, str(error), image)
            continue
        keypoints = owner.setdefault("keypoints", [0.0] * 3 * len(names))
        keypoints[at : at + 3] = [x, y, 2.0]
        owner["num_keypoints"] = sum(v > 0 for v in keypoints[2::3])
    if need == "keypoints":
        for owner in owners.values():
            owner.setdefault("keypoints", [0.0] * 3 * len(names))
            owner.setdefault("num_keypoints", 0)


def _shape(kind: str, value: dict[str, Any], result: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    """Return what a region is in the terms of Objects.add.

    Raises:
        ValueError: it is malformed.
    """

    def share(name: str, size: int) -> float:
        return number(value.get(name), name) / 100 * size

    angle = number(value.get("rotation") or 0, "rotation")
    if kind == "rectanglelabels":
        box = share("x", width), share("y", height), share("width", width), share("height", height)
        return {"polygons": [rectangle(*box, angle, center=False)]} if angle else {"box": list(box)}
    if kind == "ellipselabels":
        radii = share("radiusX", width), share("radiusY", height)
        return {"polygons": [ellipse(share("x", width), share("y", height), *radii, angle)]}
    if kind == "polygonlabels":
        points = value.get("points")
        if (
            not isinstance(points, list)
            or len(points) < 3
            or any(not isinstance(p, list) or len(p) != 2 for p in points)
        ):
            raise ValueError("points is not a list of three or more [x, y]")
        # a corner at 18.5 must not become 18.49999: masks are rounded there
        pairs = [(number(x, "x") / 100 * width, number(y, "y") / 100 * height) for x, y in points]
        return {"polygons": [[round(v, 4) for pair in pairs for v in pair]]}
    columns, rows = result.get("original_width"), result.get("original_height")
    if value.get("format") != "rle" or not isinstance(columns, int) or not isinstance(rows, int):
        raise ValueError("a brush needs format rle, original_width and original_height")
    pixels = decode_brush(value.get("rle"), rows * columns * 4).reshape(rows, columns, 4)[..., 3] > 127
    if pixels.shape != (height, width):
        raise ValueError(f"the brush is for {columns} x {rows} pixels, the image has {width} x {height}")
    return {"mask": (pixels, 0.0, 0.0)}


def decode_brush(numbers: Any, size: int) -> np.ndarray:
    """Return the bytes of Label Studio's own run-length code.

    Bits: 32 for the count of values, 5 for their width less 1, four times 4 for widths of lengths less 1. Then blocks:
    a bit that says whether one value is repeated, two for which width the length has, the length less 1, the values.

    Args:
        numbers: The bytes of the code.
        size: How many values it must have.

    Raises:
        ValueError: it is malformed.
    """
    if not isinstance(numbers, list) or not all(isinstance(n, int) and 0 <= n < 256 for n in numbers):
        raise ValueError("rle is not a list of bytes")
    bits = "".join(f"{n:08b}" for n in numbers)
    at = 0

    def take(count: int) -> int:
        nonlocal at
        if at + count > len(bits):
            raise ValueError("rle ends too early")
        at += count
        return int(bits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    if total != size or word > 8:
        raise ValueError(f"rle has {total} values, expected {size}: red, green, blue and alpha of each pixel")
    values = np.zeros(size, np.uint8)
    place = 0
    while place < size:
        repeated, length = take(1), 0
        length = take(widths[take(2)]) + 1
        end = min(size, place + length)
        if repeated:
            values[place:end] = take(word)
        else:
            values[place:end] = [take(word) for _ in range(end - place)]
        place = end
    return values
