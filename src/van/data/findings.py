"""What is worth knowing about a data set before training, though nothing of it stops training."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from van.data.checks import count
from van.data.duplicates import Group, find_duplicates
from van.data.inspection import Inspection

SMALLEST = 8
"""Pixels: objects with a shorter side, at the size of training, are smaller than the finest cell of most detectors."""

UNEVEN = 10
"""Largest over smallest number of objects of a class from which classes count as uneven."""

_NARROW = 4.0  # longer over shorter side of odd images
_TINY = 32  # pixels of the shorter side of odd images
_UNLIKE = 4.0  # factor from the median area of the images to that of odd ones
_SHOWN = 5  # items of a finding in a text


@dataclass(frozen=True)
class Finding:
    """Something worth knowing about a data set.

    Attributes:
        kind: What it is about, such as "duplicates".
        what: A sentence without a full stop.
        items: What it concerns, each as JSON can hold it, with the key text for people.
    """

    kind: str
    what: str
    items: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        shown = [f"  {item['text']}" for item in self.items[:_SHOWN]]
        more = [f"  ... and {len(self.items) - _SHOWN} more"] if len(self.items) > _SHOWN else []
        return "\n".join([f"note: {self.what}", *shown, *more])


def find(inspections: Mapping[str, Inspection], short_edge: int) -> list[Finding]:
    """Return everything worth knowing.

    Args:
        inspections: What the images of each split are like.
        short_edge: Pixels that the short edge of an image has in training, which decides which objects are tiny.
    """
    found = list(_duplicates(inspections))
    for name, one in inspections.items():
        found += [*_classes(name, one), *_objects(name, one, short_edge), *_shapes(name, one), *_pixels(name, one)]
    return found


# ---------------------------------------------------------------------------------------------------- duplicates


@dataclass(frozen=True)
class Copies:
    """Images of one or several splits that are the same or look the same.

    Attributes:
        members: Split and index of each.
        exact: Whether all of them have the same content.
    """

    members: list[tuple[str, int]]
    exact: bool

    @property
    def splits(self) -> list[str]:
        """Names of the splits that they are in."""
        return list(dict.fromkeys(split for split, _ in self.members))


def copies(inspections: Mapping[str, Inspection]) -> list[Copies]:
    """Return the images that are the same or look the same, within and across splits; see van.data.duplicates."""
    places = [(name, i) for name, one in inspections.items() for i in range(len(one))]
    digests = [digest for one in inspections.values() for digest in one.digests]
    if not any(digests):
        return []
    codes, thumbs = (
        np.concatenate([getattr(one, part) for one in inspections.values()]) for part in ("codes", "thumbs")
    )
    groups: list[Group] = find_duplicates(digests, codes, thumbs)
    return [Copies([places[i] for i in group.members], group.exact) for group in groups]


def _duplicates(inspections: Mapping[str, Inspection]) -> Iterator[Finding]:
    groups = copies(inspections)
    if not groups:
        return
    across = [group for group in groups if len(group.splits) > 1]
    within = [group for group in groups if len(group.splits) == 1]
    for kind, chosen, where in (("leaks", across, "across splits"), ("duplicates", within, "within a split")):
        if chosen:
            images, exact = sum(len(group.members) for group in chosen), sum(group.exact for group in chosen)
            same = f"{count(exact, 'group')} with the same content" if exact else "none with the same content"
            hint = ": metrics on val are too good where train has the same images" if kind == "leaks" else ""
            what = f"{images} images in {count(len(chosen), 'group')} look the same {where} ({same}){hint}"
            yield Finding(kind, what, [_of_copies(group, inspections) for group in chosen])
    if contrary := [group for group in groups if len(_labels_of(group, inspections)) > 1]:
        items = [_of_copies(group, inspections) for group in contrary]
        what = f"{count(len(contrary), 'group')} of images that look the same have different classes"
        yield Finding("contradictions", what, items)


def _labels_of(group: Copies, inspections: Mapping[str, Inspection]) -> set[str]:
    """Return the classes of images that are labeled as a whole."""
    ones = [(inspections[split], i) for split, i in group.members]
    if any(len(one.boxes) or one.cover.size for one, _ in ones):
        return set()
    return {one.class_names[label] for one, i in ones for label in one.labels[one.images == i]}


def _of_copies(group: Copies, inspections: Mapping[str, Inspection]) -> dict[str, Any]:
    files = [{"split": split, "file": inspections[split].split.image_name(i)} for split, i in group.members]
    text = ", ".join(f"{file['file']} ({file['split']})" for file in files[:4])
    text += f" and {len(files) - 4} more" if len(files) > 4 else ""
    return {"text": text, "files": files, "exact": group.exact}


# ---------------------------------------------------------------------------------------------------- labels


def _classes(name: str, one: Inspection) -> Iterator[Finding]:
    numbers = one.objects
    unit = "objects" if len(one.boxes) else "images"
    if not numbers.sum():
        return
    order = np.argsort(-numbers, kind="stable")
    if missing := [one.class_names[i] for i in np.flatnonzero(numbers == 0)]:
        what = f"{name}: {len(missing)} of {len(numbers)} classes have no {unit}"
        yield Finding("missing classes", what, [{"text": text, "class": text} for text in missing])
    least = int(numbers[numbers > 0].min())
    if numbers.max() >= UNEVEN * least:
        what = f"{name}: classes are uneven, from {numbers.max()} to {least} {unit}"
        items = [{"class": one.class_names[i], "count": int(numbers[i])} for i in order[::-1] if numbers[i]]
        yield Finding("imbalance", what, [{"text": f"{row['class']}: {row['count']}", **row} for row in items])


def _objects(name: str, one: Inspection, short_edge: int) -> Iterator[Finding]:
    if not len(one.boxes):
        return
    without = np.flatnonzero(one.per_image == 0)
    if len(without):
        what = f"{name}: {count(len(without), 'image')} of {len(one)} without labels"
        yield Finding("no labels", what, [_file(one, i) for i in without.tolist()])
    edges = one.sizes[one.images].min(1)
    sides = one.boxes[:, 2:].min(1) * short_edge / edges.clip(1)
    small = np.flatnonzero((sides < SMALLEST) & (edges > 0))
    if len(small):
        what = f"{name}: {count(len(small), 'object')} of {len(one.boxes)} have a side below {SMALLEST} pixels at a "
        what += f"short edge of {short_edge}: detectors rarely learn them. See --short-edge"
        items = []
        for i in small[np.argsort(sides[small], kind="stable")].tolist():
            label = one.class_names[one.labels[i]]
            box = [round(float(v), 2) for v in one.boxes[i]]
            item = _file(one, int(one.images[i]))
            items.append({**item, "text": f"{item['file']}: {label} {box}", "class": label, "box": box})
        yield Finding("tiny objects", what, items)


# ---------------------------------------------------------------------------------------------------- images


def _file(one: Inspection, index: int, more: str = "") -> dict[str, Any]:
    file = one.split.image_name(index)
    return {"text": file + more, "file": file}


def _some(found: np.ndarray, one: Inspection) -> list[int]:
    """Return the indices to list: none where all images are meant."""
    return [] if len(found) == len(one) else found.tolist()


def _shapes(name: str, one: Inspection) -> Iterator[Finding]:
    known = np.flatnonzero(one.sizes.min(1, initial=1) > 0) if len(one) else np.zeros(0, int)
    if not len(known):
        return
    sizes = one.sizes[known]
    areas, ratios = sizes.prod(1), sizes.max(1) / sizes.min(1)
    middle = np.median(areas)
    chosen = (
        ("narrow images", ratios > _NARROW, f"more than {_NARROW:g} times as long as wide, or as wide as long"),
        ("small images", sizes.min(1) < _TINY, f"with a side below {_TINY} pixels"),
        (
            "unlike sizes",
            np.maximum(areas / middle, middle / areas) > _UNLIKE**2,
            f"more than {_UNLIKE:g} times larger or smaller along an edge than most",
        ),
    )
    for kind, where, what in chosen:
        found = known[where]
        if len(found):
            items = [_file(one, i, f": {one.sizes[i][0]} x {one.sizes[i][1]}") for i in _some(found, one)]
            yield Finding(kind, f"{name}: {count(len(found), 'image')} of {len(one)} {what}", items)


def _pixels(name: str, one: Inspection) -> Iterator[Finding]:
    texts = {
        "grey": "grey, which is read as RGB",
        "transparent": "with transparency, which is put on white",
        "16-bit": "with more than 8 bits, which are scaled to 8",
        "rotated": "rotated by EXIF, which is applied: labels count in the image as it is shown",
    }
    for kind, what in texts.items():
        found = one.kinds[kind]
        if len(found):
            items = [_file(one, i) for i in _some(found, one)]
            yield Finding(f"{kind} images", f"{name}: {count(len(found), 'image')} of {len(one)} {what}", items)
