"""Detection on images and on their mirror images, together."""

from collections.abc import Callable, Sequence

import torch
from torchvision.ops import batched_nms

Output = dict[str, torch.Tensor]


def with_mirrored(
    network: Callable[[Sequence[torch.Tensor]], list[Output]],
    images: Sequence[torch.Tensor],
    iou: float,
    most: int | None = None,
) -> list[Output]:
    """Return what a detector finds on images and on their mirror images.

    Of several boxes of a class that overlap, the best one stays (non-maximum suppression).

    Args:
        network: See van.networks.detection.detector.Detector.
        images: (3, H, W) each, of any sizes.
        iou: Largest overlap of two boxes of a class.
        most: Keep at most so many objects per image, the best; None keeps all.

    Returns:
        For each image boxes (N, 4), labels (N,) and scores (N,), best first, and masks (N, 1, H, W) where the detector
        has masks.
    """
    seen, mirrored = network(images), network([image.flip(-1) for image in images])
    both = zip(seen, mirrored, images, strict=True)
    return [_joined(one, _flipped(other, image.shape[-1]), iou, most) for one, other, image in both]


def _flipped(found: Output, width: int) -> Output:
    """Return what was found on a mirror image in pixels of the image."""
    x0, y0, x1, y1 = found["boxes"].unbind(1)
    flipped = {**found, "boxes": torch.stack([width - x1, y0, width - x0, y1], 1)}
    return flipped | ({"masks": found["masks"].flip(-1)} if "masks" in found else {})


def _joined(one: Output, other: Output, iou: float, most: int | None) -> Output:
    both = {key: torch.cat([value, other[key]]) for key, value in one.items()}
    kept = batched_nms(both["boxes"].float(), both["scores"].float(), both["labels"], iou)[:most]
    return {key: value[kept] for key, value in both.items()}
