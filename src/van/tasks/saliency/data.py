"""Images with masks of salient objects: splits, transforms, loaders."""

from typing import Any

import torch

from van.data.loaders import as_stacks, loading_processes
from van.data.pixel_checks import usable_pixels, usable_splits
from van.data.saliency import SaliencyDataset, SaliencySplit, find_saliency
from van.data.shapes import data_folder
from van.data.targets import check_saliency
from van.engine.data import StepData
from van.engine.fit import length
from van.tasks.saliency.options import SaliencyEvaluateOptions, SaliencyTrainOptions


def saliency_data(options: SaliencyTrainOptions, processes: int) -> StepData:
    """Return training and validation images; the built-in shapes are made where they are missing.

    Args:
        options: Of training.
        processes: How many processes share a batch.

    Raises:
        DataError: the data cannot be used.
    """
    folder = data_folder(options.data, options.data_root)
    train, val, notes = usable_splits(find_saliency, folder, options.on_problem, options.check_data, options.workers)
    data = StepData(
        SaliencyDataset(train, options.augmentation.transform()),
        SaliencyDataset(val),
        ["salient"],
        options.batch_size // processes,
        loading_processes(options.workers),
        val,
        stack_masks,
        length(options)[1],
        options.seed,
    )
    data.notes += notes
    return data


def stack_masks(items: list[tuple[Any, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (B, 3, H, W) and masks (B, H, W) of floats from 0 to 1, which are checked here."""
    images, masks = as_stacks(items)
    check_saliency(masks)
    return images, masks.float()


def evaluation_split(options: SaliencyEvaluateOptions) -> tuple[SaliencySplit, list[str]]:
    """Return the images to evaluate on, and what was left out of them.

    Raises:
        DataError: the data cannot be used.
    """
    found = find_saliency(data_folder(options.data, options.data_root), options.split)
    return usable_pixels(found, options.on_problem, workers=options.workers, empty_classes=False)
