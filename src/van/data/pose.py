"""Crops of persons for pose estimation: boxes, crops, random changes. Data in COCO's format."""

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
from van.data.coco import CocoSplit
from van.data.coco_checks import usable_split
from van.data.folders import OnBadImage
from van.data.images import read_image
from van.data.transforms import crop_transform
from van.errors import DataError

PADDING = 1.25  # how much larger than the box a crop is (Xiao et al. 2018)
_HALF_BODY_PADDING = 1.5
_HALF_BODY_FROM = 8  # persons with no more visible keypoints than this are not cut in half
_LOWER = ("hip", "knee", "ankle", "foot", "heel", "toe")


@dataclass(frozen=True)
class Person:
    """A person to crop.

    Attributes:
        image_id: Id of the image.
        category_id: Id of the category in the annotation file.
        box: x, y, width, height in pixels of the image.
        score: Confidence of the detector; 1 for annotated boxes.
        keypoints: (K, 3): x, y, visibility; zeros for unknown keypoints.
    """

    image_id: int
    category_id: int
    box: tuple[float, float, float, float]
    score: float
    keypoints: np.ndarray


def box_region(
    box: Sequence[float], size: tuple[int, int], padding: float = PADDING
) -> tuple[tuple[float, float], float]:
    """Extend a box to the aspect ratio of the crop and pad it.

    Args:
        box: x, y, width, height in pixels.
        size: Height and width of the crop.
        padding: Factor by which the region is larger than the box.

    Returns:
        Center (x, y) in pixels, and the width of the region; its height follows from the size of the crop.
    """
    x, y, width, height = box
    aspect = size[1] / size[0]
    return (x + (width - 1) / 2, y + (height - 1) / 2), padding * max(width, height * aspect)


def crop_matrix(
    center: tuple[float, float], width: float, size: tuple[int, int], angle: float = 0.0, flipped: bool = False
) -> np.ndarray:
    """Return the affine map from pixels of the crop to pixels of the image.

    Pixel coordinates are integers at pixel centers.

    Args:
        center: Point of the image at the center of the crop.
        width: Width of the crop in pixels of the image.
        size: Height and width of the crop.
        angle: Clockwise rotation of the crop on the image in degrees.
        flipped: Whether the crop is flipped horizontally.

    Returns:
        (2, 3) in float64.
    """
    scale = width / size[1]
    cos, sin = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    side = -1.0 if flipped else 1.0
    linear = np.array([[cos * side, -sin], [sin * side, cos]])
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.concatenate([linear, (np.array(center) - linear @ middle)[:, None]], axis=1)


