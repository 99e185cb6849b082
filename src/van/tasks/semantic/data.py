"""Images with labels of their pixels: splits, transforms, loaders."""

from van.data.classes import match_classes
from van.data.folders import data_folder
from van.data.loaders import collate_labels
from van.data.pixel_checks import usable_split, usable_splits
from van.data.semantic import SemanticDataset, SemanticSplit
from van.engine.data import StepData
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
        options.format.find, folder, options.on_bad_image, options.check_data, options.workers
    )
    if train.class_names != val.class_names:
        raise DataError(
            f"{train.name} and {val.name} have different classes. Put one classes.txt above both, or name it as "
            "format.classes."
        )
    return StepData(
        options,
        processes,
        SemanticDataset(train, options.augmentation.transform()),
        SemanticDataset(val),
        train.class_names,
        val,
        collate_labels(len(train.class_names)),
        notes,
    )


def evaluation_split(options: SemanticEvaluateOptions, class_names: list[str]) -> tuple[SemanticSplit, list[str]]:
    """Return the images to evaluate on, and what was left out of them.

    Args:
        options: Of evaluation.
        class_names: Those of the model.

    Raises:
        DataError: the data cannot be used, or has a class that the model does not know.
    """
    found = options.format.find(data_folder(options.data, options.data_root), options.split or "val")
    match_classes(found.class_names, class_names, found.name)  # before the long check
    decode = options.on_bad_image == "skip"
    return usable_split(found, options.on_bad_image, decode, options.workers, empty_classes=False)
