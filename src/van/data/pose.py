"""Crops of persons for pose estimation: boxes, crops, random changes. Data in COCO format."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from van.data.augmentation import PoseAugmentation
from van.data.coco import CocoSplit, Split
from van.data.coco_checks import OnProblem, usable_split
from van.data.images import read_image
from van.errors import DataError

PADDING = 1.25  # of Xiao et al.: how much larger than the box the crop is
_HALF_BODY_PADDING = 1.5
_HALF_BODY_FROM = 8  # a person with no more visible keypoints than this is not cut in half
_LOWER = ("hip", "knee", "ankle", "foot", "heel", "toe")


@dataclass(frozen=True)
class Person:
    """A person to cut out.

    Attributes:
        image_id: Number of the image.
        category_id: Number of the category in the annotation file.
        box: x, y, width, height in pixels of the image.
        score: Confidence of the detector; 1 for boxes of the annotation file.
        keypoints: (K, 3): x, y, visibility; zeros where nothing is known.
    """

    image_id: int
    category_id: int
    box: tuple[float, float, float, float]
    score: float
    keypoints: np.ndarray


def box_region(
    box: Sequence[float], size: tuple[int, int], padding: float = PADDING
) -> tuple[tuple[float, float], float]:
    """Grow a box to the shape of the crop and pad it.

    Args:
        box: x, y, width, height in pixels.
        size: Height and width of the crop.
        padding: How many times as large the region is.

    Returns:
        Centre (x, y) as pixel numbers, and the width of the region; its height follows from the crop's shape.
    """
    x, y, width, height = box
    aspect = size[1] / size[0]
    return (x + (width - 1) / 2, y + (height - 1) / 2), padding * max(width, height * aspect)


def crop_matrix(
    centre: tuple[float, float], width: float, size: tuple[int, int], angle: float = 0.0, mirrored: bool = False
) -> np.ndarray:
    """Return the affine map from pixels of the crop to pixels of the image.

    Pixels are numbered from 0 at their centres.

    Args:
        centre: Pixel of the image that the middle of the crop shows.
        width: Pixels of the image that the width of the crop spans.
        size: Height and width of the crop.
        angle: Degrees by which the crop is turned clockwise on the image.
        mirrored: Whether the crop is mirrored left to right.

    Returns:
        (2, 3) in float64.
    """
    scale = width / size[1]
    cos, sin = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    side = -1.0 if mirrored else 1.0
    linear = np.array([[cos * side, -sin], [sin * side, cos]])
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.concatenate([linear, (np.array(centre) - linear @ middle)[:, None]], axis=1)


def invert(matrix: np.ndarray) -> np.ndarray:
    """Return the affine map (2, 3) that undoes another."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate([linear, -(linear @ matrix[:, 2])[:, None]], axis=1)


