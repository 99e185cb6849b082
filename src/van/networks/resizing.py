"""Resizing as two products with matrices, as Pillow and torchvision compute it: part of exported graphs.

Exporters have no operation for Pillow's filters, and those that they have differ between runtimes. A matrix whose rows
are the weights of one output pixel needs nothing but elementary operations, for images of any size.
"""

from typing import Literal

import torch

Filter = Literal["bilinear", "bicubic"]
_HALF = 0.501


def number(value: int, like: torch.Tensor) -> torch.Tensor:
    """Return a side of an image, which is dynamic in exported graphs, as a float32 scalar."""
    return torch.full((), value, dtype=torch.float32, device=like.device)


def weights(
    length: int,
    count: int,
    scale: torch.Tensor,
    start: torch.Tensor,
    filter: Filter = "bilinear",
    antialias: bool = True,
) -> torch.Tensor:
    """Return the weights (count, length) of input pixels in output pixels.

    Args:
        length: Pixels of the input.
        count: Pixels of the output.
        scale: Scalar, pixels of the input per pixel of the output.
        start: Scalar, first pixel of the output; negative ones lie before the input and weigh nothing.
        filter: Bilinear, or Pillow's bicubic.
        antialias: Widen the filter where the image shrinks.
    """
    device = scale.device
    places = (torch.arange(count, dtype=torch.float32, device=device) + start + 0.5) * scale
    pixels = torch.arange(length, dtype=torch.float32, device=device) + 0.5
    if not antialias:
        last = number(length, scale) - 0.5
        return _bilinear(places.clamp(min=0.5).minimum(last)[:, None] - pixels)
    distances = (places[:, None] - pixels) / scale.clamp(min=1.0)
    found = _bilinear(distances) if filter == "bilinear" else _bicubic(distances)
    inside = ((places > 0) & (places < length))[:, None]
    return found / found.sum(1, keepdim=True).where(inside, torch.ones_like(places[:, None])) * inside


def _bilinear(distances: torch.Tensor) -> torch.Tensor:
    return (1 - distances.abs()).clamp(min=0)


def _bicubic(distances: torch.Tensor) -> torch.Tensor:
    x = distances.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def apply_weights(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Resize images of bytes along the width, then along the height, rounded to whole numbers each time.

    Args:
        images: (B, C, H, W), any type.
        rows: Weights (h, H).
        columns: Weights (w, W).

    Returns:
        (B, C, h, w), float32, whole numbers from 0 to 255.
    """
    return _rounded(rows @ _rounded(images.float() @ columns.T))


def _rounded(levels: torch.Tensor) -> torch.Tensor:
    # halves, which are frequent, go up in every runtime, whichever way it has rounded the sums
    return (levels + _HALF).floor().clamp(0, 255)


def resize(
    images: torch.Tensor, size: tuple[int, int], filter: Filter = "bilinear", antialias: bool = True
) -> torch.Tensor:
    """Resize images of bytes (B, C, H, W) to a height and width; see apply_weights."""
    matrices = []
    for length, count in zip(images.shape[-2:], size, strict=True):
        scale = number(length, images) / number(count, images)
        matrices.append(weights(length, count, scale, torch.zeros_like(scale), filter, antialias))
    return apply_weights(images, *matrices)
