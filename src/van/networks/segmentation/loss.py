"""Targets and loss of semantic segmentation."""

import torch
import torch.nn.functional as F

from van.errors import DataError
from van.networks.options import IGNORED


def label_maps(labels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return labels (B, H, W) as int64. Their values are not looked at: that would wait for the device.

    Raises:
        DataError: The labels are no integers, or their shape is not that of the images.
    """
    expected = (len(images), *images.shape[-2:])
    if labels.is_floating_point() or tuple(labels.shape) != expected:
        raise DataError(
            f"Targets are {labels.dtype} of shape {tuple(labels.shape)}, expected integers of shape {expected}."
        )
    return labels.long()


def semantic_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy over the pixels that count; 0 where none does.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W), classes or 255.
    """
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)
