"""Images that int8 files are calibrated with, as the network's core sees them."""

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from van.data.inputs import ImageSources
from van.engine.engines import place_of
from van.engine.evaluation import Evaluation, spread
from van.engine.predictor import Predictor
from van.errors import DataError, VanError

Split = Literal["train", "val"]

IMAGES = 128  # which are seen; more change the ranges of activations little
_LISTED = 100_000  # images that are listed to choose from


class Calibration:
    """Inputs of a network's core, kept in a temporary folder: those of large images take gigabytes.

    Iterating yields a tuple of arrays for each call of the core.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="van-calibration-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        for number in range(self._count):
            with np.load(self._folder / f"{number}.npz") as content:
                yield tuple(content[name] for name in content.files)

    def add(self, inputs: tuple[torch.Tensor, ...]) -> None:
        """Keep the inputs of one call."""
        arrays = [one.detach().cpu().numpy() for one in inputs]
        np.savez(self._folder / f"{self._count}.npz", *arrays)
        self._count += 1


def calibrate(predictor: Predictor, source: str, count: int = IMAGES, split: Split = "train") -> Calibration:
    """Return what the core of a network is given for images: the task's own preprocessing makes it of them.

    Args:
        predictor: The network, on the CPU, with a batch size of 1.
        source: Labeled data in the formats that the task trains on, or images as `van predict` takes them.
        count: Most of them that are seen; they are spread over the whole.
        split: What is taken of labeled data; everything where there is no such split.

    Raises:
        VanError: there are no such images, or one of them cannot be read.
    """
    seen = Calibration()
    owner, method = place_of(predictor.model)
    original = getattr(owner, method)

    def record(*inputs: torch.Tensor) -> Any:
        if len(seen) < count:  # windows and mirror images count as images
            seen.add(inputs)
        return original(*inputs)

    owner.__dict__[method] = record
    try:
        _run(predictor, source, count, split)
    finally:
        del owner.__dict__[method]
    if not len(seen):
        raise VanError(f"The network sees nothing of {source}. Give other images to calibrate with.")
    return seen


@torch.inference_mode()
def _run(predictor: Predictor, source: str, count: int, split: Split) -> None:
    """Run the network on labeled data, or where there are none on images."""
    try:
        evaluation = _labeled(predictor, source, split)
    except DataError as labeled:
        try:
            images: list[Any] = list(islice(ImageSources([source]), _LISTED))
        except DataError as unlabeled:
            raise VanError(
                f"{source} is neither data of the task {predictor.task} nor images to calibrate with. {labeled} "
                f"{unlabeled}"
            ) from unlabeled
        for result in predictor.stream((images[i] for i in spread(len(images), count)), keep_images=False):
            if isinstance(result, DataError):
                raise result from None
        return
    loader: Any = evaluation.batches()
    samples = loader.dataset
    for i in spread(len(samples), count):  # van's own loaders have datasets that make the batches
        evaluation.update(samples[[i]] if loader.batch_size is None else loader.collate_fn([samples[i]]))


def _labeled(predictor: Predictor, source: str, split: Split) -> Evaluation:
    """Return the task's evaluation on a split, or where the data has no such on everything.

    Raises:
        DataError: it is no data of the task.
    """
    task = predictor.task
    try:
        found, _ = task.open_split(task.evaluate_options(weights="", data=source, split=split), predictor)
    except DataError:
        found, _ = task.open_split(task.evaluate_options(weights="", data=source, split="all"), predictor)
    return task.evaluation(predictor, found, workers=0)
