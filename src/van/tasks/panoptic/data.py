"""Images with segments: splits, transforms, loaders."""

from functools import partial
from typing import Any

import torch

from van.data.classes import match_classes
from van.data.loaders import as_stacks, loading_processes
from van.data.panoptic import PanopticDataset, PanopticSplit, find_panoptic
from van.data.pixel_checks import usable_pixels, usable_splits
from van.data.shapes import data_folder
from van.data.targets import check_segments
from van.engine.data import StepData
from van.engine.fit import length
from van.errors import DataError
from van.tasks.panoptic.options import PanopticEvaluateOptions, PanopticTrainOptions


def panoptic_data(options: PanopticTrainOptions, processes: int) -> StepData:
    """Return training and validation images; the built-in shapes are made where they are missing.

    Args:
        options: Of training.
        processes: How many processes share a batch.

    Raises:
        DataError: the data cannot be used.
    """
    folder = data_folder(options.data, options.data_root)
    train, val, notes = usable_splits(find_panoptic, folder, options.on_problem, options.check_data, options.workers)
    if train.coco.categories != val.coco.categories:
        raise DataError(
            f"{val.coco.files.annotations} has other categories than {train.coco.files.annotations}. Give both the "
            "same list of categories."
        )
    data = StepData(
        PanopticDataset(train, options.augmentation.transform()),
        PanopticDataset(val, masks=False),
        train.class_names,
        options.batch_size // processes,
        loading_processes(options.workers),
        val,
        partial(stack_segments, num_classes=len(train.class_names)),
        length(options)[1],
        options.seed,
    )
    data.notes += notes
    data.extra |= {"category_ids": train.category_ids, "isthing": train.isthing}
    return data


def stack_segments(
    items: list[tuple[Any, Any]], num_classes: int
) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Return images (B, 3, H, W), and masks and labels of the segments of each, which are checked here."""
    images, targets = as_stacks(items)
    check_segments(targets, num_classes)
    return images, [{"masks": target["masks"], "labels": target["labels"]} for target in targets]


def evaluation_split(options: PanopticEvaluateOptions, class_names: list[str]) -> tuple[PanopticSplit, list[str]]:
    """Return the images to evaluate on, and what was left out of them.

    Args:
        options: Of evaluation.
        class_names: Those of the model.

    Raises:
        DataError: the data cannot be used, or has a class that the model does not know.
    """
    found = find_panoptic(data_folder(options.data, options.data_root), options.split)
    match_classes(found.class_names, class_names, str(found.coco.files.annotations))  # before the long check
    return usable_pixels(found, options.on_problem, workers=options.workers, empty_classes=False)
