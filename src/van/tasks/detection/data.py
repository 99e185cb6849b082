"""Annotated images for training a detector."""

from typing import Any

from torch.utils.data import DataLoader

from van.data.coco import CocoDetectionDataset
from van.data.coco_checks import usable_split
from van.data.folders import data_folder
from van.data.loaders import OrientedBatches, batch_loader, collate_objects, evaluation_loader, loading_processes
from van.engine.data import DataModule
from van.errors import DataError
from van.tasks.detection.options import DetectionTrainOptions


class DetectionData(DataModule):
    """Training and validation images of one data set in COCO format.

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
    shares_itself = True

    def __init__(self, options: DetectionTrainOptions, masks: bool, batch_size: int) -> None:
        transform, folder = options.augmentation.transform(), data_folder(options.data, options.data_root)
        common: Any = {"masks": masks, "workers": options.workers}
        # what cannot be decoded is replaced while training, but must be out of the metrics from the start
        decode = options.check_data or options.on_bad_image == "skip"
        train, notes = usable_split(folder, "train", options.on_bad_image, decode=options.check_data, **common)
        val, more = usable_split(folder, "val", options.on_bad_image, decode=decode, **common)
        if (val.class_names, val.category_ids) != (train.class_names, train.category_ids):
            raise DataError(
                f"{val.name} has other categories than {train.name}. Give both the same list of categories."
            )
        dataset = CocoDetectionDataset(train, transform, masks)
        if not any(dataset.objects(image["id"]) for image in dataset.images):
            raise DataError(f"{train.name} has no annotations to learn from. See van check-data {options.data}.")
        workers = loading_processes(options.workers)
        super().__init__(dataset, CocoDetectionDataset(val), train.class_names, batch_size, workers, split=val)
        self.masks, self.seed = masks, options.seed
        self.notes = [*notes, *more]
        self.extra = {"category_ids": train.category_ids}

    def steps(self, processes: int) -> int:
        """Return how many batches each of so many processes trains on in an epoch."""
        return len(OrientedBatches(self.train.ratios, self.batch_size, self.seed, processes, 0))

    def train_dataloader(self) -> DataLoader:
        """Return shuffled, augmented batches, in each of which all images are landscape or all portrait."""
        batches = OrientedBatches(self.train.ratios, self.batch_size, self.seed)
        return batch_loader(self.train, batches, collate_objects(len(self.class_names), self.masks), self.workers)

    def val_dataloader(self) -> DataLoader:
        """Return the validation images as they are."""
        return evaluation_loader(self.val, self.batch_size, self.workers, self.val.ratios)
