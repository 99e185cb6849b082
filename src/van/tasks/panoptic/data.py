"""Images with segments: splits, transforms, loaders."""

from collections import Counter
from typing import Any

from scipy.sparse import csr_array

from van.data.balance import contents_of
from van.data.classes import match_classes
from van.data.folders import data_folder
from van.data.loaders import collate_segments
from van.data.mixing import SegmentTargets
from van.data.panoptic import PanopticDataset, PanopticSplit, SegmentsToLearn, find_panoptic_splits
from van.data.pixel_checks import usable_split, usable_splits
from van.data.splits import evaluated_split, training_splits
from van.engine.data import StepData
from van.errors import DataError
from van.tasks.panoptic.options import PanopticEvaluateOptions, PanopticTrainOptions


class PanopticData(StepData):
    """Images with segments; see StepData."""

    def contents(self) -> csr_array:
        """Return the number of segments of each class on each training image, without crowd regions."""
        split = self.train.split
        kept = ([s for s in split.segments(image) if not s.get("iscrowd")] for image in split.images)
        counts = (Counter(split.labels[segment["category_id"]] for segment in segments) for segments in kept)
        return contents_of(counts, len(self.class_names))


def panoptic_data(options: PanopticTrainOptions, processes: int) -> PanopticData:
    """Return training and validation images; the built-in shapes are made where they are missing.

    Args:
        options: Of training.
        processes: How many processes share a batch.

    Raises:
        DataError: the data cannot be used.
    """
    splits = find_panoptic_splits(data_folder(options.data, options.data_root))
    train, val, remembered = training_splits(splits, options.division, options.data)
    train, val, notes = usable_splits(train, val, options.on_bad_image, options.check_data, options.workers)
    if train.coco.categories != val.coco.categories:
        raise DataError(
            f"{val.coco.files.annotations} has other categories than {train.coco.files.annotations}. Give both the "
            "same list of categories."
        )
    data = PanopticData(
        options,
        processes,
        PanopticDataset(train),
        PanopticDataset(val),
        train.class_names,
        val,
        collate_segments(len(train.class_names)),
        notes,
    )
    data.augment(SegmentsToLearn(options.augmentation.transform()), options.augmentation, SegmentTargets)
    data.extra |= {"category_ids": train.category_ids, "isthing": train.isthing, **remembered}
    return data


def evaluation_split(
    options: PanopticEvaluateOptions, class_names: list[str], known: Any
) -> tuple[PanopticSplit, list[str]]:
    """Return the images to evaluate on, and what was left out of them.

    Args:
        options: Of evaluation.
        class_names: Those of the model.
        known: The split that the weights remember.

    Raises:
        DataError: the data cannot be used, or has a class that the model does not know.
    """
    splits = find_panoptic_splits(data_folder(options.data, options.data_root))
    found, options.split, notes = evaluated_split(splits, options.split, known, options.data)
    match_classes(found.class_names, class_names, str(found.coco.files.annotations))  # before the long check
    decode = options.on_bad_image == "skip"
    kept, more = usable_split(found, options.on_bad_image, decode, options.workers, empty_classes=False)
    return kept, notes + more
