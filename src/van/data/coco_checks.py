"""Checks of COCO annotations before training."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from van.data.checks import ImageSizes, Problem, without_problems
from van.data.coco import CocoSplit, segmentation_error
from van.data.folders import OnBadImage, Split
from van.data.loaders import loading_processes
from van.errors import DataError

_FEW = 256  # no progress bar for up to this many images


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _box_error(box: Any, width: float, height: float) -> str:
    """Return what is wrong with a box x, y, width, height in an image of some size, or an empty string."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(_number, box)):
        return f"its box {box} is not four finite numbers"
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return f"its box {box} has no area"
    inside = max(0, min(x + w, width) - max(x, 0)) * max(0, min(y + h, height) - max(y, 0))
    if inside < 0.5 * w * h:
        much = "more than half of" if inside else "all of"
        return f"{much} its box {box} lies outside the image of {width} x {height}"
    return ""


def _keypoints_error(annotation: dict[str, Any], count: int) -> str:
    keypoints = annotation.get("keypoints")
    if not isinstance(keypoints, list) or len(keypoints) != 3 * count:
        found = len(keypoints) if isinstance(keypoints, list) else "no"
        return f"it has {found} keypoint values, expected {3 * count}: x, y and visibility of {count} keypoints"
    if not all(map(_number, keypoints)):
        return "it has keypoints that are not finite numbers"
    if wrong := [v for v in keypoints[2::3] if v not in (0, 1, 2)]:
        return f"a keypoint has visibility {wrong[0]}, expected 0, 1 or 2"
    labeled = sum(v > 0 for v in keypoints[2::3])
    if annotation.get("num_keypoints", labeled) != labeled:
        return f"num_keypoints is {annotation['num_keypoints']}, but {labeled} keypoints are labeled"
    return ""


def _annotation_errors(
    split: CocoSplit, annotation: dict[str, Any], size: tuple[float, float], masks: bool
) -> Iterator[str]:
    width, height = size
    if (category := annotation.get("category_id")) not in split.labels:
        known = f"{split.category_ids}" if len(split.category_ids) < 20 else f"{len(split.category_ids)} others"
        yield f"category {category} is unknown, the file has {known}"
    yield _box_error(annotation.get("bbox"), width, height)
    segmentation = annotation.get("segmentation")
    if segmentation or masks:
        yield segmentation_error(segmentation, int(height), int(width))
    # other categories in the file may have no keypoints
    if split.kind == "person_keypoints" and category in split.posed_ids:
        yield _keypoints_error(annotation, len(split.keypoint_names))


def _image_errors(
    split: CocoSplit, decode: bool, workers: int | None
) -> Iterator[tuple[dict[str, Any], str, tuple[float, float]]]:
    """Yield each image with what is wrong with it, and the width and height that its annotations refer to."""
    paths = [str(split.image_path(image)) for image in split.images]
    workers = loading_processes(workers, len(paths))
    loader = DataLoader(ImageSizes(paths, decode), batch_size=None, num_workers=workers)
    states = tqdm(loader, desc="Checking images", unit=" images", disable=len(paths) <= _FEW or None, leave=False)
    for image, (error, width, height) in zip(split.images, states, strict=True):
        stated: tuple[Any, Any] = image.get("width"), image.get("height")
        if not all(map(_number, stated)):
            yield image, error or "the JSON gives no width and height", (width, height)
        elif error or stated == (width, height):
            yield image, error, stated
        else:
            turned = "; is it rotated by its EXIF data?" if stated == (height, width) else ""
            what = f"the file has {width} x {height} pixels, the JSON says {stated[0]} x {stated[1]}{turned}"
            yield image, what, stated


def find_problems(
    split: CocoSplit, decode: bool = True, workers: int | None = None, masks: bool | None = None
) -> list[Problem]:
    """List everything that would stop or spoil training.

    This finds images that are missing, broken, or of another size than the JSON says; annotations of images or
    categories that are not listed; boxes that are not four finite numbers, have no area, or lie more than half outside
    the image; masks that cannot be decoded; wrong numbers of keypoints; ids that are used twice; and files without
    annotations. Gaps between category ids and images without objects are fine.

    Args:
        split: The annotations.
        decode: Decode all pixels; otherwise only headers are read, which misses damage in the rest of a file.
        workers: Loading processes; None takes one per processor, at most 8, and none for few images.
        masks: Whether every object must have a mask; by default if any has one.
    """
    problems: list[Problem] = list(split.problems)
    annotations = list(split.all_annotations())
    if not annotations:
        problems.append(Problem(split.name, "it has no annotations", fatal=True))
    if masks is None:
        masks = any(annotation.get("segmentation") for annotation in annotations)
    for number, count in Counter(split.category_ids).items():
        if count > 1:
            problems.append(Problem(split.name, f"{count} categories have the id {number}", fatal=True))

    paths: dict[int, str] = {}
    sizes: dict[int, tuple[float, float]] = {}
    repeated = {number for number, count in Counter(image["id"] for image in split.images).items() if count > 1}
    for image, error, size in _image_errors(split, decode, workers):
        number = image["id"]
        paths[number], sizes[number] = str(split.image_path(image)), size
        errors = [error, f"another image has the same id {number}" if number in repeated else ""]
        problems += [Problem(paths[number], what, image=number) for what in errors if what]

    ids = Counter(a["id"] for a in annotations if isinstance(a.get("id"), int))
    for annotation in annotations:
        number, image_id = annotation.get("id"), annotation.get("image_id")
        file = paths.get(image_id, split.name) if isinstance(image_id, int) else split.name
        if not isinstance(number, int):
            what = f"an annotation of image {image_id} has the id {number}, expected an integer"
            problems.append(Problem(file, what, fatal=True))
            number = None
        elif ids[number] > 1:
            problems.append(Problem(file, "another annotation has the same id", annotation=number))
        errors = []
        if not isinstance(image_id, int) or image_id not in paths:
            file, errors = split.name, [f"image {image_id} is not among the images of the file"]
        elif all(sizes[image_id]):  # nothing is known about an image that is missing and has no size in the JSON
            errors = _annotation_errors(split, annotation, sizes[image_id], masks)
        source = annotation.get("source")
        problems += [Problem(file, what, None, number, number is None, source) for what in errors if what]
    return problems


def check(
    splits: Mapping[Split, CocoSplit], decode: bool = True, workers: int | None = None, masks: bool | None = None
) -> list[Problem]:
    """List the problems of all splits of a data set; see `find_problems` and `van.data.coco.read_splits`."""
    return [problem for split in splits.values() for problem in find_problems(split, decode, workers, masks)]


def usable_split(
    whole: CocoSplit,
    on_bad_image: OnBadImage = "error",
    masks: bool = False,
    decode: bool = False,
    workers: int | None = None,
) -> tuple[CocoSplit, list[str]]:
    """Return the annotations of a split without what cannot be used.

    Args:
        whole: All annotations; see van.data.labels.open_labels.
        on_bad_image: What to do about annotations and images that cannot be used: error refuses them, skip leaves
            them out.
        masks: Whether every object must have a mask.
        decode: Decode every image; otherwise damage behind the header of a file is missed.
        workers: Loading processes; see `find_problems`.

    Returns:
        The split, and notes that say what was left out.

    Raises:
        DataError: there are problems and on_bad_image is "error" or they are too many.
    """
    kept, notes = without_problems(whole, find_problems(whole, decode, workers, masks), on_bad_image)
    if not any(True for _ in kept.all_annotations()):
        raise DataError(f"{whole.name} has no annotations left without those that have problems:\n{notes[0]}")
    return kept, notes
