"""Checks of targets on the CPU, in the loading processes, so that a training step never waits for the device."""

from collections.abc import Mapping
from typing import Any

import torch

from van.data.formats import IGNORED
from van.errors import DataError


def check_objects(target: Mapping[str, Any], num_classes: int, boxes: bool = True, masks: bool = False) -> None:
    """Check the target of an image with objects.

    Args:
        target: labels (N,) from 0; boxes (N, 4) as x1, y1, x2, y2 and masks (N, H, W) where asked for; image_id for
            messages. N may be 0.
        num_classes: Number of classes.
        boxes: Whether boxes are needed.
        masks: Whether masks are needed.

    Raises:
        DataError: a key is missing, a box has no area or is not finite, a label is out of range, or the counts differ.
    """
    name = f"The target of image {target['image_id']}" if "image_id" in target else "A target"
    wanted = [key for key, needed in (("boxes", boxes), ("labels", True), ("masks", masks)) if needed]
    if missing := [key for key in wanted if key not in target]:
        raise DataError(f"{name} has no {missing[0]}, expected {', '.join(wanted)}.")
    if boxes:
        check_boxes(target["boxes"], name)
    labels: torch.Tensor = target["labels"]
    for key in wanted:
        if len(target[key]) != len(labels):
            raise DataError(f"{name} has {len(labels)} labels and {len(target[key])} {key}, expected one per object.")
    if ((labels < 0) | (labels >= num_classes)).any():
        raise DataError(f"{name} has the labels {labels.tolist()}, expected numbers from 0 to {num_classes - 1}.")


def check_boxes(boxes: torch.Tensor, name: str = "A target") -> None:
    """Check boxes (N, 4) as x1, y1, x2, y2.

    Args:
        boxes: The boxes.
        name: What to call their target in the message.

    Raises:
        DataError: a box has no area or is not finite.
    """
    bad = ~(boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))
    if bad.any():
        raise DataError(f"{name} has the box {boxes[bad][0].tolist()}, expected finite numbers, x1 < x2 and y1 < y2.")


def check_labels(labels: torch.Tensor, num_classes: int) -> None:
    """Check labels of pixels, of any shape.

    Args:
        labels: Integers.
        num_classes: Number of classes.

    Raises:
        DataError: a label is neither a class nor 255, or these are not integers.
    """
    if labels.is_floating_point():
        raise DataError(f"Labels are of type {labels.dtype}, expected integers.")
    wrong = (labels != IGNORED) & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        raise DataError(
            f"A target has the label {int(labels[wrong][0])}, expected 0 to {num_classes - 1}, or {IGNORED} for "
            "ignored pixels."
        )


def check_saliency(masks: torch.Tensor) -> None:
    """Check salient masks, of any shape.

    Args:
        masks: Floats from 0 to 1; 255 marks ignored pixels.

    Raises:
        DataError: a value is out of range or not a number, or these are not floats.
    """
    if not masks.is_floating_point():
        raise DataError(f"Masks are of type {masks.dtype}, expected floats from 0 to 1: divide 0 to 255 by 255.")
    if ((masks != IGNORED) & ~((masks >= 0) & (masks <= 1))).any():
        raise DataError(f"A target has values from {float(masks.min()):g} to {float(masks.max()):g}, expected 0 to 1.")
