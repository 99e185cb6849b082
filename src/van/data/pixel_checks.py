"""Checks of semantic, panoptic and saliency data before training."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from van.data.checks import ImageSizes, Problem, said, without_problems
from van.data.folders import OnBadImage, Split
from van.data.formats import IGNORED
from van.data.loaders import as_is, loading_processes
from van.data.pairs import read_mask, sizes_differ
from van.data.panoptic import PanopticSplit, read_ids
from van.data.saliency import THRESHOLD, SaliencySplit
from van.data.semantic import DrawnSplit, SemanticSplit
from van.errors import DataError

PixelSplit = SemanticSplit | SaliencySplit | PanopticSplit
_S = TypeVar("_S", SemanticSplit, SaliencySplit, PanopticSplit)
_Found = tuple[list[tuple[str, str]], np.ndarray]  # files with what is wrong, and how much there is of each class
_FEW = 128  # no progress bar for up to this many images
_IDS = 256**3  # colors of a panoptic PNG
_SUSPICIOUS = 0.01  # more ignored pixels than this may be a class that is stored as 255
_LISTED = 5  # unknown segments of an image that get a line each


def _said(error: DataError, path: Path) -> tuple[str, str]:
    return str(path), said(error, str(path))


def _size(path: Path, decode: bool) -> tuple[list[tuple[str, str]], tuple[int, int] | None]:
    """Return what is wrong with an image, and its height and width."""
    error, width, height = ImageSizes([str(path)], decode)[0]
    return ([(str(path), error)], None) if error else ([], (height, width))


def _look_semantic(split: SemanticSplit, index: int, decode: bool) -> _Found:
    image, mask = split.images[index], split.masks[index]
    errors, size = _size(image, decode)
    counts = np.zeros(len(split.class_names) + 1, np.int64)  # the last one counts ignored pixels
    try:
        numbers = split.numbers(index)
    except DataError as error:
        return [*errors, _said(error, mask)], counts
    if size and size != numbers.shape:
        errors.append((str(mask), sizes_differ(image, size, numbers.shape)))
    if unknown := split.unknown(numbers):
        errors.append((str(mask), unknown))
    else:
        found = np.bincount(split.look_up(numbers).ravel(), minlength=IGNORED + 1)
        counts[:-1], counts[-1] = found[: len(split.class_names)], found[IGNORED]
        if not counts[:-1].any():
            errors.append((str(mask), "all of its pixels are marked as ignored"))
    return errors, counts


def _look_saliency(split: SaliencySplit, index: int, decode: bool) -> _Found:
    image, mask = split.images[index], split.masks[index]
    errors, size = _size(image, decode)
    counts = np.zeros(1, np.int64)
    try:
        grey = read_mask(mask, grey=True)
    except DataError as error:
        return [*errors, _said(error, mask)], counts
    if size and size != grey.shape:
        errors.append((str(mask), sizes_differ(image, size, grey.shape)))
    counts[0] = (grey > THRESHOLD).sum()
    if 0 < (brightest := int(grey.max(initial=0))) <= THRESHOLD:
        errors.append(
            (
                str(mask),
                f"its brightest pixel has {brightest}, expected 0 and 255; if 1 means salient, multiply by 255",
            )
        )
    return errors, counts


def _look_panoptic(split: PanopticSplit, index: int, decode: bool) -> _Found:
    record = split.images[index]
    image, png = split.image_path(record), split.png_path(record)
    json = f"{split.coco.files.annotations}, image {record['id']}"
    errors, size = _size(image, decode)
    counts = np.zeros(len(split.class_names), np.int64)
    stated = (record.get("height"), record.get("width"))
    if size and stated != size:
        errors.append(
            (str(image), f"the file has {size[1]} x {size[0]} pixels, the JSON says {stated[1]} x {stated[0]}")
        )
    try:
        infos = split.segments(record)
    except DataError as error:
        return [*errors, (json, str(error).removeprefix(f"{json}: ").rstrip("."))], counts
    for info in infos:
        category = info.get("category_id")
        if not isinstance(category, int) or category not in split.labels:
            errors.append((json, f"segment {info.get('id')} has the unknown category {category!r}"))
        elif not info.get("iscrowd"):
            counts[split.labels[category]] += 1
    try:
        ids = read_ids(png)
    except DataError as error:
        return [*errors, _said(error, png)], counts
    if size and size != ids.shape:
        return [*errors, (str(png), sizes_differ(image, size, ids.shape))], counts
    return errors + [(str(png), what) for what in _mismatches(infos, ids)], counts


def _mismatches(infos: list[dict[str, Any]], ids: np.ndarray) -> Iterator[str]:
    """Yield the differences between the segments of the JSON and those of the PNG."""
    numbers, areas = np.unique(ids, return_counts=True)
    found = dict(zip(numbers.tolist(), areas.tolist(), strict=True))
    found.pop(0, None)
    listed: Counter[int] = Counter()
    for number in (info.get("id") for info in infos):
        if isinstance(number, int) and 0 < number < _IDS:
            listed[number] += 1
        else:
            yield f"the JSON lists a segment {number!r}, expected a number from 1 to {_IDS - 1}"
    for number, count in listed.items():
        if number not in found:
            yield f"segment {number} of the JSON has no pixel"
        elif count > 1:
            yield f"the JSON lists segment {number} {count} times"
    for number, info in ((info.get("id"), info) for info in infos):
        area = found.get(number) if isinstance(number, int) else None
        if area and info.get("area", area) != area:
            yield f"segment {number} has {area} pixels, its area in the JSON is {info['area']}"
    unknown = {number: area for number, area in found.items() if number not in listed}
    if len(unknown) > _LISTED:  # the PNG of another image, or changed ids: one line suffices
        some = ", ".join(map(str, list(unknown)[:_LISTED]))
        pixels = sum(unknown.values())
        yield f"{pixels} pixels belong to {len(unknown)} segments that the JSON does not list: {some}, ..."
    else:
        for number, area in unknown.items():
            yield f"{area} pixels belong to segment {number}, which the JSON does not list"
    if not found:
        yield "none of its pixels belongs to a segment"


class _Looks(Dataset):
    """What is wrong with each image and its mask."""

    def __init__(self, split: PixelSplit, decode: bool) -> None:
        self.split = split
        self.decode = decode

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> _Found:
        if isinstance(self.split, SemanticSplit):
            return _look_semantic(self.split, index, self.decode)
        if isinstance(self.split, SaliencySplit):
            return _look_saliency(self.split, index, self.decode)
        return _look_panoptic(self.split, index, self.decode)


def _whole(split: PixelSplit) -> Iterator[Problem]:
    """Yield what is wrong apart from single images and their masks."""
    if isinstance(split, DrawnSplit):
        yield from split.problems()
    if not isinstance(split, PanopticSplit):
        for path, what in split.unpaired:
            yield Problem(str(path), what)
        return
    json = split.name
    known = {image["id"]: image for image in split.coco.images}
    for number, count in Counter(image["id"] for image in split.coco.images).items():
        if count > 1:
            yield Problem(json, f"{count} images have the id {number}")
    for number, count in Counter(split.category_ids).items():
        if count > 1:
            yield Problem(json, f"{count} categories have the id {number}")
    for name, count in Counter(split.class_names).items():
        if count > 1:
            yield Problem(json, f"{count} categories are called {name!r}")
    records: Counter[int] = Counter()
    for number in (record.get("image_id") for record in split.coco.all_annotations()):
        if isinstance(number, int) and number in known:
            records[number] += 1
        else:
            yield Problem(json, f"it has segments for image {number!r}, which is not among its images")
    for number, count in records.items():
        if count > 1:
            yield Problem(json, f"it lists the segments of image {number} {count} times")
    for number, image in known.items():
        if number not in records:
            yield Problem(str(split.image_path(image)), f"{json} has no segments for it (image {number})")
    used = {split.png_path(image) for number, image in known.items() if number in records}
    for path in sorted(set(split.folder.glob("*.png")) - used):
        yield Problem(str(path), f"it belongs to no image of {json}")


def find_problems(
    split: PixelSplit, decode: bool = True, workers: int | None = None, empty_classes: bool = True
) -> list[Problem]:
    """List everything that would stop or spoil training. Masks are always decoded.

    This finds images and masks that are missing, broken or of different sizes; masks that are JPEG or color images;
    values that are not classes; masks in which everything is ignored; classes that occur in no mask; segments of a
    panoptic JSON that differ from those of its PNG in number, area or category; and salient masks of 0 and 1 instead of
    0 and 255.

    Args:
        split: What to check.
        decode: Decode the images too; otherwise only their headers are read, which misses damage behind them.
        workers: Loading processes; None takes one per processor, at most 8, and none for few images.
        empty_classes: Whether every class must occur, which a validation split can do without.
    """
    problems = list(_whole(split))
    workers = loading_processes(workers, len(split))
    loader = DataLoader(_Looks(split, decode), batch_size=None, num_workers=workers, collate_fn=as_is)
    total: Any = 0
    looks = tqdm(loader, desc="Checking masks", unit=" masks", disable=len(split) <= _FEW or None, leave=False)
    for index, (errors, counts) in enumerate(looks):
        image = split.images[index]["id"] if isinstance(split, PanopticSplit) else index
        problems += [Problem(file, what, image) for file, what in errors]
        total = total + counts
    if not len(split):
        problems.append(Problem(split.name, "it has no images"))
    elif empty_classes and (what := _empty_classes(split, total)):
        problems.append(Problem(split.name, what))
    return problems


def _empty_classes(split: PixelSplit, total: np.ndarray) -> str:
    """Return which classes never occur, or an empty string."""
    if isinstance(split, SaliencySplit):
        return "" if total.any() else "no mask has a salient pixel"
    missing = [name for name, count in zip(split.class_names, total, strict=False) if not count]
    if not missing:
        return ""
    shown = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
    ignored = total[-1] / max(1, total.sum()) if isinstance(split, SemanticSplit) else 0
    hint = (
        f". The value {IGNORED} means ignored and marks {ignored:.1%} of all pixels: if it is meant to be a class, "
        "replace it with the number of that class"
        if ignored > _SUSPICIOUS
        else ""
    )
    return f"{len(missing)} of {len(split.class_names)} classes occur in no mask: {shown}{hint}"


def check(splits: Mapping[Split, PixelSplit], decode: bool = True, workers: int | None = None) -> list[Problem]:
    """List the problems of all splits of a data set; see `find_problems` and the find_..._splits of each format."""
    return [
        problem
        for name, split in splits.items()
        for problem in find_problems(split, decode, workers, empty_classes=name != "val")
    ]


def usable_split(
    split: _S,
    on_bad_image: OnBadImage = "error",
    decode: bool = False,
    workers: int | None = None,
    empty_classes: bool = True,
) -> tuple[_S, list[str]]:
    """Return a split without what cannot be used.

    Args:
        split: What to check; see `find_problems`.
        on_bad_image: What to do about images that cannot be used: error refuses them, skip leaves them out.
        decode: Decode the images too, not only their masks.
        workers: Loading processes.
        empty_classes: Whether every class must occur.

    Returns:
        The split, and notes that say what was left out and why.

    Raises:
        DataError: there are problems and on_bad_image is "error", or nothing is left.
    """
    return without_problems(split, find_problems(split, decode, workers, empty_classes), on_bad_image)


def usable_splits(
    train: _S, val: _S, on_bad_image: OnBadImage, decode: bool, workers: int | None
) -> tuple[_S, _S, list[str]]:
    """Return what can be trained on and validated with, and notes that say what was left out and why.

    Args:
        train: What to train on.
        val: What to validate with.
        on_bad_image: What to do about images that cannot be used; see usable_split. With "skip" all validation images
            are decoded.
        decode: Decode the training images too, not only their masks.
        workers: Loading processes.

    Raises:
        DataError: a split cannot be used.
    """
    train, notes = usable_split(train, on_bad_image, decode, workers)
    # what cannot be decoded is replaced while training, but must be out of the metrics from the start
    val, more = usable_split(val, on_bad_image, decode or on_bad_image == "skip", workers, empty_classes=False)
    return train, val, notes + more
