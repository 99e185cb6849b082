"""Find objects on images with trained weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from van.data.coco import mask_functions
from van.data.images import ImageLike
from van.errors import DataError, VanError, WeightsError
from van.heads.detection import build_detector
from van.heads.detection.options import DetectorOptions
from van.inference.files import ImageFiles, one_or_several, results_in_order
from van.models.task_weights import TaskWeights, read_task_weights

TASKS = ("detection", "instances")
_MASK_THRESHOLD = 0.5


@dataclass
class Detections:
    """What was found on one image, the best first.

    Attributes:
        size: Height and width of the image in pixels.
        boxes: Corners x1, y1, x2, y2 in pixels, shape (N, 4).
        labels: Class numbers, shape (N,).
        scores: From 0 to 1, shape (N,).
        masks: Which pixels belong to each, bool, shape (N, H, W); None where the detector has no masks.
    """

    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> "Detections":
        """Return those with at least this score."""
        keep = self.scores >= threshold
        masks = None if self.masks is None else self.masks[keep]
        return Detections(self.size, self.boxes[keep], self.labels[keep], self.scores[keep], masks)

    def results(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Return them in COCO's results format.

        Args:
            image_id: Of the image.
            category_ids: Of each label.
        """
        boxes = self.boxes.astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        results: list[dict[str, Any]] = [
            {
                "image_id": int(image_id),
                "category_id": int(category_ids[label]),
                "bbox": [round(value, 2) for value in box],
                "score": round(score, 5),
            }
            for label, box, score in zip(self.labels.tolist(), boxes.tolist(), self.scores.tolist(), strict=True)
        ]
        if self.masks is not None:
            for result, code in zip(results, encode_masks(self.masks), strict=True):
                result["segmentation"] = code
        return results


def encode_masks(masks: np.ndarray) -> list[dict[str, Any]]:
    """Return COCO's compressed RLE of each mask, in the form that JSON takes.

    Args:
        masks: Of shape (N, H, W).
    """
    if not len(masks):
        return []
    codes = mask_functions().encode(np.asfortranarray(masks.astype(np.uint8, copy=False).transpose(1, 2, 0)))
    return [
        {
            "size": [int(side) for side in code["size"]],
            "counts": code["counts"].decode() if isinstance(code["counts"], bytes) else code["counts"],
        }
        for code in codes
    ]


def detections_of(output: dict[str, torch.Tensor], size: tuple[int, int]) -> Detections:
    """Return what a detector gave for one image.

    Args:
        output: boxes (N, 4), labels (N,), scores (N,) and perhaps masks (N, 1, H, W) with probabilities.
        size: Height and width of the image.
    """
    scores, order = output["scores"].float().sort(descending=True, stable=True)
    masks = output.get("masks")
    return Detections(
        (int(size[0]), int(size[1])),
        output["boxes"].float()[order].cpu().numpy(),
        output["labels"][order].cpu().numpy(),
        scores.cpu().numpy(),
        None if masks is None else (masks[order, 0] >= _MASK_THRESHOLD).cpu().numpy(),
    )


class DetectionPredictor:
    """A trained detector with everything that its weight file says.

    Args:
        weights: File that `van train --task detection` or `--task instances` wrote, or a run folder with one.
        device: Where to compute; None takes a GPU if there is one.
        batch_size: Images per batch.
        score_threshold: Detections with a smaller score are left out.

    Attributes:
        model: The detector, in evaluation mode.
        class_names: Names in the order of the labels.
        category_ids: Ids of the classes in the data that it was trained on.
        task: "detection" or "instances".

    Raises:
        WeightsError: the file cannot be read, is for another task, or does not fit.
        VanError: the device does not exist, or a number is out of range.
    """

    def __init__(
        self,
        weights: str | Path | TaskWeights,
        device: str | None = None,
        batch_size: int = 8,
        score_threshold: float = 0.5,
    ) -> None:
        if not 0 <= score_threshold <= 1:
            raise VanError(f"The score threshold is {score_threshold}, expected a number from 0 to 1.")
        if batch_size < 1:
            raise VanError(f"batch_size is {batch_size}, expected at least 1.")
        read = weights if isinstance(weights, TaskWeights) else read_task_weights(weights)
        if read.task not in TASKS:
            raise WeightsError(f"{weights} is for the task {read.task!r}, expected {' or '.join(TASKS)}.")
        try:
            options = DetectorOptions(**read.model)
        except TypeError as error:
            raise WeightsError(f"The options in {weights} are not those of a detector ({error}).") from error
        self.task = read.task
        self.class_names = list(read.class_names)
        self.category_ids = [int(i) for i in read.extra.get("category_ids", range(1, len(self.class_names) + 1))]
        self.batch_size = batch_size
        self.score_threshold = score_threshold
        model = build_detector(options, len(self.class_names))
        try:
            model.load_state_dict(read.tensors)
        except RuntimeError as error:
            raise WeightsError(f"The weights do not fit the detector that they name: {error}") from error
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self.model = model.to(self.device).eval()
        except (RuntimeError, AssertionError) as error:
            raise VanError(f"The device {device!r} cannot be used here: {error}") from error

    @torch.inference_mode()
    def detect(self, images: Sequence[torch.Tensor]) -> list[Detections]:
        """Find objects on a batch.

        Args:
            images: Tensors (3, H, W) of uint8, or floating point from 0 to 1, of any sizes.
        """
        outputs = self.model([image.to(self.device) for image in images])
        return [
            detections_of(cast(Any, output), (image.shape[-2], image.shape[-1])).above(self.score_threshold)
            for image, output in zip(images, outputs, strict=True)
        ]

    def stream(self, images: Sequence[ImageLike], workers: int = 0) -> Iterator[Detections | DataError]:
        """Yield what is on each image in order, or the error where one cannot be decoded.

        Args:
            images: As in calling the predictor.
            workers: Processes that decode; 0 decodes in this one.
        """
        return results_in_order(self.detect, ImageFiles(images, functional.pil_to_tensor), self.batch_size, workers)

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Any:
        """Find objects on one image or several.

        Args:
            images: A path, bytes, an open file, a PIL image, an array (H, W[, C]) or tensor (C, H, W), or a sequence of
                these; an array or tensor with one more dimension is a batch. Not resized, not normalised.

        Returns:
            Detections for one image, a list of them for several.

        Raises:
            DataError: an image cannot be decoded or is not of a known form.
        """
        return one_or_several(images, self.stream)
