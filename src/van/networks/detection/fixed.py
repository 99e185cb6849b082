"""Detections as tensors of fixed size, for exported graphs: no lists of images, no sizes that depend on values.

What is missing has the score -1. The results are those of the detectors themselves, within rounding.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import permute_and_flatten
from torchvision.ops import box_convert, nms, roi_align

from van.networks.detection.parts import RoIAlign, level_sizes

_MISSING = -1.0
_COLUMNS = 32  # boxes of different groups lie apart on a grid, which keeps more digits than on a line


class Found(NamedTuple):
    """The best N boxes of each image of a batch.

    Attributes:
        boxes: (B, N, 4) as x1, y1, x2, y2.
        labels: (B, N), int64.
        scores: (B, N), best first; -1 where there is nothing more, with a box and a label without meaning.
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor

    def cleared(self) -> "Found":
        """Return the same with zeros where there is nothing."""
        there = self.scores > 0
        return Found(self.boxes * there[:, :, None], self.labels * there, self.scores.clamp(min=0))


def best(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best of scores (B, M) and their indices, both (B, count); index 0 where none is left."""
    values, index = F.pad(scores, (0, count), value=_MISSING).topk(count, 1)
    return values, torch.where(values < 0, 0, index)


def taken(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return those of values (B, M, C) at indices (B, N): (B, N, C)."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))


def clipped(boxes: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Clip boxes (B, N, 4) to images whose heights and widths are (B, 2)."""
    return torch.minimum(boxes.clamp(min=0), sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype))


def large(boxes: torch.Tensor, least: float) -> torch.Tensor:
    """Return which boxes (B, N, 4) have no side below a length."""
    return (boxes[..., 2:] - boxes[..., :2]).amin(-1) >= least


