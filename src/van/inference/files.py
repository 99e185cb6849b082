"""Images for predictors: decoded one by one, each a tensor or the error that it gave; results in their order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from van.data.images import ImageFiles, ImageLike
from van.errors import DataError


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
        good = [image.item for image in batch if not isinstance(image, DataError)]
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
