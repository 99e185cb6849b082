"""Checks of training targets on the CPU, so that no training step has to wait for its device."""

from collections.abc import Mapping
from typing import Any

import torch

from van.errors import DataError

IGNORED = 255  # label of pixels that do not count


def plain(value: Any) -> torch.Tensor:
    """Return a tensor without torchvision's wrapper, which costs time in every operation."""
    return torch.as_tensor(value).as_subclass(torch.Tensor)


def check_objects(target: Mapping[str, Any], num_classes: int, masks: bool = False) -> None:
    """Refuse objects that a detector cannot learn from.

    Args:
        target: boxes (N, 4) as x1, y1, x2, y2, labels (N,), masks (N, H, W) where they are learned, and image_id.
        num_classes: Labels go from 0 to below it.
        masks: Whether masks are learned.

    Raises:
        DataError: something is missing, a box is not finite or has no area, or a label is out of range.
    """
    name = f"The target of image {target['image_id']}" if "image_id" in target else "A target"
    wanted = ("boxes", "labels", "masks") if masks else ("boxes", "labels")
    if missing := [key for key in wanted if key not in target]:
        raise DataError(f"{name} has no {missing[0]}, expected {', '.join(wanted)}.")
    boxes, labels = plain(target["boxes"]).reshape(-1, 4), plain(target["labels"])
    bad = ~(boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))
    if bad.any():
        raise DataError(f"{name} has the box {boxes[bad][0].tolist()}, expected x1 < x2 and y1 < y2.")
    if len(labels) != len(boxes) or ((labels < 0) | (labels >= num_classes)).any():
        raise DataError(
            f"{name} has {len(boxes)} boxes and the labels {labels.tolist()}, expected one from 0 to {num_classes - 1} "
            "for each."
        )
    if masks and len(target["masks"]) != len(boxes):
        raise DataError(f"{name} has {len(boxes)} boxes and {len(target['masks'])} masks.")


def check_labels(labels: torch.Tensor, num_classes: int) -> None:
    """Refuse labels of pixels that are no classes.

    Args:
        labels: Of any shape; 255 where they do not count.
        num_classes: Labels go from 0 to below it.

    Raises:
        DataError: a label is out of range.
    """
    numbers = plain(labels)
    wrong = (numbers != IGNORED) & ((numbers < 0) | (numbers >= num_classes))
    if wrong.any():
        raise DataError(
            f"A target has the label {int(numbers[wrong][0])}, expected 0 to {num_classes - 1}, or {IGNORED} for "
            "pixels that do not count."
        )


def check_saliency(mask: torch.Tensor) -> None:
    """Refuse masks whose values are not from 0 to 1 (255 where they do not count).

    Raises:
        DataError: a value is out of range.
    """
    values = plain(mask).float()
    if (wrong := (values != IGNORED) & ~((values >= 0) & (values <= 1))).any():
        raise DataError(f"A saliency mask has the value {float(values[wrong][0]):g}, expected 0 to 1.")
