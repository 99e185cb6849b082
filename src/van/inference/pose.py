"""Find keypoints of persons with a trained pose network."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from van.data.images import ImageLike, read_image
from van.data.pose import box_region, crop_matrix, cut_out
from van.errors import DataError, VanError, WeightsError
from van.models.task_weights import read_task_weights
from van.networks.pose import SimpleBaseline, average_flipped, coco_results, image_keypoints, person_scores
from van.networks.registry import from_dict

# COCO's standard deviations of where people see a keypoint, as shares of the person's size
COCO_SIGMAS = tuple(number / 1000 for number in (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89))


def keypoint_sigmas(count: int) -> tuple[float, ...]:
    """Return the standard deviations of keypoints: COCO's for its 17, their mean for others.

    Args:
        count: Number of keypoints.
    """
    return COCO_SIGMAS if count == len(COCO_SIGMAS) else (float(np.mean(COCO_SIGMAS)),) * count


def similarity(keypoints: np.ndarray, others: np.ndarray, area: float, areas: np.ndarray) -> np.ndarray:
    """Return how alike poses are: COCO's object keypoint similarity, 1 for the same.

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
        Numbers of the persons that stay, best first.
    """
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        first, left = int(left[0]), left[1:]
        kept.append(first)
        alike = similarity(keypoints[first], keypoints[left], areas[first], areas[left])
        left = left[alike <= threshold]
    return kept


@dataclass
class Pose:
    """A person.

    Attributes:
        keypoints: (K, 3): x, y in pixels of the image, confidence.
        score: How certain the person is: the box's score times the mean of the confident keypoints.
        box: x, y, width, height that was given.
    """

    keypoints: np.ndarray
    score: float
    box: tuple[float, float, float, float]


class PosePredictor:
    """A trained pose network with everything that its weight file says.

    Args:
        weights: Weight file or run folder of van train --task pose.
        device: Where to compute; None takes a GPU if there is one.
        batch_size: Crops per batch.
        flip_test: Whether the heat maps are averaged with those of the mirrored crop.

    Attributes:
        model: The network in evaluation mode.
        size: Height and width of the crops.
        keypoint_names: Name of each keypoint.
        flip_pairs: Numbers of the keypoints that change places in a mirror.
        skeleton: Pairs of keypoints that are joined.
        class_name: What is called a person here.
        category_ids: Numbers of the categories of the training data that have keypoints.

    Raises:
        WeightsError: the file is missing, damaged, or for another task.
        VanError: the device cannot be used.
    """

    def __init__(
        self,
        weights: str | Path,
        device: torch.device | str | None = None,
        batch_size: int = 32,
        flip_test: bool = True,
    ) -> None:
        if batch_size < 1:
            raise VanError(f"batch_size is {batch_size}, expected at least 1.")
        content = read_task_weights(weights)
        if content.task != "pose":
            raise WeightsError(f"{weights} is for the task {content.task!r}. Give weights of van train --task pose.")
        options = from_dict("pose", content.model)
        self.keypoint_names: list[str] = content.extra["keypoint_names"]
        self.flip_pairs = [(left, right) for left, right in content.extra["flip_pairs"]]
        self.skeleton = [(start, end) for start, end in content.extra["skeleton"]]
        self.category_ids: list[int] = content.extra["category_ids"]
        self.class_name = content.class_names[0]
        model = cast(SimpleBaseline, options.build(len(self.keypoint_names)))
        try:
            model.load_state_dict(content.tensors)
        except RuntimeError as error:
            raise WeightsError(f"{weights} does not hold what its options describe: {error}") from error
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self.model = model.to(memory_format=torch.channels_last).to(self.device).eval()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).strip().split("\n")[0]
            raise VanError(f"The device {str(device)!r} cannot be used here ({reason}). Try cpu.") from error
        self.size = (model.input_size[1], model.input_size[2])
        self.batch_size = batch_size
        self.flip_test = flip_test

    @torch.inference_mode()
    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Map crops (B, 3, H, W), uint8 or from 0 to 1, to heat maps (B, K, h, w)."""
        images = images.to(self.device)
        maps = self.model(images)
        return average_flipped(maps, self.model(images.flip(3)), self.flip_pairs) if self.flip_test else maps

    def results(self, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield what COCO's results JSON says of each person.

        Args:
            batches: Of a PoseDataset.
        """
        for batch in batches:
            yield from coco_results(self.maps(batch["image"]), batch, self.model.stride)

    def __call__(
        self, image: ImageLike, boxes: Any = None, scores: Sequence[float] | None = None, duplicates: float = 0.9
    ) -> list[Pose]:
        """Find the keypoints of the persons on an image.

        Args:
            image: A path, bytes, an open file, a PIL image, an array (H, W[, C]) or tensor (C, H, W).
            boxes: Where persons are: (N, 4) of x, y, width, height in pixels; None for one that fills the image.
            scores: How certain each box is; None for 1.
            duplicates: Persons more similar than this to a better one are left out.

        Returns:
            The persons, best first.

        Raises:
            DataError: the image cannot be decoded, or the boxes are no boxes.
        """
        picture = read_image(image)
        given = np.array([(0, 0, *picture.size)] if boxes is None else boxes, dtype=np.float64)
        if given.size == 0:
            return []
        if given.ndim != 2 or given.shape[1] != 4 or not np.isfinite(given).all() or not (given[:, 2:] > 0).all():
            raise DataError(
                f"The boxes are {given.tolist()}, expected rows of x, y, width and height, the last two above 0."
            )
        certain = np.ones(len(given)) if scores is None else np.array(scores, dtype=np.float64)
        if certain.shape != (len(given),):
            raise DataError(f"There are {len(given)} boxes and {certain.size} scores, expected as many.")
        found = []
        for start in range(0, len(given), self.batch_size):
            part = given[start : start + self.batch_size]
            matrices = [crop_matrix(*box_region(box, self.size), self.size) for box in part]
            maps = self.maps(torch.stack([cut_out(picture, matrix, self.size) for matrix in matrices]))
            found.append(image_keypoints(maps, torch.from_numpy(np.stack(matrices)), self.model.stride))
        keypoints = torch.cat(found)
        total = person_scores(keypoints, torch.from_numpy(certain)).numpy()
        points = keypoints.numpy()
        return [
            Pose(points[i], float(total[i]), (*given[i].tolist(),))
            for i in suppress(points, total, given[:, 2] * given[:, 3], duplicates)
        ]
