"""Large images seen whole and in overlapping slices, as in slicing aided hyper inference (arXiv 2202.06934).

A detector scales large images down, and small objects with them. In slices they keep their size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.ops import batched_nms

from van.networks.segmentation.inference import starts

_EDGE = 0.01  # of the side of a slice: a box that ends nearer to its edge belongs to an object that goes on behind it
_COVERED = 0.5  # share of such a box that another box covers where it is the same object
_MOST_BOXES, _MOST_MASKS = 1000, 300  # per image: masks have the size of the whole image

Output = dict[str, torch.Tensor]


@dataclass
class _View:
    """What was found on an image or slice, in pixels of the image.

    Attributes:
        boxes: (N, 4).
        labels: (N,).
        scores: (N,).
        cut: Whether an edge of the slice cuts the object, (N,).
        masks: Which pixels inside its box belong to each object, and the first row and column of these; None where the
            detector has no masks.
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor
    cut: torch.Tensor
    masks: list[tuple[torch.Tensor, int, int]] | None


def in_slices(
    network: Callable[[Sequence[torch.Tensor]], list[Output]],
    images: Sequence[torch.Tensor],
    size: tuple[int, int],
    overlap: float,
    iou: float,
    batch_size: int,
) -> list[Output]:
    """Return what a detector finds on images and on slices of them, together.

    Of several boxes of a class that overlap, the best one stays (non-maximum suppression). An object that the edge of a
    slice cuts gives way to the same object where it is whole: in a neighbour, or in the whole image.

    Args:
        network: See van.networks.detection.detector.Detector.
        images: (3, H, W) each, of any sizes.
        size: Height and width of a slice in pixels. Images that are no larger are seen once.
        overlap: Share of a slice that the next one shows too.
        iou: Largest overlap of two boxes of a class.
        batch_size: Slices per batch.

    Returns:
        For each image boxes (N, 4), labels (N,) and scores (N,), best first, and masks (N, 1, H, W) of bool where the
        detector has masks; at most 1000 objects, or 300 with masks.
    """
    results = []
    for image, whole in zip(images, network(images), strict=True):
        height, width = image.shape[-2:]
        high, wide = min(size[0], height), min(size[1], width)
        if (high, wide) == (height, width):
            results.append(whole)
            continue
        strides = [max(1, round(side * (1 - overlap))) for side in (high, wide)]
        corners = [(top, left) for top in starts(height, high, strides[0]) for left in starts(width, wide, strides[1])]
        views = [_view(whole, 0, 0, (height, width), (height, width))]
        for start in range(0, len(corners), batch_size):
            some = corners[start : start + batch_size]
            found = network([image[:, top : top + high, left : left + wide] for top, left in some])
            views += [
                _view(one, top, left, (high, wide), (height, width))
                for one, (top, left) in zip(found, some, strict=True)
            ]
        results.append(_merged(views, iou, (height, width)))
    return results


def _view(found: Output, top: int, left: int, size: tuple[int, int], whole: tuple[int, int]) -> _View:
    """Return what was found on a slice in pixels of the image."""
    boxes = found["boxes"].float()
    (high, wide), (height, width) = size, whole
    near = boxes.new_tensor([wide, high, wide, high]) * _EDGE
    edges = torch.stack([boxes[:, 0], boxes[:, 1], wide - boxes[:, 2], high - boxes[:, 3]], 1) <= near.clamp(min=1.0)
    # the image may go on behind an edge of the slice
    inner = torch.tensor([left > 0, top > 0, left + wide < width, top + high < height], device=boxes.device)
    masks = None
    if (given := found.get("masks")) is not None:
        masks = []
        corners = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], 1).long().tolist()
        for mask, (x0, y0, x1, y1) in zip(given[:, 0] >= 0.5, corners, strict=True):
            x0, y0 = max(0, x0), max(0, y0)
            masks.append((mask[y0 : max(y0, y1), x0 : max(x0, x1)].clone(), top + y0, left + x0))
    shifted = boxes + boxes.new_tensor([left, top, left, top])
    return _View(shifted, found["labels"], found["scores"].float(), (edges & inner).any(1), masks)


def _merged(views: Sequence[_View], iou: float, size: tuple[int, int]) -> Output:
    """Return the objects of all views of an image, each once."""
    boxes, labels, scores, cut = (
        torch.cat([getattr(view, name) for view in views]) for name in ("boxes", "labels", "scores", "cut")
    )
    complete, partial = (
        which[batched_nms(boxes[which], scores[which], labels[which], iou)]
        for which in (torch.where(~cut)[0], torch.where(cut)[0])
    )
    low = torch.maximum(boxes[partial, None, :2], boxes[None, complete, :2])
    high = torch.minimum(boxes[partial, None, 2:], boxes[None, complete, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    areas = (boxes[partial, 2:] - boxes[partial, :2]).prod(1).clamp(min=1e-6)
    same = labels[partial, None] == labels[None, complete]
    again = ((shared / areas[:, None] > _COVERED) & same).any(1)
    kept = torch.cat([complete, partial[~again]])
    has_masks = views[0].masks is not None
    order = scores[kept].argsort(descending=True, stable=True)[: _MOST_MASKS if has_masks else _MOST_BOXES]
    kept = kept[order]
    result: Any = {"boxes": boxes[kept], "labels": labels[kept], "scores": scores[kept]}
    if has_masks:
        pieces = [piece for view in views for piece in view.masks or ()]
        masks = torch.zeros(len(kept), 1, *size, dtype=torch.bool, device=boxes.device)
        for mask, number in zip(masks[:, 0], kept.tolist(), strict=True):
            piece, top, left = pieces[number]
            mask[top : top + piece.shape[0], left : left + piece.shape[1]] = piece
        result["masks"] = masks
    return result
