"""Images with labels of their pixels: splits, transforms, loaders."""

from typing import Any

import numpy as np
from scipy.sparse import csr_array
from tqdm import tqdm

from van.data.classes import match_classes
from van.data.folders import data_folder
from van.data.loaders import collate_labels
from van.data.mixing import LabelTargets
from van.data.pixel_checks import usable_split, usable_splits
from van.data.semantic import SemanticDataset, SemanticSplit
from van.data.splits import evaluated_split, training_splits
from van.engine.data import StepData
from van.errors import DataError
from van.tasks.semantic.options import SemanticEvaluateOptions, SemanticTrainOptions


class SemanticData(StepData):
    """Images with labels of their pixels; see StepData."""

    def contents(self) -> csr_array:
        """Return the number of pixels of each class on each training image; all masks are read for it."""
        split, classes = self.train.split, len(self.class_names)
        images = tqdm(range(len(split)), desc="Counting pixels", unit=" masks", leave=False, disable=None)
        counts = (np.bincount(split.labels(i).ravel(), minlength=classes)[:classes] for i in images)
        return csr_array(np.stack(list(counts)), dtype=float)


def semantic_data(options: SemanticTrainOptions, processes: int) -> SemanticData:
    """Return training and validation images; the built-in shapes are made where they are missing.

    Args:
        options: Of training.
        processes: How many processes share a batch.

    Raises:
        DataError: the data cannot be used.
    """
    splits = options.format.find(data_folder(options.data, options.data_root))()
    train, val, remembered = training_splits(splits, options.division, options.data)
    train, val, notes = usable_splits(train, val, options.on_bad_image, options.check_data, options.workers)
    if train.class_names != val.class_names:
        raise DataError(
            f"{train.name} and {val.name} have different classes. Put one classes.txt above both, or name it as "
            "format.classes."
        )
    data = SemanticData(
        options,
        processes,
        SemanticDataset(train),
        SemanticDataset(val),
        train.class_names,
        val,
        collate_labels(len(train.class_names)),
        notes,
    )
    data.augment(options.augmentation.transform(), options.augmentation, LabelTargets)
    data.extra |= remembered
    return data


def evaluation_split(
    options: SemanticEvaluateOptions, class_names: list[str], known: Any
) -> tuple[SemanticSplit, list[str]]:
    """Return the images to evaluate on, and what was left out of them.

    Args:
        options: Of evaluation.
        class_names: Those of the model.
        known: The split that the weights remember.

    Raises:
        DataError: the data cannot be used, or has a class that the model does not know.
    """
    splits = options.format.find(data_folder(options.data, options.data_root))()
    found, options.split, notes = evaluated_split(splits, options.split, known, options.data)
    match_classes(found.class_names, class_names, found.name)  # before the long check
    decode = options.on_bad_image == "skip"
    kept, more = usable_split(found, options.on_bad_image, decode, options.workers, empty_classes=False)
    return kept, notes + more