def suppressed(boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, iou: float, count: int) -> Found:
    """Apply non-maximum suppression to each group of each image.

    Args:
        boxes: (B, M, 4), not negative.
        scores: (B, M), those up to 0 do not count.
        groups: (B, M), int64, such as classes.
        iou: Of two boxes of a group that overlap by more, only the better one is kept.
        count: How many boxes of each image to keep.
    """
    images = torch.arange(boxes.shape[0], device=boxes.device)[:, None]
    number = groups + images * (groups.max() + 1)
    moves = torch.stack([number % _COLUMNS, number // _COLUMNS] * 2, -1)
    apart = (boxes + moves * (boxes.max() + 1)).flatten(0, 1)
    flat = scores.flatten()
    candidates = torch.where(flat > 0)[0]
    kept = candidates[nms(apart[candidates], flat[candidates], iou)]
    left = torch.full_like(flat, _MISSING).scatter(0, kept, flat[kept]).view_as(scores)
    values, index = best(left, count)
    return Found(taken(boxes, index), groups.gather(1, index), values)


def anchors_of(generator: AnchorGenerator, height: Any, width: Any, levels: Sequence[tuple[Any, Any]]) -> list[Any]:
    """Return torchvision's anchors (A, 4) of each level.

    Args:
        generator: Their sizes and shapes.
        height: Height of the images.
        width: Their width.
        levels: Height and width of each level.
    """
    anchors = []
    for cells, (high, wide) in zip(cast(Any, generator.cell_anchors), levels, strict=True):
        y = torch.arange(high, device=cells.device) * (height // high)
        x = torch.arange(wide, device=cells.device) * (width // wide)
        x, y = x[None, :].expand(high, -1).reshape(-1), y[:, None].expand(-1, wide).reshape(-1)
        anchors.append((torch.stack([x, y, x, y], 1)[:, None] + cells[None]).reshape(-1, 4))
    return anchors


# ------------------------------------------------------------------------------------------------ one stage


def one_stage(network: Any, outputs: Mapping[str, torch.Tensor], height: Any, width: Any, sizes: torch.Tensor) -> Found:
    """Decode what the core of a one-stage detector returned.

    Args:
        network: The detector.
        outputs: By the names of its core_outputs.
        height: Height of the padded images.
        width: Their width.
        sizes: (B, 2), height and width of the images in them.

    Returns:
        Boxes in pixels of the padded images.
    """
    scores = outputs["cls_logits"].sigmoid()
    if "bbox_ctrness" in outputs:
        scores = (scores * outputs["bbox_ctrness"].sigmoid()).sqrt()
    classes = scores.shape[2]
    scores = torch.where(scores > network.score_thresh, scores, _MISSING)
    levels = level_sizes(height, width)
    found, start = [], 0
    for anchors in anchors_of(network.anchor_generator, height, width, levels):
        anchors = anchors.to(scores)
        end = start + anchors.shape[0]
        values, index = best(scores[:, start:end].flatten(1), network.topk_candidates)
        at = index // classes
        coded = taken(outputs["bbox_regression"][:, start:end], at)
        boxes = network.decode(coded.flatten(0, 1), anchors[at].flatten(0, 1)).view(*at.shape, 4)
        found.append((clipped(boxes, sizes), values, index % classes))
        start = end
    boxes, values, labels = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    return suppressed(boxes, values, labels, network.nms_thresh, network.detections_per_img)


# ------------------------------------------------------------------------------------------------ two stages


def proposals(rpn: Any, images: torch.Tensor, maps: Sequence[torch.Tensor], sizes: torch.Tensor) -> Found:
    """Return the regions that may hold objects.

    Args:
        rpn: A region proposal network.
        images: (B, 3, H, W).
        maps: The levels of the pyramid.
        sizes: (B, 2), height and width of the images in the padded ones.
    """
    objectness, deltas = rpn.head(list(maps))
    levels = [(level.shape[-2], level.shape[-1]) for level in maps]
    places = anchors_of(rpn.anchor_generator, images.shape[-2], images.shape[-1], levels)
    found = []
    for number, (logits, coded, anchors) in enumerate(zip(objectness, deltas, places, strict=True)):
        batch, per_place, high, wide = logits.shape
        scores = permute_and_flatten(logits, batch, per_place, 1, high, wide).flatten(1).sigmoid()
        values, index = best(scores, rpn.pre_nms_top_n())
        coded = taken(permute_and_flatten(coded, batch, per_place, 4, high, wide), index)
        anchors = anchors.to(coded)[index]
        boxes = rpn.box_coder.decode_single(coded.flatten(0, 1), anchors.flatten(0, 1)).view(*index.shape, 4)
        boxes = clipped(boxes, sizes)
        values = torch.where(large(boxes, rpn.min_size), values, _MISSING)
        found.append((boxes, values, torch.full_like(index, number)))
    boxes, values, groups = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    return suppressed(boxes, values, groups, rpn.nms_thresh, rpn.post_nms_top_n())


def pooled(pool: RoIAlign, maps: Mapping[str, torch.Tensor], boxes: torch.Tensor) -> torch.Tensor:
    """Pool regions (B, N, 4), each from the level that fits its size: (B * N, C, output_size twice)."""
    images = torch.arange(boxes.shape[0], device=boxes.device).to(boxes)[:, None, None].expand(-1, boxes.shape[1], 1)
    regions = torch.cat([images, boxes], 2).flatten(0, 1)
    levels = cast(Any, pool.map_levels)([regions[:, 1:]])
    first = maps[pool.featmap_names[0]]
    result = first.new_zeros(regions.shape[0], first.shape[1], *pool.output_size)
    for level, (name, scale) in enumerate(zip(pool.featmap_names, cast(Any, pool.scales), strict=True)):
        at = torch.where(levels == level)[0]
        part = roi_align(maps[name], regions[at], pool.output_size, scale, pool.sampling_ratio, pool.aligned)
        result = result.index_put((at,), part.to(result.dtype))
    return result


def objects(heads: Any, logits: torch.Tensor, deltas: torch.Tensor, regions: Found, sizes: torch.Tensor) -> Found:
    """Return what a box head found in regions; labels count from 1.

    Args:
        heads: Region heads, for their thresholds and their coding of boxes.
        logits: (B * P, K + 1), of P regions per image.
        deltas: (B * P, 4 K + 4).
        regions: The regions.
        sizes: (B, 2), height and width of the images in the padded ones.
    """
    batch, count = regions.scores.shape
    classes = logits.shape[1]
    boxes = heads.box_coder.decode_single(deltas, regions.boxes.flatten(0, 1)).view(batch, count, classes, 4)[:, :, 1:]
    boxes = clipped(boxes.flatten(1, 2), sizes)
    scores = logits.softmax(1).view(batch, count, classes)[:, :, 1:]
    scores = torch.where((regions.scores[:, :, None] >= 0) & (scores > heads.score_thresh), scores, _MISSING).flatten(1)
    scores = torch.where(large(boxes, 1e-2), scores, _MISSING)
    labels = torch.arange(1, classes, device=boxes.device).repeat(count)[None].expand(batch, -1)
    return suppressed(boxes, scores, labels, heads.nms_thresh, heads.detections_per_img)


def masks_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return mask probabilities (B, N, h, w) of logits (B * N, K + 1, h, w) for labels (B, N)."""
    own = logits[torch.arange(logits.shape[0], device=logits.device), labels.flatten()]
    return own.sigmoid().view(*labels.shape, *own.shape[1:])


# ------------------------------------------------------------------------------------------------ queries


def queries(
    logits: torch.Tensor, boxes: torch.Tensor, units: torch.Tensor, sizes: torch.Tensor, threshold: float, count: int
) -> Found:
    """Decode what the core of a detector of transformers returned.

    Args:
        logits: (B, Q, K).
        boxes: (B, Q, 4) as cx, cy, w, h.
        units: (B, 2), the height and width that boxes are relative to.
        sizes: (B, 2), height and width of the images in the padded ones.
        threshold: Boxes with a smaller score are dropped.
        count: Largest number of boxes per image.
    """
    values, index = best(logits.sigmoid().flatten(1), count)
    values = torch.where(values > threshold, values, _MISSING)
    chosen = box_convert(taken(boxes, index // logits.shape[2]), "cxcywh", "xyxy")
    chosen = chosen * units.flip(1).repeat(1, 2)[:, None].to(chosen.dtype)
    return Found(clipped(chosen, sizes), index % logits.shape[2], values)


# ------------------------------------------------------------------------------------------------ masks


def pasted(masks: torch.Tensor, boxes: torch.Tensor, size: tuple[Any, Any]) -> torch.Tensor:
    """Paste masks into their boxes as torchvision does, by bilinear interpolation.

    Args:
        masks: Probabilities (B, N, m, m) inside boxes.
        boxes: (B, N, 4) in pixels of the image.
        size: Height and width of the image.

    Returns:
        Probabilities (B, N, H, W), 0 outside of the boxes.
    """
    side = masks.shape[-1] + 2  # torchvision adds a border of zeros, and enlarges the boxes by the same share
    masks = F.pad(masks, (1, 1, 1, 1))
    centres, halves = (boxes[..., 2:] + boxes[..., :2]) * 0.5, (boxes[..., 2:] - boxes[..., :2]) * 0.5
    halves = halves * (side / (side - 2))
    corners = torch.cat([centres - halves, centres + halves], -1).to(torch.int64)
    cells = torch.arange(side, device=boxes.device)
    weights = []
    for length, axis in zip(size, (1, 0), strict=True):
        first, last = corners[..., axis, None], corners[..., axis + 2, None]
        pixels = torch.arange(length, device=boxes.device)
        inside = (pixels >= first) & (pixels <= torch.maximum(last, first))
        count = (last - first + 1).clamp(min=1).to(boxes.dtype)
        places = ((pixels - first).to(boxes.dtype) + 0.5) * side / count - 0.5
        near = (1 - (places.clamp(0, side - 1)[..., None] - cells).abs()).clamp(min=0)
        weights.append(near * inside[..., None])
    rows, columns = weights
    return rows @ masks @ columns.transpose(-1, -2)


def mask_objects(
    class_logits: torch.Tensor, mask_logits: torch.Tensor, inside: tuple[Any, Any], count: int
) -> tuple[Found, torch.Tensor]:
    """Turn what Mask2Former's core returned into objects; see Mask2Former.instances.

    Args:
        class_logits: (B, Q, K + 1).
        mask_logits: (B, Q, h, w), of the padded images at stride 4.
        inside: Height and width of the images without their padding.
        count: Largest number of objects per image.

    Returns:
        The objects, and their masks (B, N, H, W), 0 or 1, of the images without their padding.
    """
    scores = class_logits.softmax(-1)[..., :-1]
    classes = scores.shape[-1]
    values, index = best(scores.flatten(1), count)
    queries = index // classes
    logits = mask_logits.gather(1, queries[:, :, None, None].expand(-1, -1, *mask_logits.shape[2:]))
    size = (mask_logits.shape[2] * 4, mask_logits.shape[3] * 4)
    logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)[..., : inside[0], : inside[1]]
    found = logits > 0
    quality = (logits.sigmoid() * found).sum((2, 3)) / found.sum((2, 3)).clamp(min=1)
    values, order = (values * quality).topk(count, 1)
    found = found.gather(1, order[:, :, None, None].expand(-1, -1, *found.shape[2:]))
    edges = []
    for axis, length in ((2, inside[1]), (3, inside[0])):  # columns that hold a pixel, then rows
        there, places = found.any(axis), torch.arange(length, device=found.device)
        edges.append((torch.where(there, places, length).amin(2), torch.where(there, places, -1).amax(2) + 1))
    (left, right), (top, bottom) = edges
    boxes = torch.stack([left, top, right, bottom], -1).to(values.dtype)
    return Found(boxes, (index % classes).gather(1, order), values), found.to(values.dtype)
