"""Images for predictors: decoded one by one, each a tensor or the error that it gave; results in their order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
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


def _as_list(batch: list[Any]) -> list[Any]:
    # images of any sizes and errors stay side by side
    return batch


def results_in_order(
    find: Callable[[list[torch.Tensor]], Iterable[Any]], files: ImageFiles, batch_size: int, workers: int
) -> Iterator[Any]:
    """Yield the result of each image in order, or the error that it gave.

    Args:
        find: Makes of the images of a batch their results.
        files: The images.
        batch_size: Images per batch.
        workers: Processes that decode; 0 decodes in this one.
    """
    for batch in DataLoader(files, batch_size, num_workers=workers, collate_fn=_as_list):
        good = [item for item in batch if not isinstance(item, DataError)]
        found = iter(find(good) if good else ())
        for item in batch:
            yield item if isinstance(item, DataError) else next(found)


def one_or_several(
    images: ImageLike | Sequence[ImageLike], stream: Callable[[list[Any]], Iterable[Any]]
) -> Any | list[Any]:
    """Return the result of one image, or the list of those of several.

    Args:
        images: One of what read_image takes, or a sequence of these; an array or tensor with one more dimension is a
            batch.
        stream: Makes of images their results, in order, with errors in their places.

    Raises:
        DataError: the first error among the results.
    """
    single = isinstance(images, str | Path | bytes | Image.Image | np.ndarray | torch.Tensor)
    one = (single or hasattr(images, "read")) and getattr(images, "ndim", 3) != 4
    several: list[Any] = [images] if one else list(cast(Sequence[Any], images))
    results = []
    for result in stream(several):
        if isinstance(result, DataError):
            raise result
        results.append(result)
    return results[0] if one else results
