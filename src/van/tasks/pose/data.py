"""Annotated persons for training a pose network."""

from pathlib import Path
from typing import Any

from van.data.labels import open_labels
from van.data.loaders import loading_processes
from van.data.pose import PoseDataset, open_persons
from van.data.skipping import Skipping
from van.data.splits import training_splits
from van.engine.data import DataModule
from van.errors import DataError
from van.tasks.pose.options import PoseTrainOptions


class PoseData(DataModule):
    """Training and validation persons of one data set; see van.data.labels for the formats.

    A batch is what PoseDataset gives, collated. With check_data every image is decoded here already, and with
    on_bad_image "skip" every image of the validation split.

    Args:
        options: Of training.
        batch_size: Crops per step and process.

    Raises:
        DataError: the data cannot be used.
    """

    train: Any
    val: PoseDataset

    def __init__(self, options: PoseTrainOptions, batch_size: int) -> None:
        size = options.model.image_size
        splits = open_labels(options.data, "keypoints", options.data_root)
        train_split, val_split, remembered = training_splits(splits, options.division, options.data)
        common: Any = {"on_bad_image": options.on_bad_image, "workers": options.workers}
        # what cannot be decoded is replaced while training, but must be out of the metrics from the start
        decode = options.check_data or options.on_bad_image == "skip"
        train, notes = open_persons(train_split, size, options.augmentation, decode=options.check_data, **common)
        val, more = open_persons(val_split, size, decode=decode, **common)
        if train.names != val.names:
            raise DataError(
                f"The train split of {options.data} has keypoints {', '.join(train.names)}, the val split "
                f"{', '.join(val.names)}. Give both the same."
            )
        if options.keypoints not in (None, len(val.names)):
            raise DataError(
                f"keypoints is {options.keypoints}, but {options.data} has {len(val.names)} "
                f"({', '.join(val.names[:5])}, ...). Leave keypoints out, or check the data."
            )
        posed = [category for category in val.split.categories if category.get("keypoints")]
        names = [category["name"] for category in posed]
        super().__init__(train, val, names, batch_size, loading_processes(options.workers), seed=options.seed)
        self.notes = [*notes, *more]
        self.extra = {
            "category_ids": [category["id"] for category in posed],
            "keypoint_names": val.names,
            "flip_pairs": [list(pair) for pair in val.split.flip_pairs],
            "skeleton": [list(pair) for pair in val.split.skeleton],
            **remembered,
        }

    def skip_bad_images(self, file: Path) -> None:
        """From now on, train on another person where an image cannot be decoded; see DataModule."""
        self.train = Skipping(self.train, file, [person.image_id for person in self.train.persons])
