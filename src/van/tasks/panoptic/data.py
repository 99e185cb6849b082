"""Images with segments: splits, transforms, loaders."""

from van.data.classes import match_classes
from van.data.folders import data_folder
from van.data.loaders import collate_segments
from van.data.panoptic import PanopticDataset, PanopticSplit, find_panoptic
from van.data.pixel_checks import usable_split, usable_splits
from van.engine.data import StepData
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
    train, val, notes = usable_splits(find_panoptic, folder, options.on_bad_image, options.check_data, options.workers)
    if train.coco.categories != val.coco.categories:
        raise DataError(
            f"{val.coco.files.annotations} has other categories than {train.coco.files.annotations}. Give both the "
            "same list of categories."
        )
    data = StepData(
        options,
        processes,
        PanopticDataset(train, options.augmentation.transform()),
        PanopticDataset(val, masks=False),
        train.class_names,
        val,
        collate_segments(len(train.class_names)),
        notes,
    )
    data.extra |= {"category_ids": train.category_ids, "isthing": train.isthing}
    return data


def evaluation_split(options: PanopticEvaluateOptions, class_names: list[str]) -> tuple[PanopticSplit, list[str]]:
    """Return the images to evaluate on, and what was left out of them.

    Args:
        options: Of evaluation.
        class_names: Those of the model.

    Raises:
        DataError: the data cannot be used, or has a class that the model does not know.
    """
    found = find_panoptic(data_folder(options.data, options.data_root), options.split or "val")
    match_classes(found.class_names, class_names, str(found.coco.files.annotations))  # before the long check
    decode = options.on_bad_image == "skip"
    return usable_split(found, options.on_bad_image, decode, options.workers, empty_classes=False)
