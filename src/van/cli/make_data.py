"""`van make-data`."""

from pathlib import Path
from typing import Literal

from van.cli.selecting import call


def make_data(kind: Literal["shapes"], folder: str, *, images: int = 2400, size: int = 128, seed: int = 0) -> None:
    """Write pictures of shapes and stick figures with boxes, masks, keypoints, semantic, panoptic and saliency labels.

    Args:
        kind: What to make: shapes.
        folder: Where to write; missing or empty.
        images: Number of images; the last fifth is for validation.
        size: Longer side of the images in pixels.
        seed: The same seed gives the same data.
    """
    from van.data.shapes import make_shapes

    make_shapes(folder, images, size, seed)
    held_out = len(list((Path(folder) / "val").iterdir()))
    print(f"{folder}: {images - held_out} images for training, {held_out} for validation, {size} pixels, seed {seed}")


def run(arguments: list[str]) -> None:
    """Write a built-in data set."""
    call(make_data, arguments, "make-data")
