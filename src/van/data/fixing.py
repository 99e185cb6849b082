"""A clean copy of a data set: what to leave out or clip, and writing the rest."""

import csv
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from tqdm import tqdm

from van.data.checks import Problem
from van.data.coco import CocoSplit, is_box
from van.data.findings import Copies
from van.data.images import read_image
from van.data.panoptic import PanopticSplit
from van.data.saliency import SaliencySplit
from van.data.samples import Samples
from van.data.semantic import SemanticSplit
from van.errors import DataError

SAME_BOX = 0.95
"""IoU from which two boxes of one class count as one object that is labeled twice."""


@dataclass(frozen=True)
class Change:
    """What a clean copy does differently.

    Attributes:
        split: Name of the split.
        file: The image, or the label file.
        annotation: Id of the annotation; None where the whole image is meant.
        change: left out, clipped, or renumbered.
        why: What is wrong.
    """

    split: str
    file: str
    annotation: int | None
    change: str
    why: str


def write_changes(changes: Sequence[Change], file: Path) -> None:
    """Write changes as a table."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow([field.name for field in fields(Change)])
        writer.writerows(astuple(change) for change in changes)


def cleaned(
    splits: Mapping[str, Any], copies: Sequence[Copies], problems_of: Callable[[dict[str, Any]], list[Problem]]
) -> tuple[dict[str, Any], list[Change]]:
    """Return splits without what is wrong, and the changes.

    Boxes are clipped to their images. Then images and annotations with problems are left out, boxes that repeat another
    of the same class, images of train that look the same as one of val, and where there are no splits, which a random
    division would make, images with the same content as another.

    Args:
        splits: By name.
        copies: Images that look the same; see van.data.findings.copies.
        problems_of: Returns the problems of a split, given by its name.
    """
    result, changes = {}, []
    twins = _twins(copies)
    for name, split in splits.items():
        gone = {split.key(i): why for i, why in twins.get(name, {}).items()}
        if isinstance(split, CocoSplit):
            split, clipped = _clipped(split, name)
            changes += clipped
        annotations: dict[int, str] = {}
        for problem in problems_of({name: split}):
            if problem.image is not None:
                gone.setdefault(problem.image, problem.what)
            elif problem.annotation is not None:
                annotations.setdefault(problem.annotation, problem.what)
        if isinstance(split, CocoSplit):
            annotations |= _repeated(split, annotations)
        names = {split.key(i): split.image_name(i) for i in range(len(split))}
        changes += [Change(name, names.get(key, str(key)), None, "left out", why) for key, why in gone.items()]
        if isinstance(split, CocoSplit):
            files = {a.get("id"): names.get(a.get("image_id"), split.name) for a in split.all_annotations()}
            changes += [Change(name, files[i], i, "left out", why) for i, why in annotations.items()]
        result[name] = split.without(set(gone), set(annotations))
    return result, changes


def _twins(copies: Sequence[Copies]) -> dict[str, dict[int, str]]:
    """Return the images to leave out because of others, by split and index, and why."""
    found: dict[str, dict[int, str]] = {}
    for group in copies:
        if "val" in group.splits and "train" in group.splits:
            same = "has the same content as" if group.exact else "looks the same as"
            found.setdefault("train", {}).update(
                {i: f"it {same} an image of val" for split, i in group.members if split == "train"}
            )
        elif group.exact and group.splits == ["all"]:
            found.setdefault("all", {}).update(
                {i: "it has the same content as another image" for _, i in group.members[1:]}
            )
    return found


def _clipped(split: CocoSplit, name: str) -> tuple[CocoSplit, list[Change]]:
    """Return a split whose boxes end at the edges of their images; those that lie outside are left to the checks."""
    sizes = {image["id"]: (image.get("width"), image.get("height")) for image in split.images}
    paths, changes, records = split.paths(), [], []
    free = max([a["id"] for a in split.all_annotations() if isinstance(a.get("id"), int)] + [0]) + 1
    used: set[Any] = set()
    for annotation in split.all_annotations():
        box, number, own = annotation.get("bbox"), annotation.get("image_id"), annotation.get("id")
        if isinstance(own, int) and own in used:
            annotation, free = {**annotation, "id": free}, free + 1
            file = str(paths.get(number, split.name)) if isinstance(number, int) else split.name
            changes.append(Change(name, file, annotation["id"], "renumbered", f"another annotation has its id {own}"))
        used.add(annotation.get("id") if isinstance(own, int) else None)
        width, height = sizes.get(number, (None, None)) if isinstance(number, int) else (None, None)
        if is_box(box) and isinstance(width, int | float) and isinstance(height, int | float):
            x, y, w, h = cast(list[float], box)
            left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
            if right > left and bottom > top and (right - left < w - 0.01 or bottom - top < h - 0.01):
                what = f"its box {box} reaches outside the image of {width} x {height}"
                changes.append(Change(name, str(paths[cast(int, number)]), annotation.get("id"), "clipped", what))
                annotation = {**annotation, "bbox": [left, top, right - left, bottom - top]}
        records.append(annotation)
    return (split.with_annotations(records) if changes else split), changes


def _repeated(split: CocoSplit, gone: Collection[int]) -> dict[int, str]:
    """Return the annotations that repeat another of their class, by id, and why."""
    found: dict[int, str] = {}
    for image in split.images:
        kept: list[tuple[int, Any, np.ndarray]] = []
        for annotation in split.annotations(image["id"]):
            number, box = annotation.get("id"), annotation.get("bbox")
            if not isinstance(number, int) or number in gone or not is_box(box) or annotation.get("iscrowd"):
                continue
            x, y, w, h = cast(list[float], box)
            corners = np.array([x, y, x + w, y + h], float)
            twin = next(
                (
                    i
                    for i, label, other in kept
                    if label == annotation.get("category_id") and _iou(corners, other) >= SAME_BOX
                ),
                None,
            )
            if twin is None:
                kept.append((number, annotation.get("category_id"), corners))
            else:
                found[number] = f"its box {box} repeats that of annotation {twin}"
    return found


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    inside = (np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).clip(0).prod()
    return float(inside / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - inside))


# ---------------------------------------------------------------------------------------------------- writing


def _copies(names: Sequence[str], label: str) -> Iterator[tuple[int, str]]:
    """Yield each index with a file name of its own, with a progress bar."""
    taken: set[str] = set()
    for index, name in enumerate(tqdm(names, desc=label, leave=False, disable=None)):
        path = Path(re.split(r"[:/\\]", name)[-1].replace(" ", "_"))
        parent = re.sub(r"\W", "_", Path(name).parent.name)
        tries = (path.name, f"{parent}_{path.name}", f"{index}_{path.name}")
        chosen = next(one for one in tries if Path(one).stem not in taken)
        taken.add(Path(chosen).stem)
        yield index, chosen


def write_class_folders(splits: Mapping[str, Samples], folder: Path) -> None:
    """Write images into a folder for each class, below train and val where there are splits.

    Raises:
        DataError: the name of a class cannot be that of a folder.
    """
    for split, samples in splits.items():
        for label, name in enumerate(samples.class_names):
            if name != Path(name).name or name.startswith("."):
                raise DataError(f"The class {name!r} cannot be the name of a folder. Rename it.")
            indices = [i for i, own in enumerate(samples.labels) if own == label]
            place = folder / ("" if split == "all" else split) / name
            if indices:
                place.mkdir(parents=True)
            for k, file in _copies([samples.name(i) for i in indices], "Copying images"):
                source = samples.load(indices[k])
                if isinstance(source, str | Path):
                    shutil.copyfile(source, place / file)
                elif isinstance(source, bytes):
                    (place / file).write_bytes(source)
                else:
                    read_image(source, None, file).save((place / file).with_suffix(".png"))


def write_tables(splits: Mapping[str, Samples], folder: Path) -> None:
    """Write images and CSV files with a column for each class, or for each number."""
    for split, samples in splits.items():
        name = "labels" if split == "all" else split
        place = folder / name
        place.mkdir(parents=True)
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerow(["image", *samples.class_names])
            for index, file in _copies([samples.name(i) for i in range(len(samples))], "Copying images"):
                shutil.copyfile(cast(str, samples.load(index)), place / file)
                writer.writerow(
                    [f"{name}/{file}", *samples.kind.cells(samples.labels[index], len(samples.class_names))]
                )


def write_pairs(splits: "Mapping[str, SemanticSplit | SaliencySplit]", folder: Path) -> None:
    """Write images and masks: images/SPLIT and masks/SPLIT, class numbers with 255 for ignored pixels, classes.txt."""
    for split, content in splits.items():
        below = "" if split == "all" else split
        for name in ("images", "masks"):
            (folder / name / below).mkdir(parents=True)
        for index, file in _copies([str(path) for path in content.images], "Copying images"):
            shutil.copyfile(content.images[index], folder / "images" / below / file)
            mask = (folder / "masks" / below / file).with_suffix(".png")
            if isinstance(content, SemanticSplit):
                Image.fromarray(content.labels(index)).save(mask)
            else:
                Image.fromarray(255 * content.salient(index)).save(mask)
        if isinstance(content, SemanticSplit):
            (folder / "classes.txt").write_text("\n".join(content.class_names) + "\n", encoding="utf-8")


def write_panoptic(splits: Mapping[str, PanopticSplit], folder: Path) -> None:
    """Write COCO's panoptic format."""
    (folder / "annotations").mkdir()
    for split, content in splits.items():
        json_file = folder / "annotations" / f"panoptic_{split}.json"
        json_file.with_suffix("").mkdir()
        (folder / split).mkdir()
        images, records = [], []
        for index, file in _copies([image["file_name"] for image in content.images], "Copying images"):
            image = content.images[index]
            shutil.copyfile(content.image_path(image), folder / split / file)
            png = Path(file).with_suffix(".png").name
            shutil.copyfile(content.png_path(image), json_file.with_suffix("") / png)
            images.append({**image, "file_name": file})
            records.append({**content.records[image["id"]], "file_name": png})
        text = json.dumps({"images": images, "annotations": records, "categories": content.coco.categories})
        json_file.write_text(text + "\n", encoding="utf-8")
