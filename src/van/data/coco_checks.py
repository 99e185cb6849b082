"""Find what is wrong with data in COCO's format before training does."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import ExifTags, Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from van.data.coco import AnnotationKind, CocoSplit, Split, find_split, segmentation_error
from van.data.images import read_image
from van.data.loaders import loading_processes
from van.errors import DataError

OnProblem = Literal["refuse", "skip"]

_FEW = 256  # for so many images there is no progress bar


@dataclass(frozen=True)
class Problem:
    """What is wrong with an image, an annotation, or the whole file.

    Attributes:
        file: Path of the image, or of the JSON where there is none.
        id: Of the annotation or image; None where the whole file is meant or the record has no id.
        what: What is wrong, beginning in lower case and without a full stop.
        annotation: Whether the id is that of an annotation.
    """

    file: str
    id: int | None
    what: str
    annotation: bool

    def __str__(self) -> str:
        kind = "annotation" if self.annotation else "image"
        return f"{self.file}: {self.what}" if self.id is None else f"{self.file}, {kind} {self.id}: {self.what}"


class ImageSizes(Dataset):
    """For each path an error or nothing, and width and height as the image is shown.

    Args:
        paths: Of the images.
        decode: Decode the pixels; without it only headers are read.
    """

    def __init__(self, paths: list[str], decode: bool) -> None:
        self.paths = paths
        self.decode = decode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, int, int]:
        path = self.paths[index]
        try:
            width, height = (None if self.decode else _header_size(path)) or read_image(path).size
        except DataError as error:
            return str(error).removeprefix(f"{path} ").rstrip("."), 0, 0
        return "", width, height


def _header_size(path: str) -> tuple[int, int] | None:
    """Return width and height without decoding, turned as EXIF says; None if that does not work."""
    try:
        with Image.open(path) as image:
            # asking a PNG without EXIF for it would decode all of it
            turned = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except Exception:  # Pillow raises anything on broken files; read_image knows what to say of them
        return None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _box_error(box: Any, width: float, height: float) -> str:
    """Return what is wrong with a box x, y, width, height in an image of a size."""
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
    labelled = sum(v > 0 for v in keypoints[2::3])
    if annotation.get("num_keypoints", labelled) != labelled:
        return f"num_keypoints is {annotation['num_keypoints']}, but {labelled} keypoints are labelled"
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
    # other categories of the file may have none
    if split.kind == "person_keypoints" and category in split.posed_ids:
        yield _keypoints_error(annotation, len(split.keypoint_names))


def _image_problems(
    split: CocoSplit, decode: bool, workers: int
) -> Iterator[tuple[dict[str, Any], str, tuple[float, float]]]:
    """Give each image with what is wrong with it or nothing, and the width and height that its annotations mean."""
    paths = [str(split.image_path(image)) for image in split.images]
    loader = DataLoader(ImageSizes(paths, decode), batch_size=None, num_workers=workers)
    states = tqdm(loader, desc="Checking images", unit=" images", disable=len(paths) <= _FEW, leave=False)
    for image, (error, width, height) in zip(split.images, states, strict=True):
        said: tuple[Any, Any] = image.get("width"), image.get("height")
        if not all(map(_number, said)):
            yield image, error or "the JSON gives no width and height", (width, height)
        elif error or said == (width, height):
            yield image, error, said
        else:
            turned = "; is it turned by its EXIF data?" if said == (height, width) else ""
            what = f"the file has {width} x {height} pixels, the JSON says {said[0]} x {said[1]}{turned}"
            yield image, what, said


def find_problems(
    split: CocoSplit, decode: bool = True, workers: int | None = None, masks: bool | None = None
) -> list[Problem]:
    """List everything that would stop or spoil training.

    Found are images that are missing, broken, or of another size than the JSON says; annotations of images or
    categories that are not listed; boxes that are not four finite numbers, have no area, or lie more than half outside;
    masks that cannot be decoded; wrong counts of keypoints; ids that are used twice; and files without annotations.
    Gaps between category ids are no problem, nor are images without objects.

    Args:
        split: The annotations.
        decode: Decode the pixels; without it only headers are read, which finds no damage behind them.
        workers: Processes that read images; by default one per processor, at most 8, and none for few images.
        masks: Whether each object must have a mask; by default if any has one.
    """
    json = str(split.files.annotations)
    problems: list[Problem] = []
    annotations = list(split.all_annotations())
    if not annotations:
        problems.append(Problem(json, None, "it has no annotations at all", False))
    if masks is None:
        masks = any(annotation.get("segmentation") for annotation in annotations)
    for number, count in Counter(split.category_ids).items():
        if count > 1:
            problems.append(Problem(json, None, f"{count} categories have the id {number}", False))

    workers = loading_processes(workers, len(split.images))
    paths: dict[int, str] = {}
    sizes: dict[int, tuple[float, float]] = {}
    repeated = {number for number, count in Counter(image["id"] for image in split.images).items() if count > 1}
    for image, error, size in _image_problems(split, decode, workers):
        number = image["id"]
        paths[number], sizes[number] = str(split.image_path(image)), size
        errors = [error, "another image has the same id" if number in repeated else ""]
        problems += [Problem(paths[number], number, what, False) for what in errors if what]

    ids = Counter(a["id"] for a in annotations if isinstance(a.get("id"), int))
    for annotation in annotations:
        number, image_id = annotation.get("id"), annotation.get("image_id")
        file = paths.get(image_id, json) if isinstance(image_id, int) else json
        if not isinstance(number, int):
            problems.append(Problem(file, None, f"an annotation of image {image_id} has the id {number}", True))
            number = None
        elif ids[number] > 1:
            problems.append(Problem(file, number, "another annotation has the same id", True))
        if not isinstance(image_id, int) or image_id not in paths:
            problems.append(Problem(json, number, f"image {image_id} is not among the images of the file", True))
            continue
        size = sizes[image_id]
        if not all(size):  # nothing is known of an image that is missing here and has no size there
            continue
        errors = _annotation_errors(split, annotation, size, masks)
        problems += [Problem(file, number, what, True) for what in errors if what]
    return problems


def usable(
    split: CocoSplit, on_problem: OnProblem, masks: bool = False, workers: int | None = None
) -> tuple[set[int], set[int], list[str]]:
    """Say what to leave out of training, or refuse. Headers of images are read, pixels are not decoded.

    Args:
        split: The annotations.
        on_problem: "refuse" raises an error if there is any problem, "skip" leaves out what has one.
        masks: Whether each object must have a mask.
        workers: Processes that read images; see `find_problems`.

    Returns:
        Ids of annotations and of images to leave out, and sentences that say how many and why.

    Raises:
        DataError: there are problems and on_problem is "refuse", or they concern the file as a whole, or nothing is
            left.
    """
    problems = find_problems(split, decode=False, workers=workers, masks=masks)
    if not problems:
        return set(), set(), []
    whole = [problem for problem in problems if problem.id is None]
    shown = whole if on_problem == "skip" else problems
    if shown:
        first = "\n".join(map(str, shown[:10])) + (f"\n... and {len(shown) - 10} more" if len(shown) > 10 else "")
        advice = "Correct the file" + (", or leave these out with --on-problem skip" if not whole else "")
        count = "1 problem" if len(shown) == 1 else f"{len(shown)} problems"
        raise DataError(f"{split.files.annotations} has {count}:\n{first}\n{advice}; van check-data lists all.")
    annotations = {p.id for p in problems if p.annotation and p.id is not None}
    images = {p.id for p in problems if not p.annotation and p.id is not None}
    left = split.without(annotations, images)
    if not left.images or not any(True for _ in left.all_annotations()):
        raise DataError(
            f"{split.files.annotations}: nothing is left without the {len(annotations)} annotations and {len(images)} "
            f"images that have problems, the first {problems[0]}. van check-data lists all."
        )
    total = sum(1 for _ in split.all_annotations())
    note = (
        f"{split.files.annotations}: left out {len(annotations)} of {total} annotations "
        f"and {len(images)} of {len(split.images)} images that have problems, the first {problems[0]}."
    )
    return annotations, images, [note]


def usable_split(
    folder: str | Path,
    split: Split,
    on_problem: OnProblem = "refuse",
    kind: AnnotationKind = "instances",
    masks: bool = False,
    decode: bool = False,
    workers: int | None = None,
) -> tuple[CocoSplit, list[str]]:
    """Read the annotations of a split, without what cannot be used.

    Args:
        folder: In COCO's layout.
        split: "train" or "val".
        on_problem: What to do with annotations and images that cannot be used: refuse them all, or skip these.
        kind: What is annotated.
        masks: Whether each object must have a mask.
        decode: Decode every image too; without it damage behind a file's header is not found.
        workers: Processes that read images; None takes one per processor, at most 8.

    Returns:
        The split, and sentences that say what was skipped.

    Raises:
        DataError: the data cannot be read, or cannot be used and should not be skipped.
    """
    whole = CocoSplit(find_split(folder, split, kind), kind)
    annotations, images, notes = usable(whole, on_problem, masks, workers)
    kept = whole.without(annotations, images) if annotations or images else whole
    if decode and (broken := find_problems(kept, True, workers, masks)):
        text = "\n".join(map(str, broken[:10])) + (f"\n... and {len(broken) - 10} more" if len(broken) > 10 else "")
        if on_problem == "refuse":
            raise DataError(
                f"{whole.files.annotations}, every image decoded: {len(broken)} problems:\n{text}\n"
                "Replace the files, or leave these out with --on-problem skip."
            )
        kept = kept.without(image_ids={problem.id for problem in broken if problem.id is not None})
        notes = [*notes, f"{whole.files.annotations}: left out {len(broken)} images that do not decode:\n{text}"]
    if not len(kept):
        raise DataError(f"{whole.files.annotations} has no image that can be used. See van check-data {folder}.")
    return kept, notes
