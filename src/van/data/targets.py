"""Checks of training targets on the CPU, for loaders: on the device each of them would make a training step wait."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from van.errors import DataError

IGNORED = 255  # label of pixels that do not count


def plain(value: Any) -> torch.Tensor:
    """Return a tensor without torchvision's wrapper, which costs time in every operation."""
    return torch.as_tensor(value).as_subclass(torch.Tensor)


def check_targets(targets: Sequence[Mapping[str, Any]], num_classes: int, masks: bool = False) -> None:
    """Check the targets of a detector.

    Args:
        targets: For each image boxes (N, 4) as x1, y1, x2, y2, labels (N,) and, if needed, masks (N, H, W).
        num_classes: Number of classes; labels count from 0.
        masks: Whether masks are needed.

    Raises:
        DataError: Something is missing, a box is not finite or has no area, a label has no class, or the numbers of
            boxes, labels and masks differ.
    """
    wanted = ("boxes", "labels", "masks") if masks else ("boxes", "labels")
    for target in targets:
        name = f"The target of image {target['image_id']}" if "image_id" in target else "A target"
        if missing := [key for key in wanted if key not in target]:
            raise DataError(f"{name} has no {missing[0]}, expected {', '.join(wanted)}.")
        boxes, labels = target["boxes"].reshape(-1, 4), target["labels"]
        bad = ~(boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))
        if bad.any():
            raise DataError(f"{name} has the box {boxes[bad][0].tolist()}, expected x1 < x2 and y1 < y2.")
        if len(labels) != len(boxes) or ((labels < 0) | (labels >= num_classes)).any():
            raise DataError(
                f"{name} has {len(boxes)} boxes and the labels {labels.tolist()}, expected a label from 0 to "
                f"{num_classes - 1} for each box."
            )
        if masks and len(target["masks"]) != len(boxes):
            raise DataError(f"{name} has {len(boxes)} boxes and {len(target['masks'])} masks.")


def check_segments(targets: Sequence[Mapping[str, Any]], num_classes: int) -> None:
    """Check the targets of a panoptic network.

    Args:
        targets: For each image labels (N,), from 0, of its segments.
        num_classes: Number of classes.

    Raises:
        DataError: A label has no class.
    """
    for target in targets:
        labels = target["labels"]
        if ((labels < 0) | (labels >= num_classes)).any():
            raise DataError(f"A target has the labels {labels.tolist()}, expected 0 to {num_classes - 1}.")


def check_labels(labels: torch.Tensor, num_classes: int) -> None:
    """Check the targets of a semantic segmentation network.

    Args:
        labels: Integers of any shape, classes or 255.
        num_classes: Number of classes.

    Raises:
        DataError: A label has no class and is not 255.
    """
    wrong = (labels != IGNORED) & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        raise DataError(
            f"A target has the label {int(labels[wrong][0])}, expected 0 to {num_classes - 1}, or {IGNORED} for "
            "ignored pixels."
        )


def check_saliency(masks: torch.Tensor) -> None:
    """Check the targets of a saliency network.

    Args:
        masks: Floats of any shape from 0 to 1, 255 for ignored pixels.

    Raises:
        DataError: A value is out of range.
    """
    wrong = (masks != IGNORED) & ~((masks >= 0) & (masks <= 1))
    if wrong.any():
        raise DataError(
            f"A target has the value {float(masks[wrong][0]):g}, expected 0 to 1, or {IGNORED} for ignored pixels."
        )
