"""Find what is wrong with masks of classes, segments and salient objects before training does."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from van.data.coco_checks import ImageSizes, OnProblem
from van.data.loaders import loading_processes
from van.data.pairs import Split, read_mask, sizes_differ
from van.data.panoptic import PanopticSplit, read_ids
from van.data.saliency import THRESHOLD, SaliencySplit
from van.data.semantic import IGNORED, SemanticSplit
from van.errors import DataError

PixelSplit = SemanticSplit | SaliencySplit | PanopticSplit
_P = TypeVar("_P", SemanticSplit, SaliencySplit, PanopticSplit)
_Found = tuple[list[tuple[str, str]], np.ndarray]  # files with what is wrong, and how much there is of each class
_FEW = 128  # for so many images there is no progress bar
_IDS = 256**3  # colours of a panoptic PNG
_LISTED = 5  # unknown segments of an image that get a line each


@dataclass(frozen=True)
class PixelProblem:
    """What is wrong with an image, a mask, or the whole split.

    Attributes:
        file: Path of the image, the mask or the JSON, or the folder where all of it is meant.
        what: What is wrong, beginning in lower case and without a full stop.
        place: Of the image in the split; None where no image of it is meant.
    """

    file: str
    what: str
    place: int | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def _said(error: DataError, path: Path) -> tuple[str, str]:
    return str(path), str(error).removeprefix(f"{path} ").removeprefix(f"{path}, ").rstrip(".")


def _size(path: Path, decode: bool) -> tuple[list[tuple[str, str]], tuple[int, int] | None]:
    """Return what is wrong with an image, and its height and width."""
    error, width, height = ImageSizes([str(path)], decode)[0]
    return ([(str(path), error)], None) if error else ([], (height, width))


def _look_semantic(split: SemanticSplit, place: int, decode: bool) -> _Found:
    image, mask = split.images[place], split.masks[place]
    errors, size = _size(image, decode)
    counts = np.zeros(len(split.class_names) + 1, np.int64)  # the last one is that of ignored pixels
    try:
        numbers = read_mask(mask)
    except DataError as error:
        return [*errors, _said(error, mask)], counts
    if size and size != numbers.shape:
        errors.append((str(mask), sizes_differ(image, size, numbers.shape)))
    if unknown := split.unknown(numbers):
        errors.append((str(mask), unknown))
    else:
        found = np.bincount(split.look_up(numbers).ravel(), minlength=IGNORED + 1)
        counts += [*found[: len(split.class_names)], found[IGNORED]]
        if not counts[:-1].any():
            errors.append((str(mask), "it has no pixel that counts: all are marked as ignored"))
    return errors, counts


def _look_saliency(split: SaliencySplit, place: int, decode: bool) -> _Found:
    image, mask = split.images[place], split.masks[place]
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
            (str(mask), f"its brightest pixel has {brightest}, expected 0 and 255: is 1 what stands out? Multiply it")
        )
    return errors, counts


def _look_panoptic(split: PanopticSplit, place: int, decode: bool) -> _Found:
    record = split.images[place]
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
    """Say where the segments of the JSON are not those of the PNG."""
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
    if len(unknown) > _LISTED:  # colours of another image, or ids that were changed: one line says it
        some = ", ".join(map(str, list(unknown)[:_LISTED]))
        pixels = sum(unknown.values())
        yield f"{pixels} pixels belong to {len(unknown)} segments that the JSON does not list: {some}, ..."
    else:
        for number, area in unknown.items():
            yield f"{area} pixels belong to segment {number}, which the JSON does not list"
    if not found:
        yield "it has no pixel that belongs to a segment"


class _Looks(Dataset):
    """What is wrong with each image and its mask."""

    def __init__(self, split: PixelSplit, decode: bool) -> None:
        self.split = split
        self.decode = decode

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, place: int) -> _Found:
        if isinstance(self.split, SemanticSplit):
            return _look_semantic(self.split, place, self.decode)
        if isinstance(self.split, SaliencySplit):
            return _look_saliency(self.split, place, self.decode)
        return _look_panoptic(self.split, place, self.decode)


def _same(found: Any) -> Any:
    return found


def _whole(split: PixelSplit) -> Iterator[PixelProblem]:
    """Say what is wrong apart from single images and their masks."""
    if not isinstance(split, PanopticSplit):
        for path, what in split.unpaired:
            yield PixelProblem(str(path), what)
        return
    json = str(split.coco.files.annotations)
    known = {image["id"]: image for image in split.coco.images}
    for number, count in Counter(image["id"] for image in split.coco.images).items():
        if count > 1:
            yield PixelProblem(json, f"{count} images have the id {number}")
    for number, count in Counter(split.category_ids).items():
        if count > 1:
            yield PixelProblem(json, f"{count} categories have the id {number}")
    for name, count in Counter(split.class_names).items():
        if count > 1:
            yield PixelProblem(json, f"{count} categories are called {name!r}")
    records: Counter[int] = Counter()
    for number in (record.get("image_id") for record in split.coco.all_annotations()):
        if isinstance(number, int) and number in known:
            records[number] += 1
        else:
            yield PixelProblem(json, f"it has segments of image {number!r}, which is not among its images")
    for number, count in records.items():
        if count > 1:
            yield PixelProblem(json, f"it lists the segments of image {number} {count} times")
    for number, image in known.items():
        if number not in records:
            yield PixelProblem(str(split.image_path(image)), f"{json} has no segments of it (image {number})")
    used = {split.png_path(image) for number, image in known.items() if number in records}
    for path in sorted(set(split.folder.glob("*.png")) - used):
        yield PixelProblem(str(path), f"it belongs to no image of {json}")


def _name(split: PixelSplit) -> str:
    return str(split.coco.files.annotations) if isinstance(split, PanopticSplit) else split.name


def find_pixel_problems(
    split: PixelSplit, decode: bool = True, workers: int | None = None, empty_classes: bool = True
) -> list[PixelProblem]:
    """List everything that would stop or spoil training. Masks are always decoded.

    Found are images and masks that are missing, broken or of different sizes; masks that are JPEG or have colours;
    numbers that are no class; masks in which nothing counts; classes that no mask shows; segments of a panoptic JSON
    that are not those of its PNG, by number, area or category; and salient masks of 0 and 1 instead of 0 and 255.

    Args:
        split: What to look at.
        decode: Decode the images too; without it only their headers are read, which finds no damage behind them.
        workers: Processes that read files; by default one per processor, at most 8, and none for few images.
        empty_classes: Whether each class must occur; a split for validation can do without.
    """
    problems = list(_whole(split))
    workers = loading_processes(workers, len(split))
    loader = DataLoader(_Looks(split, decode), batch_size=None, num_workers=workers, collate_fn=_same)
    total: Any = 0
    looks = tqdm(loader, desc="Checking masks", unit=" masks", disable=len(split) <= _FEW, leave=False)
    for place, (errors, counts) in enumerate(looks):
        problems += [PixelProblem(file, what, place) for file, what in errors]
        total = total + counts
    if not len(split):
        problems.append(PixelProblem(_name(split), "it has no images"))
    elif isinstance(split, SaliencySplit):
        if empty_classes and not total.any():
            problems.append(PixelProblem(_name(split), "in no mask does anything stand out"))
    elif empty_classes and (missing := [n for n, count in zip(split.class_names, total, strict=False) if not count]):
        shown = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        what = f"{len(missing)} of {len(split.class_names)} classes occur in no mask: {shown}"
        if len(total) > len(split.class_names) and total[-1]:
            share = f"{100 * total[-1] / total.sum():.0f} % of the pixels"
            first = int(cast(SemanticSplit, split).reduce_zero_label)
            what += f" ({share} are ignored, which is what 255 means; classes have the numbers {first}, {first + 1}, ...)"
        problems.append(PixelProblem(_name(split), what))
    return problems


def check_pixels(
    splits: Mapping[Split, PixelSplit], decode: bool, workers: int | None
) -> tuple[list[PixelProblem], str]:
    """Return the problems of all splits of a data set, and what was checked in a few words.

    Args:
        splits: The splits by name; all but val must show each class.
        decode: Decode the images too; see find_pixel_problems.
        workers: Processes that read files.
    """
    problems = [
        problem
        for name, split in splits.items()
        for problem in find_pixel_problems(split, decode, workers, empty_classes=name != "val")
    ]
    return problems, f"{' and '.join(splits)}: {sum(len(split) for split in splits.values())} images"


def usable_pixels(
    split: _P,
    on_problem: OnProblem,
    decode: bool = False,
    workers: int | None = None,
    empty_classes: bool = True,
) -> tuple[_P, list[str]]:
    """Return what can be trained on, or refuse.

    Args:
        split: What to look at; see `find_pixel_problems`.
        on_problem: "refuse" raises an error if there is any problem, "skip" leaves out the images that have one.
        decode: Decode the images too, not only their masks.
        workers: Processes that read files.
        empty_classes: Whether each class must occur.

    Returns:
        The split without what has problems, and sentences that say what was left out and why.

    Raises:
        DataError: there are problems and on_problem is "refuse", or nothing is left.
    """
    problems = find_pixel_problems(split, decode, workers, empty_classes)
    if not problems:
        return split, []
    listed = "\n".join(map(str, problems[:10])) + (f"\n... and {len(problems) - 10} more" if len(problems) > 10 else "")
    one = len(problems) == 1
    count, there = "1 problem" if one else f"{len(problems)} problems", "there is" if one else "there are"
    if on_problem == "refuse":
        raise DataError(
            f"{_name(split)} has {count}:\n{listed}\nCorrect the data, or go on without what has problems with "
            "--on-problem skip; van check-data lists all."
        )
    places = {problem.place for problem in problems if problem.place is not None}
    if len(places) == len(split):
        raise DataError(f"{_name(split)}: no image can be used, {there} {count}:\n{listed}\nvan check-data lists all.")
    kept: Any = split
    if isinstance(split, PanopticSplit):
        kept = split.without({split.images[place]["id"] for place in places})
    elif places or split.unpaired:
        kept = split.without(places)
    note = f"{_name(split)}: {len(places)} of {len(split)} images are left out, {there} {count}:\n{listed}"
    return kept, [note]


def usable_splits(
    find: Callable[[Path, Split], _P], folder: Path, on_problem: OnProblem, decode: bool, workers: int | None
) -> tuple[_P, _P, list[str]]:
    """Return what can be trained on and validated with, and notes that say what was left out and why.

    Args:
        find: Finds a split in a folder.
        folder: Of the data set.
        on_problem: What to do with images that have a problem; see usable_pixels.
        decode: Decode the images too, not only their masks.
        workers: Processes that read files.

    Raises:
        DataError: a split is missing or cannot be used.
    """
    train, val = find(folder, "train"), find(folder, "val")  # a missing split should show before the long check
    train, notes = usable_pixels(train, on_problem, decode, workers)
    val, more = usable_pixels(val, on_problem, decode, workers, empty_classes=False)
    return train, val, notes + more
