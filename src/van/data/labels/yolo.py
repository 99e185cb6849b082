"""YOLO: a text file per image with a line per object, in shares of the image's width and height."""

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from timm.data.readers.img_extensions import get_img_extensions

from van.data.coco import CocoSplit
from van.data.folders import SPLIT_FOLDERS, Split, files_below
from van.data.labels.base import Need, Objects, in_order, number, read_text, splits_of
from van.data.labels.json_files import JsonFile
from van.data.shapes import KEYPOINTS
from van.errors import DataError

if TYPE_CHECKING:
    from van.data.labels.convert import Target

HOW = "data.yaml with 'names' and the folders of the splits, or images and labels folders with classes.txt"

_YAML = (".yaml", ".yml")
_OUTSIDE = 0.01  # shares of the image by which rounding may leave it
_COCO_FLIP = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def find(root: Path, need: Need, jsons: list[JsonFile]) -> list[Path]:
    """Return the YAML files that describe the data set, or a label file where there is none."""
    if root.is_file():
        return [root] if root.suffix.lower() in _YAML and _described(root) else []
    described = [path for path in in_order(root.iterdir()) if path.suffix.lower() in _YAML and _described(path)]
    if described:
        return described
    places = [root / "labels", *(root / name / "labels" for names in SPLIT_FOLDERS.values() for name in names)]
    files = (path for place in places if place.is_dir() for path in islice(map(Path, files_below(place, [".txt"])), 20))
    return [path for path in files if _is_label_file(path)][:1]


def _described(path: Path) -> bool:
    try:
        content = _read_yaml(path)
    except DataError:
        return path.name in ("data.yaml", "data.yml", "dataset.yaml")  # reading it says what is wrong
    return (
        isinstance(content, dict) and ("names" in content or "nc" in content) and bool({"train", "val"} & set(content))
    )


def _is_label_file(path: Path) -> bool:
    try:
        words = read_text(path).split("\n", 1)[0].split()
        return len(words) >= 5 and words[0].isdecimal() and all(math.isfinite(float(word)) for word in words[1:])
    except (ValueError, DataError):
        return False


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error)
        raise DataError(f"{path}{line}: this is not YAML ({what}). Correct it.") from error


def read(root: Path, found: list[Path], need: Need) -> dict[Split, CocoSplit]:
    """Read all splits; an image without a label file has no objects.

    Raises:
        DataError: data.yaml is malformed, or images or class names are missing.
    """
    if len(found) > 1:
        raise DataError(f"{root} has several descriptions: {', '.join(map(str, found))}. Give the path of one of them.")
    file = found[0]
    if file.suffix.lower() in _YAML:
        content = _read_yaml(file)
        if not isinstance(content, dict):
            raise DataError(f"{file} is not a mapping with 'names', 'train' and 'val'. Correct it.")
        names, base = _names(file, content.get("names", content.get("nc"))), file.parent
        listed = {split: _images(file, content, split) for split in ("train", "val", "test") if content.get(split)}
    else:
        content, base = {}, root
        names, listed = _class_file(root), _folders(root)
    if "train" not in listed and "val" not in listed:
        raise DataError(f"{file} names neither train nor val images. Add the folder of the images as 'train'.")
    shape = _keypoint_shape(file, content)
    if "val" not in listed and "test" in listed:
        listed["val"] = listed["test"]
    keys: list[Split] = ["train", "val"] if "val" in listed and "train" in listed else ["all"]
    parts: dict[Split, Objects] = {}
    for split in keys:
        part = parts[split] = Objects(str(file if file.suffix.lower() in _YAML else base))
        seen: set[Path] = set()
        for path in listed.get(split) or next(iter(listed.values())):
            labels = _label_file(path)
            seen.add(labels)
            _read_labels(part, path, labels, len(names), shape)
        for folder in dict.fromkeys(labels.parent for labels in seen if labels.parent.is_dir()):
            for labels in in_order(set(folder.glob("*.txt")) - seen):
                if labels.name != "classes.txt" and len(keys) == 1:
                    part.problem(labels, "it has no image")
    return splits_of(parts, need, names, first_id=0, **_pose(file, content, shape))