def move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply an affine map (2, 3) to points (N, 2 or more); further columns stay."""
    moved = points[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([moved, points[:, 2:]], axis=1)


def cut_out(image: Image.Image, matrix: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Cut a crop out of an image, black where it leaves the image.

    Args:
        image: RGB image.
        matrix: See crop_matrix.
        size: Height and width of the crop.

    Returns:
        (3, H, W) in uint8.
    """
    shrink = int(math.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if shrink > 1:  # bilinear sampling alone would skip pixels
        image = image.reduce(shrink)
        matrix = np.concatenate([matrix[:, :2], matrix[:, 2:] - (shrink - 1) / 2], axis=1) / shrink
    (a, b, c), (d, e, f) = matrix.tolist()
    # Pillow's coordinates have the pixels' centres at halves
    data = (a, b, c + 0.5 * (1 - a - b), d, e, f + 0.5 * (1 - d - e))
    crop = image.transform((size[1], size[0]), Image.Transform.AFFINE, data, resample=Image.Resampling.BILINEAR)
    return pil_to_tensor(crop)


def half_body(
    keypoints: np.ndarray, names: Sequence[str], size: tuple[int, int]
) -> tuple[tuple[float, float], float] | None:
    """Choose the upper or the lower half of a person at random.

    Args:
        keypoints: (K, 3): x, y, visibility.
        names: Names of the keypoints; hips and what is below them by name make up the lower half.
        size: Height and width of the crop.

    Returns:
        Centre and width of the region around one half, as box_region gives them; None where fewer than two of its
        keypoints are visible.
    """
    lower = np.array([any(word in name.lower() for word in _LOWER) for name in names])
    seen = keypoints[:, 2] > 0
    halves = [seen & ~lower, seen & lower]
    if float(torch.rand(())) < 0.5:
        halves.reverse()
    chosen = next((half for half in halves if half.sum() > 2), halves[0])
    if chosen.sum() < 2:
        return None
    points = keypoints[chosen, :2]
    low, high = points.min(axis=0), points.max(axis=0)
    extent = np.maximum(high - low, 1.0)
    _, width = box_region((0.0, 0.0, extent[0], extent[1]), size, _HALF_BODY_PADDING)
    x, y = points.mean(axis=0)
    return (float(x), float(y)), width


class PoseDataset(Dataset):
    """Persons as crops.

    An item is a dict: image (3, H, W) uint8; keypoints (K, 3) in pixels of the crop with visibility; matrix (2, 3) from
    pixels of the crop to those of the image; image_id, category_id, score and index, the number of the person.

    Args:
        split: The images.
        persons: Whom to cut out.
        size: Height and width of the crops.
        augmentation: Random changes; None for none.
        boxes: File that the persons' boxes are from; None for the annotation file.
    """

    def __init__(
        self,
        split: CocoSplit,
        persons: Sequence[Person],
        size: Sequence[int],
        augmentation: PoseAugmentation | None = None,
        boxes: str | Path | None = None,
    ) -> None:
        self.split = split
        self.persons = list(persons)
        self.size = (size[0], size[1])
        self.augmentation = augmentation
        self.boxes = None if boxes is None else str(boxes)
        self.names = split.keypoint_names
        self.order = np.arange(len(self.names))
        for left, right in split.flip_pairs:
            self.order[[left, right]] = right, left
        self.paths = {image["id"]: split.image_path(image) for image in split.images}
        self._last: tuple[int, Image.Image] | None = None

    def __len__(self) -> int:
        return len(self.persons)

    def _image(self, image_id: int) -> Image.Image:
        if self._last is None or self._last[0] != image_id:  # persons of one image follow each other in evaluation
            self._last = image_id, read_image(self.paths[image_id])
        return self._last[1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a person.

        Raises:
            DataError: the image cannot be decoded.
        """
        person = self.persons[index]
        centre, width = box_region(person.box, self.size)
        keypoints, angle, mirrored = person.keypoints, 0.0, False
        if self.augmentation is not None:
            centre, width, angle, mirrored = self._change(self.augmentation, person, centre, width)
        matrix = crop_matrix(centre, width, self.size, angle, mirrored)
        keypoints = move(keypoints, invert(matrix))
        return {
            "image": cut_out(self._image(person.image_id), matrix, self.size),
            "keypoints": torch.from_numpy(keypoints[self.order] if mirrored else keypoints).float(),
            "matrix": torch.from_numpy(matrix).float(),
            "image_id": person.image_id,
            "category_id": person.category_id,
            "score": person.score,
            "index": index,
        }

    def _change(
        self, options: PoseAugmentation, person: Person, centre: tuple[float, float], width: float
    ) -> tuple[tuple[float, float], float, float, bool]:
        """Return centre and width of the region, angle and whether it is mirrored, all at random."""
        chances = torch.rand(3).tolist()
        noise = torch.randn(2).tolist()
        if (person.keypoints[:, 2] > 0).sum() > _HALF_BODY_FROM and chances[0] < options.half_body:
            centre, width = half_body(person.keypoints, self.names, self.size) or (centre, width)
        width *= min(max(1 + options.scale * noise[0], 1 - options.scale), 1 + options.scale)
        limit = 2 * options.rotation
        angle = min(max(options.rotation * noise[1], -limit), limit) if chances[1] < options.rotated else 0.0
        return centre, width, angle, chances[2] < options.hflip


def annotated_persons(split: CocoSplit) -> list[Person]:
    """Return the persons of an annotation file that have at least one labelled keypoint, image by image.

    Args:
        split: Annotations of the kind person_keypoints.

    Raises:
        DataError: there are none, or one has another number of keypoints.
    """
    persons = []
    for image in split.images:
        for annotation in split.annotations(image["id"]):
            numbers = annotation.get("keypoints") or []
            if annotation.get("iscrowd") or not any(v > 0 for v in numbers[2::3]):
                continue
            if len(numbers) != 3 * len(split.keypoint_names):
                raise DataError(
                    f"{split.files.annotations}: annotation {annotation.get('id')} has {len(numbers)} numbers for "
                    f"{len(split.keypoint_names)} keypoints, expected three each. van check-data lists all of these."
                )
            if box := _inside(annotation["bbox"], image):
                keypoints = np.array(numbers, dtype=np.float64).reshape(-1, 3)
                persons.append(Person(image["id"], annotation["category_id"], box, 1.0, keypoints))
    if not persons:
        raise DataError(f"{split.files.annotations} has no person with keypoints. Give keypoint annotations.")
    return persons


def detected_persons(split: CocoSplit, path: str | Path, score_threshold: float = 0.0) -> list[Person]:
    """Return the persons that a detector found, image by image.

    Args:
        split: The images, and the categories that have keypoints.
        path: COCO's results JSON: a list of objects with image_id, category_id, bbox (x, y, width, height) and score.
        score_threshold: Boxes with a lower score are left out.

    Raises:
        DataError: the file is another one, belongs to other images, or holds no person.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check the path.") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}). Give the results JSON of a detector.") from error
    needed = ("image_id", "category_id", "bbox", "score")
    if not isinstance(found, list) or not all(isinstance(d, dict) and all(k in d for k in needed) for d in found):
        raise DataError(f"{path} is no results JSON, expected a list of objects with {', '.join(needed)}.")
    images = {image["id"]: image for image in split.images}
    wanted = {category["id"] for category in split.categories if category.get("keypoints")}
    empty = np.zeros((len(split.keypoint_names), 3))
    persons = []
    for number, detection in enumerate(found):
        if detection["category_id"] not in wanted or not detection["score"] >= score_threshold:
            continue
        image_id = detection["image_id"]
        if image_id not in images:
            raise DataError(
                f"{path}: detection {number} is on image {image_id}, which {split.files.annotations} does not have. "
                "Give the detections of these images."
            )
        if len(detection["bbox"]) != 4 or not all(map(math.isfinite, (*detection["bbox"], detection["score"]))):
            raise DataError(
                f"{path}: detection {number} has box {detection['bbox']} and score {detection['score']}, expected four "
                "finite numbers and one."
            )
        if box := _inside(detection["bbox"], images[image_id]):
            persons.append(Person(image_id, detection["category_id"], box, float(detection["score"]), empty))
    if not persons:
        raise DataError(
            f"{path} has no box of category {', '.join(map(str, sorted(wanted)))} with a score of at least "
            f"{score_threshold}. Lower score_threshold, or give other detections."
        )
    return sorted(persons, key=lambda person: person.image_id)


def _inside(box: Sequence[float], image: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """Return the part of a box (x, y, width, height) that is on the image; None where there is none."""
    x, y = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = (
        min(image.get("width", math.inf), box[0] + box[2]),
        min(image.get("height", math.inf), box[1] + box[3]),
    )
    return (x, y, right - x, bottom - y) if right > x and bottom > y else None


def open_persons(
    folder: str | Path,
    split: Split,
    size: Sequence[int],
    augmentation: PoseAugmentation | None = None,
    on_problem: OnProblem = "refuse",
    boxes: str | Path | None = None,
    score_threshold: float = 0.0,
    decode: bool = False,
    workers: int | None = None,
) -> tuple[PoseDataset, list[str]]:
    """Open a split of a data set.

    Args:
        folder: See van.data.coco.find_split.
        split: "train" or "val".
        size: Height and width of the crops.
        augmentation: Random changes; None for none.
        on_problem: What to do about annotations and images that cannot be used: refuse them all, or skip these.
        boxes: Detections in COCO's results format; None takes the annotated boxes.
        score_threshold: Detected boxes with a lower score are left out.
        decode: Decode every image too; without it damage behind a file's header is not found.
        workers: Processes that read images; None takes one per processor, at most 8.

    Returns:
        The persons, without what cannot be used, and sentences that say what was skipped.

    Raises:
        DataError: the data cannot be used.
    """
    kept, notes = usable_split(folder, split, on_problem, "person_keypoints", decode=decode, workers=workers)
    persons = annotated_persons(kept) if boxes is None else detected_persons(kept, boxes, score_threshold)
    return PoseDataset(kept, persons, size, augmentation, boxes), notes
