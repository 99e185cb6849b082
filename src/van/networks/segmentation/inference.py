"""Results of every pixel from segmentation networks: whole images or windows, several scales, mirrored, any size."""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional

from van.networks.segmentation.views import View, fitted

_TOGETHER = 4 * 1024 * 1024  # pixels of images that go through the network at once
_AT_ONCE = 32 * 1024 * 1024  # scores that are enlarged to the size of the image at once
Scores = Callable[[torch.Tensor], torch.Tensor]


def label_maps(network: Any, images: Sequence[torch.Tensor], view: View) -> list[torch.Tensor]:
    """Return the class of every pixel.

    Args:
        network: Its `probabilities` maps images (B, 3, H, W) to (B, K, H, W), K up to 255.
        images: (3, H, W) each, of any sizes, bytes or floats from 0 to 1.
        view: How the network sees them.

    Returns:
        Labels (H, W) of each image, uint8.
    """
    maps = (full_maps(network.probabilities, batch, view, _labels) for batch in _batches(images))
    return [labels for batch in maps for labels in batch]


def saliency_maps(network: Any, images: Sequence[torch.Tensor], view: View) -> list[torch.Tensor]:
    """Return how salient every pixel is.

    Args:
        network: Maps images (B, 3, H, W) to probabilities (B, 1, H, W).
        images: (3, H, W) each, of any sizes, bytes or floats from 0 to 1.
        view: How the network sees them.

    Returns:
        Values from 0 to 1, (H, W), float32, of each image.
    """
    maps = (full_maps(network, batch, view, lambda scores: scores[:, 0]) for batch in _batches(images))
    return [one.clamp(0, 1) for batch in maps for one in batch]


def panoptic_maps(
    network: Any,
    images: Sequence[torch.Tensor],
    things: Collection[int],
    fit: tuple[int, int] | None,
    score_threshold: float,
    overlap_threshold: float,
) -> list[dict[str, Any]]:
    """Return the segments of images.

    Args:
        network: A Mask2Former.
        images: (3, H, W) each, of any sizes, bytes or floats from 0 to 1.
        things: Labels of countable classes.
        fit: Short and long edge in pixels that images are scaled to fit into; None keeps their size.
        score_threshold: Queries with a lower class probability are dropped.
        overlap_threshold: A segment is dropped if others leave a smaller share of its mask visible.

    Returns:
        For each image segmentation (H, W), int32, 0 where there is no segment; segments: dicts with id, label, isthing
        and score; and best_score, the highest score of all queries, 0 where all of them say that there is no object.
    """
    results = []
    for batch in _batches(images):
        size = (batch.shape[-2], batch.shape[-1])
        outputs = network(_resized(batch, fitted(*size, fit)))
        scores, labels = outputs["class_logits"].softmax(-1).max(-1)
        best = scores.where(labels < outputs["class_logits"].shape[-1] - 1, 0).amax(1).tolist()
        segments_of = network.panoptic(outputs, things, score_threshold, overlap_threshold)
        for found, score in zip(segments_of, best, strict=True):
            numbers = found["segmentation"]
            if tuple(numbers.shape) != size:
                enlarged = F.interpolate(numbers[None, None].float(), size=size, mode="nearest-exact")
                numbers = enlarged[0, 0].to(torch.int32)
            seen = set(numbers.unique().tolist())
            segments = [segment for segment in found["segments"] if segment["id"] in seen]
            results.append({"segmentation": numbers, "segments": segments, "best_score": score})
    return results


