"""Images with masks of salient objects: splits, transforms, loaders."""

from van.data.folders import data_folder
from van.data.loaders import collate_masks
from van.data.pixel_checks import usable_split, usable_splits
from van.data.saliency import SaliencyDataset, SaliencySplit, find_saliency
from van.engine.data import StepData
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
    train, val, notes = usable_splits(find_saliency, folder, options.on_bad_image, options.check_data, options.workers)
    return StepData(
        options,
        processes,
        SaliencyDataset(train, options.augmentation.transform()),
        SaliencyDataset(val),
        ["salient"],
        val,
        collate_masks,
        notes,
    )


def evaluation_split(options: SaliencyEvaluateOptions) -> tuple[SaliencySplit, list[str]]:
    """Return the images to evaluate on, and what was left out of them.

    Raises:
        DataError: the data cannot be used.
    """
    found = find_saliency(data_folder(options.data, options.data_root), options.split or "val")
    decode = options.on_bad_image == "skip"
    return usable_split(found, options.on_bad_image, decode, options.workers, empty_classes=False)
