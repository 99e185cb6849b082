"""From images and boxes to poses: crops, heat maps, keypoints, one pose for each person."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image

from van.data.pose import box_region, crop_matrix, cut_out
from van.engine.result import read_records
from van.errors import DataError, VanError
from van.networks.pose import average_flipped, image_keypoints, person_scores
from van.tasks.pose.results import Poses

if TYPE_CHECKING:
    from van.engine.predictor import Predictor

# COCO's standard deviations of where people see a keypoint, as shares of the person's size
COCO_SIGMAS = tuple(number / 1000 for number in (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89))

Found = tuple[np.ndarray, np.ndarray]  # boxes (N, 4) as x, y, width, height, and scores (N,)
_Box = tuple[list[float], float]  # x, y, width, height; score


# ------------------------------------------------------------------------------------------------- poses twice found


def keypoint_sigmas(count: int) -> tuple[float, ...]:
    """Return the standard deviations of keypoints: COCO's for its 17, their mean for others.

    Args:
        count: Number of keypoints.
    """
    return COCO_SIGMAS if count == len(COCO_SIGMAS) else (float(np.mean(COCO_SIGMAS)),) * count


def similarity(keypoints: np.ndarray, others: np.ndarray, area: float, areas: np.ndarray) -> np.ndarray:
    """Return how similar poses are: COCO's object keypoint similarity (OKS), 1 for the same.

    Args:
        keypoints: (K, 2 or more): x, y.
        others: (N, K, 2 or more).
        area: Area of the first person in pixels.
        areas: Areas (N,) of the others.
    """
    squared = ((others[:, :, :2] - keypoints[:, :2]) ** 2).sum(2)
    widths = (2 * np.array(keypoint_sigmas(len(keypoints)))) ** 2
    return np.exp(-squared / (widths * ((area + areas)[:, None] / 2 + 1e-9) * 2)).mean(1)


def suppress(keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, threshold: float = 0.9) -> list[int]:
    """Leave out persons that were found twice: too similar to one with a higher score.

    Args:
        keypoints: (N, K, 2 or more): x, y.
        scores: (N,).
        areas: Areas (N,) of the persons in pixels.
        threshold: Largest similarity of two persons that are kept.

    Returns:
        Indices of the persons that stay, best first.
    """
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        first, left = int(left[0]), left[1:]
        kept.append(first)
        alike = similarity(keypoints[first], keypoints[left], areas[first], areas[left])
        left = left[alike <= threshold]
    return kept


# ------------------------------------------------------------------------------------------------- keypoints


def heat_maps(predictor: "Predictor", crops: torch.Tensor) -> torch.Tensor:
    """Return heat maps (B, K, h, w) of crops (B, 3, H, W) of bytes, with flip_test averaged with the mirrored ones."""
    crops = crops.to(predictor.device)
    maps = predictor.model(crops)
    if not predictor.inference.flip_test:
        return maps
    return average_flipped(maps, predictor.model(crops.flip(3)), predictor.extra["flip_pairs"])


@torch.inference_mode()
def find_poses(predictor: "Predictor", images: Sequence[Image.Image], found: Sequence[Found | None]) -> list[Poses]:
    """Find the keypoints of persons whose boxes are known.

    Args:
        predictor: Of a pose network.
        images: RGB images.
        found: For each image boxes (N, 4) as x, y, width, height in pixels and their scores (N,); None takes the whole
            image as one person.

    Returns:
        The persons on each image.

    Raises:
        DataError: the boxes are no boxes, or there are not as many scores.
    """
    size, stride = predictor.model.input_size[1:], predictor.model.stride
    given = [_checked(boxes, image) for boxes, image in zip(found, images, strict=True)]
    places = [(k, box) for k, (boxes, _) in enumerate(given) for box in boxes]
    points = [torch.zeros(0, len(predictor.extra["keypoint_names"]), 3)]
    for start in range(0, len(places), predictor.batch_size):
        some = places[start : start + predictor.batch_size]
        matrices = [crop_matrix(*box_region(box, size), size) for _, box in some]
        crops = [cut_out(images[k], matrix, size) for (k, _), matrix in zip(some, matrices, strict=True)]
        maps = heat_maps(predictor, torch.stack(crops))
        points.append(image_keypoints(maps, torch.from_numpy(np.stack(matrices)), stride))
    split = torch.cat(points).split([len(boxes) for boxes, _ in given])
    return [
        _poses(predictor, (image.height, image.width), keypoints, boxes, one is None)
        for image, keypoints, boxes, one in zip(images, split, given, found, strict=True)
    ]


def _poses(
    predictor: "Predictor", size: tuple[int, int], keypoints: torch.Tensor, found: Found, whole_image: bool
) -> Poses:
    boxes, certain = found
    scores = person_scores(keypoints, torch.from_numpy(certain)).numpy()
    points = keypoints.numpy()
    kept = suppress(points, scores, boxes[:, 2] * boxes[:, 3], predictor.inference.oks_threshold)
    kept = kept[: predictor.inference.max_detections]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return Poses(
        class_names=predictor.class_names,
        size=size,
        keypoints=points[kept],
        scores=scores[kept],
        boxes=corners[kept],
        box_scores=np.asarray(certain)[kept],
        keypoint_names=predictor.extra["keypoint_names"],
        skeleton=predictor.extra["skeleton"],
        keypoint_threshold=predictor.inference.keypoint_threshold,
        whole_image=whole_image,
    )


def _checked(found: Found | None, image: Image.Image) -> Found:
    """Return boxes and scores as arrays; the whole image where there are none."""
    if found is None:
        return np.array([(0.0, 0.0, *image.size)]), np.ones(1)
    boxes, scores = (np.asarray(part, dtype=np.float64) for part in found)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all() or not (boxes[:, 2:] > 0).all():
        raise DataError(f"The boxes are {boxes.tolist()}, expected rows of x, y, width and height, both above 0.")
    if scores.shape != (len(boxes),):
        raise DataError(f"There are {len(boxes)} boxes and {scores.size} scores, expected the same number.")
    return boxes, scores


# ------------------------------------------------------------------------------------------------- where persons are


@dataclass
class Prepare:
    """What a loading process makes of an image: the image, its file, and what a detector takes."""

    detector: Callable[[Any], Any] | None

    def __call__(self, image: Image.Image) -> tuple[Image.Image, str, Any]:
        """Return image, path (empty where it has none) and the item of the detector."""
        return image, str(getattr(image, "filename", "")), None if self.detector is None else self.detector(image)


class KnownBoxes:
    """Boxes of persons from a JSON file, by image.

    Args:
        path: predictions.jsonl of van predict with a detector (or predictions.json of older versions), or a list in
            COCO's results format.
        predictor: Says what counts as a person.

    Raises:
        DataError: the file cannot be read, or is of another form.
    """

    def __init__(self, path: str | Path, predictor: "Predictor") -> None:
        self.path = path
        try:
            lines = Path(path).suffix.lower() == ".jsonl"
            content: Any = list(read_records(path)) if lines else json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}). Check the path.") from error
        except ValueError as error:
            raise DataError(f"{path} is not JSON ({error}). Give the detections on these images.") from error
        self._by_id: dict[Any, list[_Box]] = {}
        self._by_path: dict[str, list[_Box]] = {}
        for number, entry in enumerate(content if isinstance(content, list) else [content]):
            try:
                known, key, detections = self._by_id, cast(Any, entry).get("image_id"), [entry]
                if "image_id" not in entry:
                    known, key = self._by_path, str(Path(entry["image"]).resolve())
                    detections = entry.get("objects", [])  # none where the image could not be read
                boxes = [_box(d) for d in detections if _is_person(d, predictor)]
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path}: entry {number} is {json.dumps(entry)[:80]} ({type(error).__name__}: {error}). Expected "
                    "predictions.jsonl of van predict with a detector, or COCO's results format with image_id, "
                    "category_id, bbox and score."
                ) from error
            known.setdefault(key, []).extend(boxes)
        self._by_name = {Path(image).name: boxes for image, boxes in self._by_path.items()}

    def check(self, images: Sequence[str]) -> None:
        """Match the file with all images that are looked at: of two with the same name, the right one gets the boxes.

        Raises:
            DataError: none of the images is in the file.
        """
        if not any(self._boxes(image) is not None for image in images):
            raise DataError(f"{self.path} has none of these {len(images)} images. Compare the names.")
        for image in {str(Path(image).resolve()) for image in images} & set(self._by_path):
            self._by_name.pop(Path(image).name, None)

    def _boxes(self, image: str) -> list[_Box] | None:
        """Return the boxes of an image by its path, else its name, else its name as a number; None if it is unknown."""
        path = Path(image)
        found = self._by_path.get(str(path.resolve()), self._by_name.get(path.name))
        return self._by_id.get(int(path.stem)) if found is None and path.stem.isdecimal() else found

    def of(self, image: str) -> Found:
        """Return boxes (N, 4) as x, y, width, height and scores of the persons on an image.

        Raises:
            DataError: the image has no file name, by which boxes are found.
        """
        if not image:
            raise DataError(f"{self.path} lists boxes by file names, but this image comes from no file. Give its path.")
        found = self._boxes(image) or []
        return np.array([box for box, _ in found]).reshape(-1, 4), np.array([score for _, score in found])


def _is_person(detection: dict[str, Any], predictor: "Predictor") -> bool:
    if "class" in detection:
        return detection["class"] == predictor.class_names[0]
    return detection["category_id"] in predictor.extra["category_ids"]


def _box(detection: dict[str, Any]) -> _Box:
    """Return box and score of a detection; a ValueError says what is wrong with them."""
    box, score = [float(value) for value in detection["bbox"]], float(detection["score"])
    if len(box) != 4 or not all(map(math.isfinite, (*box, score))) or min(box[2:]) <= 0:
        raise ValueError(f"box {box} with score {score}")
    return box, score


def open_detector(weights: str, predictor: "Predictor") -> "Predictor":
    """Return the network that finds the persons for a pose network.

    Args:
        weights: Of any task whose results have boxes, labels and scores.
        predictor: Of the pose network.

    Raises:
        VanError: the weights are of another task, or do not know what the poses are of.
    """
    from van.engine.api import get_task, header_of, load

    header = header_of(weights)
    task, person = get_task(header.task), predictor.class_names[0]
    if not {"boxes", "labels", "scores"} <= {field.name for field in fields(task.result)}:
        raise VanError(f"{weights} is for the task {task}, which finds no boxes. Give weights of a detector.")
    # the same engine computes both networks, unless one of them is an exported file
    asked: dict[str, Any] = {} if header.export else dict(predictor.asked)
    if predictor.inference.slice is not None:
        asked |= {"slice": predictor.inference.slice, "overlap": predictor.inference.overlap}
    if predictor.inference.iou is not None:
        asked["iou"] = predictor.inference.iou
    detector = load(weights, str(predictor.device), predictor.batch_size, **asked, score_threshold=0.0)
    if person not in detector.class_names:
        raise VanError(
            f"The detector {weights} finds {', '.join(detector.class_names[:10])}, but the poses are those of "
            f"{person!r}. Give a detector that finds these."
        )
    return detector


def persons_of(result: Any, name: str) -> Found:
    """Return boxes (N, 4) as x, y, width, height and scores of the objects of a class in a detector's result."""
    chosen = result.labels == list(result.class_names).index(name)
    boxes = result.boxes[chosen].astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes, result.scores[chosen].astype(float)