def invert(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of an affine map (2, 3)."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate([linear, -(linear @ matrix[:, 2])[:, None]], axis=1)


def move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply an affine map (2, 3) to points (N, 2 or more); further columns are kept."""
    moved = points[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([moved, points[:, 2:]], axis=1)


def cut_out(image: Image.Image, matrix: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Crop an image; what lies outside of the image is black.

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
    # Pillow has pixel centers at half-integers
    data = (a, b, c + 0.5 * (1 - a - b), d, e, f + 0.5 * (1 - d - e))
    crop = image.transform((size[1], size[0]), Image.Transform.AFFINE, data, resample=Image.Resampling.BILINEAR)
    return pil_to_tensor(crop)


def half_body(
    keypoints: np.ndarray, names: Sequence[str], size: tuple[int, int], upper: float = 0.5
) -> tuple[tuple[float, float], float] | None:
    """Choose the upper or the lower half of a person at random.

    Args:
        keypoints: (K, 3): x, y, visibility.
        names: Names of the keypoints, which tell those of the lower half: hips, knees, ankles, feet.
        size: Height and width of the crop.
        upper: Probability of the upper half, where both have three visible keypoints.

    Returns:
        Center and width of the region around one half, as in box_region; None if fewer than two of its keypoints are
        visible.
    """
    lower = np.array([any(word in name.lower() for word in _LOWER) for name in names])
    seen = keypoints[:, 2] > 0
    halves = [seen & ~lower, seen & lower]
    if float(torch.rand(())) >= upper:
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
    """Crops of persons.

    An item is a dict: image (3, H, W) uint8; keypoints (K, 3) in pixels of the crop with visibility; matrix (2, 3) from
    pixels of the crop to those of the image; image_id, category_id, score and index, the position of the person.

    Args:
        split: The images.
        persons: The persons to crop.
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
        self.boxes = None if boxes is None else str(boxes)
        self.names = split.keypoint_names
        self.transform = None if augmentation is None else augmentation.transform(self.names, self.size)
        self.pixels = None if augmentation is None else crop_transform(augmentation)
        self.order = np.arange(len(self.names))
        for left, right in split.flip_pairs:
            self.order[[left, right]] = right, left
        self.paths = {image["id"]: split.image_path(image) for image in split.images}
        self._last: tuple[int, Image.Image] | None = None

    def name(self, index: int) -> str:
        """Return the path of a person's image."""
        return str(self.paths[self.persons[index].image_id])

    def __len__(self) -> int:
        return len(self.persons)

    def _image(self, image_id: int) -> Image.Image:
        if self._last is None or self._last[0] != image_id:  # in evaluation, persons of the same image are adjacent
            self._last = image_id, read_image(self.paths[image_id])
        return self._last[1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the crop of a person.

        Raises:
            DataError: the image cannot be decoded.
        """
        person = self.persons[index]
        center, width = box_region(person.box, self.size)
        keypoints, angle, flipped = person.keypoints, 0.0, False
        if self.transform is not None:
            center, width, angle, flipped = self.transform(person.keypoints, center, width)
        matrix = crop_matrix(center, width, self.size, angle, flipped)
        keypoints = move(keypoints, invert(matrix))
        image = cut_out(self._image(person.image_id), matrix, self.size)
        points = torch.from_numpy(keypoints[self.order] if flipped else keypoints).float()
        if self.pixels is not None:
            image, points = self.pixels(image, points)
        return {
            "image": image,
            "keypoints": points,
            "matrix": torch.from_numpy(matrix).float(),
            "image_id": person.image_id,
            "category_id": person.category_id,
            "score": person.score,
            "index": index,
        }


class RandomRegion:
    """Random changes of the region that is cropped; see PoseAugmentation.

    Args:
        options: The random changes.
        names: Names of the keypoints.
        size: Height and width of the crops.
    """

    def __init__(self, options: PoseAugmentation, names: Sequence[str], size: tuple[int, int]) -> None:
        self.options = options
        self.names = list(names)
        self.size = size

    def __call__(
        self, keypoints: np.ndarray, center: tuple[float, float], width: float
    ) -> tuple[tuple[float, float], float, float, bool]:
        """Draw center and width of the region, its rotation in degrees, and whether it is flipped.

        Args:
            keypoints: (K, 3): x, y, visibility.
            center: Center (x, y) of the region before.
            width: Width of the region before.
        """
        options = self.options
        chances = torch.rand(3).tolist()
        noise = torch.randn(2).tolist()
        if options.shift_probability and float(torch.rand(())) < options.shift_probability:
            x, y = (2 * torch.rand(2) - 1).tolist()
            height = width * self.size[0] / self.size[1]
            center = (center[0] + x * options.shift * width, center[1] + y * options.shift * height)
        if (keypoints[:, 2] > 0).sum() > _HALF_BODY_FROM and chances[0] < options.half_body:
            center, width = half_body(keypoints, self.names, self.size, options.upper_half) or (center, width)
        width *= min(max(1 + options.scale * noise[0], 1 - options.scale), 1 + options.scale)
        limit = 2 * options.rotation
        rotated = chances[1] < options.rotation_probability
        angle = min(max(options.rotation * noise[1], -limit), limit) if rotated else 0.0
        return center, width, angle, chances[2] < options.hflip


def annotated_persons(split: CocoSplit) -> list[Person]:
    """Return the annotated persons with at least one labeled keypoint, image by image.

    Args:
        split: Annotations of the kind person_keypoints.

    Raises:
        DataError: there are none, or one has a different number of keypoints.
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
        raise DataError(
            f"{split.files.annotations} has no person with labeled keypoints. Give annotations with keypoints."
        )
    return persons


def detected_persons(split: CocoSplit, path: str | Path, score_threshold: float = 0.0) -> list[Person]:
    """Return the persons that a detector found, image by image.

    Args:
        split: The images, and the categories that have keypoints.
        path: COCO's results JSON: a list of objects with image_id, category_id, bbox (x, y, width, height) and score.
        score_threshold: Boxes with a lower score are left out.

    Raises:
        DataError: the file is of another kind, belongs to other images, or has no person.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check the path.") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}). Give detections in COCO's results format.") from error
    needed = ("image_id", "category_id", "bbox", "score")
    if not isinstance(found, list) or not all(isinstance(d, dict) and all(k in d for k in needed) for d in found):
        raise DataError(f"{path} is not in COCO's results format, expected a list of objects with {', '.join(needed)}.")
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
                "Give the detections on these images."
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
            f"{score_threshold}. Lower the score threshold, or give other detections."
        )
    return sorted(persons, key=lambda person: person.image_id)


def _inside(box: Sequence[float], image: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """Return a box (x, y, width, height) clipped to the image; None if nothing is left."""
    x, y = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = (
        min(image.get("width", math.inf), box[0] + box[2]),
        min(image.get("height", math.inf), box[1] + box[3]),
    )
    return (x, y, right - x, bottom - y) if right > x and bottom > y else None


def open_persons(
    split: CocoSplit,
    size: Sequence[int],
    augmentation: PoseAugmentation | None = None,
    on_bad_image: OnBadImage = "error",
    boxes: str | Path | None = None,
    score_threshold: float = 0.0,
    decode: bool = False,
    workers: int | None = None,
) -> tuple[PoseDataset, list[str]]:
    """Open a split of a data set.

    Args:
        split: Annotations with keypoints; see van.data.labels.open_labels.
        size: Height and width of the crops.
        augmentation: Random changes; None for none.
        on_bad_image: What to do about annotations and images that cannot be used: error refuses them, skip leaves
            them out.
        boxes: Detections in COCO's results format; None takes the annotated boxes.
        score_threshold: Detected boxes with a lower score are left out.
        decode: Decode every image; otherwise damage behind a file's header is not found.
        workers: Loading processes of these checks; None takes one per processor, at most 8, and none for few images.

    Returns:
        The persons, without what cannot be used, and notes that say what was skipped.

    Raises:
        DataError: the data cannot be used.
    """
    kept, notes = usable_split(split, on_bad_image, decode=decode, workers=workers)
    persons = annotated_persons(kept) if boxes is None else detected_persons(kept, boxes, score_threshold)
    return PoseDataset(kept, persons, size, augmentation, boxes), notes
