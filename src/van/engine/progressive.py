"""Training images that grow over the run: their size at each step, and how a batch is scaled to it."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from van.errors import VanError

_UNIT = 32  # pixels: the stride of the backbone's last map


def check_start(start: int, full: Sequence[int] | None) -> None:
    """Refuse a first size that training cannot grow from.

    Args:
        start: Short edge of the first images.
        full: Height and width of the training images; None where they have many sizes.

    Raises:
        VanError: the images have many sizes, or are not larger.
    """
    if full is None:
        raise VanError("progressive_size needs training images of one size, but here they have many. Leave it out.")
    if start >= min(full):
        raise VanError(
            f"progressive_size is {start}, expected less than the short edge of the training images, {min(full)}."
        )


def size_at(progress: float, start: int, full: Sequence[int]) -> tuple[int, int]:
    """Return the height and width of the training images at a point of the run.

    The short edge grows by 32 pixels at a time; each size gets an equal share of the run, the full one the last.

    Args:
        progress: Share of the run that has passed, 0 or more.
        start: Short edge of the first images.
        full: Height and width of the last ones.
    """
    short = min(full)
    sizes = [*range(start, short, _UNIT), short]
    edge = sizes[min(int(progress * len(sizes)), len(sizes) - 1)]
    if edge == short:
        return full[0], full[1]
    height, width = (round(side * edge / short / _UNIT) * _UNIT for side in full)
    return height, width


def resize(maps: torch.Tensor, size: tuple[int, int], smooth: bool = False) -> torch.Tensor:
    """Scale images or label maps to another height and width.

    Args:
        maps: (..., H, W).
        size: New height and width.
        smooth: Scale as images, bilinear with antialiasing: bytes become floats from 0 to 1. Otherwise values stay as
            they are, those of the nearest pixels.
    """
    if tuple(maps.shape[-2:]) == size:
        return maps
    if smooth:
        images = maps if maps.is_floating_point() else maps / 255
        return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
    if not maps.numel():
        return maps.new_zeros(*maps.shape[:-2], *size)
    flat = maps.reshape(-1, 1, *maps.shape[-2:]).float()
    return F.interpolate(flat, size=size, mode="nearest-exact").to(maps.dtype).reshape(*maps.shape[:-2], *size)