def _names(file: Path, names: Any) -> list[str]:
    if isinstance(names, int) and names > 0:  # only their number is known
        return [str(i) for i in range(names)]
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(
            f"{file}: 'names' is not a list of class names, or a mapping of 0, 1, 2, ... to them. Correct it."
        )
    names = [str(name) for name in names]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{file}: 'names' has {repeated!r} more than once. Give each class a name of its own.")
    return names


def _class_file(root: Path) -> list[str]:
    tries = [root / "classes.txt", *(root.glob("*.names")), root / "labels" / "classes.txt", root / "obj.names"]
    tries += [root / name / "labels" / "classes.txt" for names in SPLIT_FOLDERS.values() for name in names]
    file = next((path for path in tries if path.is_file()), None)
    if file is None:
        raise DataError(
            f"{root} has YOLO's label files, but neither data.yaml nor classes.txt says what its classes are. Write "
            "their names, one per line, into classes.txt."
        )
    return _names(file, [line.strip() for line in read_text(file).splitlines() if line.strip()])


def _keypoint_shape(file: Path, content: dict[str, Any]) -> tuple[int, int] | None:
    shape = content.get("kpt_shape")
    if shape is None:
        return None
    if not (
        isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) for n in shape) and shape[1] in (2, 3)
    ):
        raise DataError(f"{file}: 'kpt_shape' is {shape}, expected [number of keypoints, 2 or 3]. Correct it.")
    return shape[0], shape[1]


def _pose(file: Path, content: dict[str, Any], shape: tuple[int, int] | None) -> dict[str, Any]:
    """Return the names of the keypoints and how a flip swaps them."""
    if shape is None:
        return {}
    count, flip = shape[0], content.get("flip_idx")
    if flip is not None and (not isinstance(flip, list) or sorted(map(str, flip)) != sorted(map(str, range(count)))):
        raise DataError(f"{file}: 'flip_idx' is {flip}, expected an order of 0 to {count - 1}. Correct it.")
    names = content.get("kpt_names")
    names = next(iter(names.values()), None) if isinstance(names, dict) else names
    if not isinstance(names, list) or len(names) != count:
        coco = count == len(KEYPOINTS) and flip in (None, _COCO_FLIP)
        names = list(KEYPOINTS) if coco else [f"keypoint_{i}" for i in range(1, count + 1)]
    skeleton = content.get("skeleton")
    more = {"skeleton": skeleton} if isinstance(skeleton, list) else {}
    return {"keypoints": [str(name) for name in names], **more, **({"flip_idx": flip} if flip else {})}


# ---------------------------------------------------------------------------------------------------- images


def _images(file: Path, content: dict[str, Any], split: str) -> list[Path]:
    """Return the images of a split that the YAML file names: folders, text files with paths, or several of them."""
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    bases = [file.parent]
    if isinstance(path := content.get("path"), str):
        bases = [file.parent / path, file.parent]  # files move between machines, and path often does not
    found: list[Path] = []
    for entry in map(str, entries):
        plain = entry
        while plain.startswith("../"):  # Roboflow's ../train/images means train/images
            plain = plain[3:]
        tries = list(dict.fromkeys(base / name for base in bases for name in (entry, plain)))
        place = next((path for path in tries if path.exists()), None)
        if place is None:
            looked = ", ".join(map(str, tries))
            raise DataError(f"{file}: {split} is {entry}, which does not exist. Looked for {looked}.")
        if place.is_dir():
            found += map(Path, files_below(place, get_img_extensions(as_set=True)))
        else:
            lines = [line.strip() for line in read_text(place).splitlines() if line.strip()]
            found += [_listed(line, [place.parent, *bases]) for line in lines]
    if not found:
        raise DataError(f"{file}: {split} has no images. Check the path {', '.join(map(str, entries))}.")
    return in_order(found)


def _listed(line: str, bases: list[Path]) -> Path:
    tries = [base / line for base in bases]
    return next((path for path in tries if path.is_file()), tries[0])


