"""Results of every pixel from segmentation networks: whole images or windows, several scales, mirrored, any size."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional

from van.networks.dense import full_precision
from van.networks.segmentation.views import SemanticView, View, fitted

_TOGETHER = 4 * 1024 * 1024  # pixels of images that go through the network at once
_AT_ONCE = 32 * 1024 * 1024  # scores that are enlarged to the size of the image at once
_KEPT = 512 * 1024 * 1024  # scores of the size of the image that are added up; larger images add smaller ones
Maps = Callable[[torch.Tensor], torch.Tensor]


def _same(scores: torch.Tensor) -> torch.Tensor:
    return scores


def label_maps(network: Any, images: Sequence[torch.Tensor], view: SemanticView) -> list[torch.Tensor]:
    """Return the class of every pixel.

    As in OpenMMLab, scores are brought to the size of the image, and what is averaged are probabilities.

    Args:
        network: Its `scores` maps images (B, 3, H, W) to (B, K, H, W), K up to 255, and its `normalized` makes
            probabilities of such scores.
        images: (3, H, W) each, of any sizes, bytes or floats from 0 to 1.
        view: How the network sees them.

    Returns:
        Labels (H, W) of each image, uint8.
    """
    scores = partial(network.scores, pad=view.to_multiple != "none")
    maps = (full_maps(scores, batch, view, _labels, network.normalized) for batch in _batches(images))
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
    maps = (full_maps(network, batch, view, lambda scores: scores[:, 0].float()) for batch in _batches(images))
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


def full_maps(scores: Maps, images: torch.Tensor, view: View, finish: Maps, normalize: Maps = _same) -> torch.Tensor:
    """Return the results of images as a network sees them.

    Args:
        scores: Maps images (B, 3, h, w) of any size to scores (B, K, h, w).
        images: (B, 3, H, W), bytes or floats from 0 to 1.
        view: How the network sees them.
        finish: Makes results (B, h, w) of mean scores (B, K, h, w), pixel by pixel.
        normalize: Applied to scores before they are averaged, where they are.

    Returns:
        Results (B, H, W).
    """
    return (_windows if view.slide else _whole)(scores, images, view, finish, normalize)


def _whole(scores: Maps, images: torch.Tensor, view: View, finish: Maps, normalize: Maps) -> torch.Tensor:
    """Return the results of images that are seen whole, at every scale; see full_maps."""
    size: tuple[int, int] = (images.shape[-2], images.shape[-1])
    sizes = [view.size_for(*size, scale) for scale in view.scales]
    if len(sizes) == 1 and not view.flip_test:
        return _enlarged(scores(_resized(images, sizes[0], view.antialias)), size, finish)

    def seen() -> Iterator[torch.Tensor]:
        for found in _seen(scores, images, sizes, view):
            fits = len(found) * found.shape[1] * size[0] * size[1] <= _KEPT
            yield _enlarged(found, size if fits else view.size_for(*size), normalize)

    return _enlarged(_mean(seen()), size, finish)


def _seen(scores: Maps, images: torch.Tensor, sizes: Sequence[tuple[int, int]], view: View) -> Iterator[torch.Tensor]:
    """Yield the scores (B, K, h, w) of images (B, 3, H, W) at each size, and those of their mirror images."""
    for size in sizes:
        scaled = _resized(images, size, view.antialias)
        yield scores(scaled)
        if view.flip_test:
            yield scores(scaled.flip(-1)).flip(-1)


def _mean(parts: Iterator[torch.Tensor]) -> torch.Tensor:
    total, count = next(parts), 1
    for part in parts:
        total, count = total + part, count + 1
    return total / count if count > 1 else total


def _windows(scores: Maps, images: torch.Tensor, view: View, finish: Maps, normalize: Maps) -> torch.Tensor:
    """Return the results of images that are seen in windows, each at every scale; see full_maps.

    No more scores are kept than those of one window and of the places where later windows overlap earlier ones; where
    images are scaled first, those of the scaled image.
    """
    height, width = images.shape[-2:]
    high, wide = view.size_for(height, width)
    images = _resized(images, (high, wide), view.antialias)
    crop, stride = view.window
    crop = (min(crop[0], high), min(crop[1], wide))
    sizes = [view.seen(*fitted(*crop, None, scale)) for scale in view.scales]
    tops, lefts = starts(high, crop[0], stride[0]), starts(wide, crop[1], stride[1])
    # windows cut the image into cells, each of which is covered by the same windows everywhere
    rows = list(pairwise(sorted({*tops, *(top + crop[0] for top in tops)})))
    columns = list(pairwise(sorted({*lefts, *(left + crop[1] for left in lefts)})))
    scaled = (high, wide) != (height, width)
    whole: torch.Tensor | None = None
    waiting: dict[tuple[int, int], torch.Tensor] = {}
    for top in tops:
        for left in lefts:
            window = images[..., top : top + crop[0], left : left + crop[1]]
            seen = _seen(scores, window, sizes, view)
            found = _mean(_enlarged(part, crop, normalize) for part in seen)
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


def starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows begin along one side; the last one ends with the image."""
    count = max(0, -(-(length - window) // stride)) + 1
    return [min(i * stride, length - window) for i in range(count)]


def _resized(images: torch.Tensor, size: tuple[int, int], antialias: bool = True) -> torch.Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    if tuple(size) == (1, 1):  # torch cannot shrink bytes to one pixel
        images = functional.to_dtype(images, torch.float32, scale=True)
    return functional.resize(images, list(size), antialias=antialias)


def _enlarged(scores: torch.Tensor, size: tuple[int, int], finish: Maps) -> torch.Tensor:
    """Bring scores (B, K, h, w) to a size by bilinear interpolation, some rows at a time, and finish them."""
    if tuple(scores.shape[-2:]) == tuple(size):
        return finish(scores)
    scores = full_precision(scores)
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