def full_maps(
    scores: Scores, images: torch.Tensor, view: View, finish: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return the results of images as a network sees them.

    No more scores are kept than those of one window and of the places where later windows overlap earlier ones; where
    images are scaled first, those of the scaled image.

    Args:
        scores: Maps images (B, 3, h, w) of any size to scores (B, K, h, w).
        images: (B, 3, H, W), bytes or floats from 0 to 1.
        view: How the network sees them.
        finish: Makes results (B, h, w) of mean scores (B, K, h, w), pixel by pixel.

    Returns:
        Results (B, H, W).
    """
    height, width = images.shape[-2:]
    high, wide = view.size_for(height, width)
    images = _resized(images, (high, wide))
    crop, stride = view.window if view.slide else ((high, wide), (high, wide))
    crop = (min(crop[0], high), min(crop[1], wide))
    tops, lefts = _starts(high, crop[0], stride[0]), _starts(wide, crop[1], stride[1])
    # windows cut the image into cells, each of which is covered by the same windows everywhere
    rows = list(pairwise(sorted({*tops, *(top + crop[0] for top in tops)})))
    columns = list(pairwise(sorted({*lefts, *(left + crop[1] for left in lefts)})))
    scaled = (high, wide) != (height, width)
    whole: torch.Tensor | None = None
    waiting: dict[tuple[int, int], torch.Tensor] = {}
    for top in tops:
        for left in lefts:
            found = _averaged(scores, images[..., top : top + crop[0], left : left + crop[1]], view)
            for y0, y1 in ((a, b) for a, b in rows if top <= a and b <= top + crop[0]):
                for x0, x1 in ((a, b) for a, b in columns if left <= a and b <= left + crop[1]):
                    cell = found[..., y0 - top : y1 - top, x0 - left : x1 - left]
                    total = waiting[y0, x0] + cell if (y0, x0) in waiting else cell.clone()
                    over = [[s for s in starts if s <= at < s + side] for starts, at, side in (
                        (tops, y0, crop[0]), (lefts, x0, crop[1]))]  # fmt: skip
                    if (top, left) != (over[0][-1], over[1][-1]):
                        waiting[y0, x0] = total
                        continue
                    waiting.pop((y0, x0), None)
                    total = total / (len(over[0]) * len(over[1]))
                    result = total if scaled else finish(total)
                    if whole is None:
                        whole = result.new_empty(*result.shape[:-2], high, wide)
                    whole[..., y0:y1, x0:x1] = result
    done = cast(torch.Tensor, whole)
    return _enlarged(done, (height, width), finish) if scaled else done


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows begin along one side; the last one ends with the image."""
    count = max(0, -(-(length - window) // stride)) + 1
    return [min(i * stride, length - window) for i in range(count)]


def _resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    if tuple(size) == (1, 1):  # torch cannot shrink bytes to one pixel
        images = functional.to_dtype(images, torch.float32, scale=True)
    return functional.resize(images, list(size), antialias=True)


def _averaged(scores: Scores, window: torch.Tensor, view: View) -> torch.Tensor:
    """Return the scores (B, K, h, w) of windows (B, 3, h, w), the mean over all scales and mirror images."""
    height, width = window.shape[-2:]
    total: torch.Tensor | None = None
    for scale in view.scales:
        scaled = _resized(window, (max(1, round(height * scale)), max(1, round(width * scale))))
        for mirrored in (False, True) if view.flip_test else (False,):
            found = scores(scaled.flip(-1)).flip(-1) if mirrored else scores(scaled)
            found = found.float()
            if found.shape[-2:] != window.shape[-2:]:
                found = F.interpolate(found, size=(height, width), mode="bilinear", align_corners=False)
            total = found if total is None else total + found
    count = len(view.scales) * (2 if view.flip_test else 1)
    return cast(torch.Tensor, total) / count if count > 1 else cast(torch.Tensor, total)


def _enlarged(
    scores: torch.Tensor, size: tuple[int, int], finish: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Bring scores (B, K, h, w) to a size by bilinear interpolation, some rows at a time, and finish them."""
    height, width = size
    rows = max(1, _AT_ONCE // (scores.shape[0] * scores.shape[1] * width))
    if rows >= height:
        return finish(F.interpolate(scores, size=size, mode="bilinear", align_corners=False))
    x = (torch.arange(width, device=scores.device) + 0.5) * 2 / width - 1
    parts = []
    for top in range(0, height, rows):
        y = (torch.arange(top, min(top + rows, height), device=scores.device) + 0.5) * 2 / height - 1
        places = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, width)], -1)
        places = places.expand(len(scores), -1, -1, -1)
        # the same as interpolate, but for some rows of the result
        parts.append(finish(F.grid_sample(scores, places, mode="bilinear", padding_mode="border", align_corners=False)))
    return torch.cat(parts, dim=-2)


def _batches(images: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield images (3, H, W) in order as batches of neighbours that have one size and are not too large together."""
    start = 0
    for i in range(1, len(images) + 1):
        shape = images[start].shape
        full = (i - start + 1) * shape[-1] * shape[-2] > _TOGETHER
        if i == len(images) or full or images[i].shape != shape:
            yield torch.stack(list(images[start:i]))
            start = i


def _labels(scores: torch.Tensor) -> torch.Tensor:
    return scores.argmax(1).to(torch.uint8)
