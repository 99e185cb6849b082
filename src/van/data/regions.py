"""What is labeled on an image, whatever the format: classes, boxes, areas and places. And what gives it for a split."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from van.data.images import ImageLike

GRID = 32
"""Cells across and down that images are divided into where places of objects are counted."""


def _no_boxes() -> np.ndarray:
    return np.zeros((0, 4))


@dataclass(frozen=True)
class Regions:
    """The labeled regions of an image: an object each, or where pixels have classes all pixels of a class.

    Attributes:
        labels: Class of each, shape (N,).
        boxes: x, y, width, height in pixels around each, shape (N, 4); (0, 4) where the whole image has the label.
        areas: Pixels of each, shape (N,); those of the box where there is no mask.
        size: Width and height of the image that the boxes are for; None where there are none.
        cover: Share of each cell of a grid over the image that each region covers, shape (N, GRID, GRID); None takes
            the boxes.
    """

    labels: np.ndarray
    boxes: np.ndarray = field(default_factory=_no_boxes)
    areas: np.ndarray = field(default_factory=lambda: np.zeros(0))
    size: tuple[float, float] | None = None
    cover: np.ndarray | None = None


class Inspected(Protocol):
    """A split whose images can be looked at one by one."""

    @property
    def class_names(self) -> list[str]:
        """Names in the order of the labels."""
        ...

    def __len__(self) -> int: ...

    def load(self, index: int) -> ImageLike:
        """Return the undecoded image of an index."""
        ...

    def image_name(self, index: int) -> str:
        """Return the path of the image of an index, or another name."""
        ...

    def key(self, index: int) -> int:
        """Return what `without` takes for the image of an index."""
        ...

    def regions(self, index: int) -> Regions:
        """Return what is labeled on the image of an index; nothing where it cannot be read."""
        ...


def regions_of_boxes(labels: Sequence[int], boxes: Sequence[Sequence[float]], size: tuple[float, float]) -> Regions:
    """Return the regions of objects with boxes x, y, width, height."""
    array = np.array(boxes, float).reshape(-1, 4)
    return Regions(np.array(labels, int), array, array[:, 2] * array[:, 3], size)


def regions_of_pixels(labels: np.ndarray, count: int) -> Regions:
    """Return a region for each class that a map has; see Regions.

    Args:
        labels: Class of each pixel, shape (H, W); pixels with `count` or more have none.
        count: Number of classes.
    """
    height, width = labels.shape
    rows, columns = (np.arange(side) * GRID // side for side in (height, width))
    # cells of pixels: those of images smaller than the grid leave gaps, which are filled from the left and from above
    places = rows[:, None] * GRID + columns
    inside = labels < count
    keys = labels.astype(np.int64)[inside] * GRID * GRID + places[inside]
    counts = np.bincount(keys, minlength=count * GRID * GRID).reshape(count, GRID, GRID)
    present = np.flatnonzero(counts.any((1, 2)))
    boxes = []
    for label in present:
        mask = labels == label
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([xs[0], ys[0], xs[-1] - xs[0] + 1, ys[-1] - ys[0] + 1])
    pixels = np.bincount(places.ravel(), minlength=GRID * GRID).reshape(GRID, GRID)
    cover = (counts[present] / pixels.clip(1)).astype(np.float32)
    for axis, side in ((1, height), (2, width)):
        if side < GRID:
            nearest = (np.arange(GRID) * side // GRID) * GRID // side
            cover = cover.take(nearest, axis)
    return Regions(present, np.array(boxes, float).reshape(-1, 4), counts[present].sum((1, 2)), (width, height), cover)


def cover_of_boxes(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Count the boxes over each cell of a grid, each relative to its image.

    Args:
        boxes: x, y, width, height, shape (N, 4).
        sizes: Width and height of the image of each, shape (N, 2).

    Returns:
        Shape (GRID, GRID).
    """
    edges = np.zeros((GRID + 1, GRID + 1))
    if len(boxes):
        shares = boxes / np.tile(sizes, 2)
        low = np.floor(shares[:, :2] * GRID).clip(0, GRID - 1).astype(int)
        high = np.ceil((shares[:, :2] + shares[:, 2:]) * GRID).clip(low + 1, GRID).astype(int)
        for (xs, ys), by in (((low, low), 1), ((high, high), 1), ((low, high), -1), ((high, low), -1)):
            np.add.at(edges, (ys[:, 1], xs[:, 0]), by)
    return edges.cumsum(0).cumsum(1)[:GRID, :GRID]
