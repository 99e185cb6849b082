"""Images for a predictor: decoded one by one, each a tensor or the error that it gave."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional

from van.data.images import ImageLike, read_image
from van.errors import DataError


class ImageFiles(Dataset):
    """Images as tensors, or the error that each of them gave.

    Args:
        images: Paths and whatever else read_image takes.
        transform: Makes a tensor of a PIL image; by default (3, H, W) of uint8.
        mode: Colours that are read, in Pillow's words.
    """

    def __init__(
        self,
        images: Sequence[ImageLike],
        transform: Callable[[Any], Any] = functional.pil_to_tensor,
        mode: str = "RGB",
    ) -> None:
        self.images = images
        self.transform = transform
        self.mode = mode

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor | DataError:
        try:
            image = self.images[index]
            named = isinstance(image, str | Path) or getattr(image, "filename", None) or getattr(image, "name", None)
            name = None if named or len(self) == 1 else f"Image {index + 1} of {len(self)}"
            return self.transform(read_image(image, self.mode, name))
        except DataError as error:
            return error


def as_list(batch: list[Any]) -> list[Any]:
    """Collate nothing: images of any sizes and errors stay side by side."""
    return batch
