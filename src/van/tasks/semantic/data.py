"""Images with labels of their pixels: splits, transforms, loaders."""

from functools import partial
from typing import Any

import torch

from van.data.classes import match_classes
from van.data.loaders import as_stacks, loading_processes
from van.data.pixel_checks import usable_pixels, usable_splits
from van.data.semantic import SemanticDataset, SemanticSplit
from van.data.shapes import data_folder
from van.data.targets import check_labels
from van.engine.data import StepData
from van.engine.fit import length
from van.errors import DataError
from van.tasks.semantic.options import SemanticEvaluateOptions, SemanticTrainOptions


def semantic_data(options: SemanticTrainOptions, processes: int) -> StepData:
    """Return training and validation images; the built-in shapes are made where they are missing.

    Args:
        options: Of training.
        processes: How many processes share a batch.

    Raises:
        DataError: the data cannot be used.
    """
    folder = data_folder(options.data, options.data_root)
    train, val, notes = usable_splits(
        options.format.find, folder, options.on_problem, options.check_data, options.workers
    )
    if train.class_names != val.class_names:
        raise DataError(
            f"{train.name} and {val.name} have different classes. Put one classes.txt above both, or name it as "
            "format.classes."
        )
    data = StepData(
        SemanticDataset(train, options.augmentation.transform()),
        SemanticDataset(val),
        train.class_names,
        options.batch_size // processes,
        loading_processes(options.workers),
        val,
        partial(stack_labels, num_classes=len(train.class_names)),
        length(options)[1],
        options.seed,
    )
    data.notes += notes
    return data


def stack_labels(items: list[tuple[Any, Any]], num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (B, 3, H, W) and labels (B, H, W), which are checked here and not on the device."""
    images, labels = as_stacks(items)
    check_labels(labels, num_classes)
    return images, labels


def evaluation_split(options: SemanticEvaluateOptions, class_names: list[str]) -> tuple[SemanticSplit, list[str]]:
    """Return the images to evaluate on, and what was left out of them.

    Args:
        options: Of evaluation.
        class_names: Those of the model.

    Raises:
        DataError: the data cannot be used, or has a class that the model does not know.
    """
    found = options.format.find(data_folder(options.data, options.data_root), options.split)
    match_classes(found.class_names, class_names, found.name)  # before the long check
    return usable_pixels(found, options.on_problem, workers=options.workers, empty_classes=False)
