"""Results of mask queries as tensors of fixed size, for exported graphs; see Mask2Former for the same image by image."""

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F


class Segments(NamedTuple):
    """The segments of each image of a batch.

    Attributes:
        segmentation: (B, H, W), int32: the number of the segment of each pixel, from 1; 0 where there is none.
        labels: (B, Q), int64: the class of segments 1, 2, ...; -1 where there are fewer.
        scores: (B, Q): their scores; 0 where there are fewer.
        best_score: (B,): the highest score of all queries, 0 where all of them say that there is no object.
    """

    segmentation: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor
    best_score: torch.Tensor


def full_masks(mask_logits: torch.Tensor, inside: tuple[Any, Any]) -> torch.Tensor:
    """Scale mask logits (B, Q, h, w) of padded images at stride 4 to those of the images, (B, Q, H, W)."""
    size = (mask_logits.shape[2] * 4, mask_logits.shape[3] * 4)
    return F.interpolate(mask_logits, size, mode="bilinear", align_corners=False)[..., : inside[0], : inside[1]]


def class_scores(class_logits: torch.Tensor, mask_logits: torch.Tensor, inside: tuple[Any, Any]) -> torch.Tensor:
    """Return class scores (B, K, H, W); see Mask2Former.semantic."""
    masks = full_masks(mask_logits, inside).sigmoid()
    return torch.einsum("bqk,bqhw->bkhw", class_logits.softmax(-1)[..., :-1], masks)


def segments(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    inside: tuple[Any, Any],
    things: Collection[int],
    score_threshold: float,
    overlap_threshold: float,
) -> Segments:
    """Return one segment for each pixel; see Mask2Former.panoptic.

    Args:
        class_logits: (B, Q, K + 1), the last class meaning no object.
        mask_logits: (B, Q, h, w), of the padded images at stride 4.
        inside: Height and width of the images without their padding.
        things: Labels of countable classes.
        score_threshold: Queries with a smaller class probability are dropped.
        overlap_threshold: A segment is dropped if other segments leave a smaller fraction of its mask visible.
    """
    scores, labels = class_logits.softmax(-1).max(-1)
    nothing = class_logits.shape[-1] - 1
    keep = (labels != nothing) & (scores > score_threshold)
    logits = full_masks(mask_logits, inside)
    weights = torch.where(keep, scores, -1.0)
    owner = (logits.sigmoid() * weights[..., None, None]).argmax(1)  # (B, H, W)
    whole = (logits >= 0).flatten(2).sum(2)
    flat, count = owner.flatten(1), torch.zeros_like(scores)
    on = (logits.gather(1, owner[:, None])[:, 0] >= 0).flatten(1)
    own = count.scatter_add(1, flat, torch.ones_like(flat, dtype=scores.dtype))
    area = count.scatter_add(1, flat, on.to(scores.dtype))
    there = keep & (area > 0) & (own >= overlap_threshold * whole)
    # all segments of a class that is not countable are one, with the number of the first of them
    countable = torch.zeros(nothing + 1, dtype=torch.bool, device=labels.device)
    countable[list(things)] = True
    places = torch.arange(labels.shape[1], device=labels.device)
    same = (labels[:, :, None] == labels[:, None]) & there[:, None]
    first = torch.where(same, places, labels.shape[1]).amin(2)
    first = torch.where(countable[labels], places, first)
    new = there & (first == places)
    numbers = new.long().cumsum(1)
    number = torch.where(there, numbers.gather(1, first.clamp(max=labels.shape[1] - 1)), 0)
    segmentation = (number.gather(1, flat) * on).view_as(owner).to(torch.int32)
    slot = torch.where(new, numbers - 1, labels.shape[1])
    rows = F.pad(labels, (0, 1)), F.pad(scores, (0, 1))
    slot = F.pad(slot, (0, 1), value=labels.shape[1])
    kept = torch.full_like(rows[0], -1).scatter(1, slot, rows[0]), torch.zeros_like(rows[1]).scatter(1, slot, rows[1])
    best = torch.where(labels != nothing, scores, 0).amax(1)
    return Segments(segmentation, kept[0][:, :-1], kept[1][:, :-1], best)