def _folders(root: Path) -> dict[str, list[Path]]:
    """Return the images by split of a data set without a YAML file."""
    known = get_img_extensions(as_set=True)
    layouts = [(split, name) for split in ("train", "val") for name in SPLIT_FOLDERS[split]]
    found: dict[str, list[Path]] = {}
    for split, name in layouts:
        folders = [root / "images" / name, root / name / "images"]
        folder = next((path for path in folders if path.is_dir()), None)
        if folder and split not in found and (images := in_order(map(Path, files_below(folder, known)))):
            found[split] = images
    if found:
        return found
    folder = root / "images" if (root / "images").is_dir() else root
    images = in_order(map(Path, files_below(folder, known)))
    if not images:
        raise DataError(f"{root} has YOLO's label files but no images. Put them into {root / 'images'}.")
    return {"train": images}


def _label_file(image: Path) -> Path:
    """Return the label file of an image: labels stands in place of the last images in its path."""
    parts = list(image.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
        return Path(*parts).with_suffix(".txt")
    below = image.parent / "labels" / f"{image.stem}.txt"
    return below if below.is_file() else image.with_suffix(".txt")


# ---------------------------------------------------------------------------------------------------- labels


def _read_labels(part: Objects, path: Path, labels: Path, classes: int, shape: tuple[int, int] | None) -> None:
    image = part.image(path)
    if not labels.is_file():
        return
    try:
        lines = read_text(labels).splitlines()
    except DataError as error:
        part.problem(labels, str(error).removeprefix(f"{labels} ").rstrip("."), image)
        return
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        source = f"{labels}, line {place}"
        try:
            category, found = _object(line.split(), image["width"] or 0, image["height"] or 0, classes, shape)
        except ValueError as error:
            part.problem(source, str(error), image)
            continue
        part.add(image, category, source, **found)


def _object(
    words: list[str], width: int, height: int, classes: int, shape: tuple[int, int] | None
) -> tuple[int, dict[str, Any]]:
    """Return the class of a line, and its box, polygon or keypoints in pixels.

    Raises:
        ValueError: the line is malformed.
    """
    if not words[0].isdecimal() or int(words[0]) >= classes:
        raise ValueError(f"the class is {words[0]}, expected a number from 0 to {classes - 1}")
    values = [number(word, "a value") for word in words[1:]]
    posed = 4 + shape[0] * shape[1] if shape else None
    if posed and len(values) not in (4, posed):
        raise ValueError(f"it has {len(words)} values, expected 5 or {posed + 1}: class, box and {shape} keypoints")
    if not posed and (len(values) < 4 or len(values) % 2):
        raise ValueError(
            f"it has {len(words)} values, expected 5 (class and box) or an odd number from 7 on (class and outline)"
        )
    shares = list(_positions(values, shape))
    if any(not -_OUTSIDE <= v <= 1 + _OUTSIDE for v in shares):
        far = next(v for v in shares if not -_OUTSIDE <= v <= 1 + _OUTSIDE)
        raise ValueError(f"it has the value {far:g}, expected shares of the image's size from 0 to 1")
    if len(values) == 4 or posed:
        cx, cy, w, h = values[:4]
        found: dict[str, Any] = {"box": [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]}
        if posed:
            found["keypoints"] = list(_keypoints(values[4:], width, height, shape))
        return int(words[0]), found
    # a corner at 18.5 must not become 18.49999: masks are rounded there
    outline = [round(v * (height if i % 2 else width), 4) for i, v in enumerate(values)]
    return int(words[0]), {"polygons": [outline]}


def _positions(values: list[float], shape: tuple[int, int] | None) -> Iterator[float]:
    """Yield the values of a line that are shares, not visibilities."""
    if not shape or len(values) == 4:
        yield from values
        return
    yield from values[:4]
    for i in range(4, len(values), shape[1]):
        yield from values[i : i + 2]


def _keypoints(values: list[float], width: int, height: int, shape: Any) -> Iterator[float]:
    count, size = shape
    for i in range(count):
        point = values[i * size : (i + 1) * size] or [0.0, 0.0, 0.0]  # a box alone has no labeled keypoint
        x, y = point[0] * width, point[1] * height
        seen = point[2] if size == 3 and len(point) == 3 else 2 * (x > 0 or y > 0)
        yield from (x if seen else 0.0, y if seen else 0.0, float(seen))


# ---------------------------------------------------------------------------------------------------- writing


def write(target: "Target") -> tuple[int, list[str]]:
    """Write data.yaml, images and label files.

    Returns:
        How many objects were written, and sentences about what was left out: crowd regions, and objects of classes
        without keypoints where keypoints are written.
    """
    first, written, crowds, others = target.first, 0, 0, 0
    posed = target.need == "keypoints"
    labels = {number: i for i, number in enumerate(first.posed_ids if posed else first.category_ids)}
    for split, content in target.splits.items():
        below = "" if split == "all" else split
        target.copy(split, target.folder / "images" / below)
        folder = target.folder / "labels" / below
        folder.mkdir(parents=True, exist_ok=True)
        for image, name in target.images(split):
            lines = []
            for annotation in content.annotations(image["id"]):
                crowds += bool(annotation.get("iscrowd"))
                others += annotation["category_id"] not in labels
                if not annotation.get("iscrowd") and annotation["category_id"] in labels:
                    lines.append(line_of(labels[annotation["category_id"]], annotation, image, target.need))
            (folder / name).with_suffix(".txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            written += len(lines)
    names = {i: first.class_names[first.labels[number]] for number, i in labels.items()}
    about: dict[str, Any] = {"path": "."}
    about |= {"train": "images"} if "all" in target.splits else {split: f"images/{split}" for split in target.splits}
    if posed:
        about |= {
            "kpt_shape": [len(first.keypoint_names), 3],
            "flip_idx": _flip(first),
            "kpt_names": {0: first.keypoint_names},
        }
        about |= {"skeleton": [[a + 1, b + 1] for a, b in first.skeleton]}
    text = yaml.safe_dump({**about, "names": names}, sort_keys=False, allow_unicode=True)
    (target.folder / "data.yaml").write_text(text, encoding="utf-8")
    notes = [f"{crowds} crowd regions, which YOLO does not have"] if crowds else []
    return written, notes + ([f"{others} objects of classes without keypoints"] if others else [])


def line_of(label: int, annotation: dict[str, Any], image: dict[str, Any], need: Need) -> str:
    """Return the line of an object in a label file: class, then a box, an outline, or a box with keypoints.

    Args:
        label: Number of the class.
        annotation: The object in COCO's terms.
        image: Has width and height.
        need: What is written.
    """
    return " ".join([str(label), *map(_text, _values(annotation, image, need))])


def _text(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".")


def _flip(split: CocoSplit) -> list[int]:
    order = list(range(len(split.keypoint_names)))
    for a, b in split.flip_pairs:
        order[a], order[b] = b, a
    return order


def _values(annotation: dict[str, Any], image: dict[str, Any], need: Need) -> list[float]:
    """Return the values behind the class: a box, an outline, or a box with keypoints."""
    from van.data.labels.convert import mask_of, one_outline, outlines

    width, height = image["width"], image["height"]
    if need == "masks":
        parts = annotation["segmentation"]
        if isinstance(parts, list):
            arrays = [np.array(part, dtype=float).reshape(-1, 2) for part in parts]
        else:
            arrays = outlines(mask_of(annotation, image))
        outline = one_outline(arrays) if len(arrays) else []
        return [min(1.0, max(0.0, v / (height if i % 2 else width))) for i, v in enumerate(outline)]
    x, y, w, h = annotation["bbox"]
    x1, y1, x, y = min(x + w, width), min(y + h, height), max(x, 0.0), max(y, 0.0)
    values = [(x + x1) / 2 / width, (y + y1) / 2 / height, (x1 - x) / width, (y1 - y) / height]
    if need == "keypoints":
        points = annotation["keypoints"]
        for i in range(0, len(points), 3):
            values += [points[i] / width, points[i + 1] / height, points[i + 2]] if points[i + 2] else [0.0, 0.0, 0.0]
    return values
