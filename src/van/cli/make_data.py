"""`van make-data`: write the built-in data set of shapes and stick figures."""

from typing import Literal


def make_data(kind: Literal["shapes"], folder: str, *, images: int = 2400, size: int = 128, seed: int = 0) -> None:
    """Write pictures of shapes and stick figures with boxes, masks, keypoints, semantic, panoptic and saliency labels.

    Args:
        kind: What to make: shapes.
        folder: Where to write; it must be missing or empty.
        images: How many; the last fifth is for validation.
        size: Longer side of the images in pixels.
        seed: The same seed gives the same data.
    """
    from pathlib import Path

    from van.data.shapes import make_shapes

    make_shapes(folder, images, size, seed)
    held_out = len(list((Path(folder) / "val").iterdir()))
    print(f"{folder}: {images - held_out} images for training, {held_out} for validation, {size} pixels, seed {seed}")
