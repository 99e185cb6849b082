"""Annotated images for training a detector."""

from collections import Counter
from typing import Any

from scipy.sparse import csr_array
from torch.utils.data import DataLoader

from van.data.balance import contents_of
from van.data.coco import CocoDetectionDataset
from van.data.coco_checks import usable_split
from van.data.labels import open_labels
from van.data.loaders import OrientedBatches, collate_objects, evaluation_loader, loading_processes
from van.data.mixing import ObjectTargets
from van.data.splits import training_splits
from van.engine.data import DataModule
from van.errors import DataError
from van.tasks.detection.options import DetectionTrainOptions


class DetectionData(DataModule):
    """Training and validation images of one data set; see van.data.labels for the formats.

    A batch is a list of images (3, H, W) of uint8 and a list of targets; see CocoDetectionDataset. With check_data
    every image is decoded here already, and with on_bad_image "skip" every validation image.

    Args:
        options: Of training.
        masks: Whether masks are learned.
        batch_size: Images per step and process.

    Raises:
        DataError: the data cannot be used.
    """

    train: CocoDetectionDataset
    val: CocoDetectionDataset

    def __init__(self, options: DetectionTrainOptions, masks: bool, batch_size: int) -> None:
        transform = options.augmentation.transform(options.model.min_size, options.model.max_size)
        splits = open_labels(options.data, "masks" if masks else "boxes", options.data_root)
        train, val, remembered = training_splits(splits, options.division, options.data)
        common: Any = {"masks": masks, "workers": options.workers}
        # what cannot be decoded is replaced while training, but must be out of the metrics from the start
        decode = options.check_data or options.on_bad_image == "skip"
        train, notes = usable_split(train, options.on_bad_image, decode=options.check_data, **common)
        val, more = usable_split(val, options.on_bad_image, decode=decode, **common)
        if (val.class_names, val.category_ids) != (train.class_names, train.category_ids):
            raise DataError(
                f"{val.name} has other categories than {train.name}. Give both the same list of categories."
            )
        dataset = CocoDetectionDataset(train, None, masks, options.keep_empty)
        if not any(dataset.objects(image["id"]) for image in dataset.images):
            raise DataError(f"{train.name} has no annotations to learn from. See van check-data {options.data}.")
        workers = loading_processes(options.workers)
        collate = collate_objects(len(train.class_names), masks)
        val_dataset, names = CocoDetectionDataset(val), train.class_names
        super().__init__(dataset, val_dataset, names, batch_size, workers, val, options.seed, collate)
        self.augment(transform, options.augmentation, ObjectTargets)
        self.notes = [*notes, *more]
        self.extra = {"category_ids": train.category_ids, **remembered}

    def contents(self) -> csr_array:
        """Return the number of objects of each class on each training image."""
        split, train = self.train.split, self.train
        counts = (Counter(split.labels[a["category_id"]] for a in train.objects(one["id"])) for one in train.images)
        return contents_of(counts, len(self.class_names))

    def order(self, processes: int | None = None, rank: int | None = None) -> OrientedBatches:
        """Return batches in each of which all images are landscape or all portrait."""
        return OrientedBatches(self.train.ratios, self.batch_size, self.seed, processes, rank, self.factors)

    def val_dataloader(self) -> DataLoader:
        """Return the validation images as they are."""
        return evaluation_loader(self.val, self.batch_size, self.workers, self.val.ratios)
