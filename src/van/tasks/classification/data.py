"""Labelled images for training and evaluating a classifier: parts, transforms, loaders."""

import os
from typing import Any

from lightning import LightningDataModule
from timm.data import create_transform
from torch.utils.data import DataLoader

from van.data.augmentation import Augmentation
from van.data.images import mode_for
from van.data.samples import ImageDataset, Samples, check_images, split_samples
from van.data.sources import Source, open_data, relabel
from van.errors import DataError


def loading_processes(data: str) -> int:
    """Return how many processes load images where nobody says: one per processor, at most 8, none for the digits."""
    return 0 if data == "digits" else min(8, os.cpu_count() or 1)


class ClassificationData(LightningDataModule):
    """Training and validation images of one data set.

    The files are found at construction, so that what is wrong with them shows before anything is built.

    Args:
        data: Path or name, see van.data.sources.open_data.
        root: Where named sets are stored.
        preprocessing: timm's data configuration of the model: input_size (C, H, W), mean, std, interpolation, crop_pct.
        augmentation: Random changes of the training images.
        batch_size: Images per step and process.
        val_fraction: Share that becomes the validation part where the data has none.
        seed: Of the split and the shuffling of shards.
        workers: Loading processes; None takes one per processor, at most 8, and none for the digits.

    Attributes:
        class_names: Names in the order of the labels.
        notes: Sentences about the data that the user should know.

    Raises:
        DataError: the data cannot be used.
    """

    def __init__(
        self,
        data: str,
        root: str | None,
        preprocessing: dict[str, Any],
        augmentation: Augmentation,
        batch_size: int,
        val_fraction: float = 0.2,
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.seed = seed
        self.workers = loading_processes(data) if workers is None else workers
        self.mode = mode_for(preprocessing["input_size"][0])
        self.notes: list[str] = []

        parts = open_data(data, root)
        whole = parts.get("train", parts.get("all"))
        if whole is None:
            raise DataError(f"{data} has a val part but no train part. Add a train folder beside it.")
        self.train: Source = whole
        if "val" in parts:
            self.val: Source = parts["val"]
            relabel(self.val, self.train.class_names, "the train part")
        elif isinstance(whole, Samples):
            self.train, self.val = split_samples(whole, val_fraction, seed)
        else:
            raise DataError(f"{data} has no validation shards. Name shards train-*.tar and val-*.tar.")
        self.class_names = self.train.class_names
        if len(self.class_names) < 2:
            raise DataError(
                f"{data} has one class only ({self.class_names[0]}). A classifier needs two or more class folders."
            )
        if missing := self.train.missing_classes():
            raise DataError(f"The train part of {data} has no image of {', '.join(missing[:5])}. Add some.")
        if missing := self.val.missing_classes():
            self.notes.append(
                f"The validation part has no image of {len(missing)} classes ({', '.join(missing[:5])}): how well they "
                "are recognised is not measured."
            )

    def check(self) -> None:
        """Decode every image once.

        Raises:
            DataError: some are broken; the message lists them.
        """
        for part in (self.train, self.val):
            if isinstance(part, Samples):
                check_images(part, self.workers)
            else:
                raise DataError("--check-data reads single files; WebDataset shards are not checked. Leave it out.")

    def train_dataloader(self) -> DataLoader:
        """Return shuffled, augmented batches (B, C, H, W) with labels (B,); the last, incomplete one is left out."""
        transform = self.augmentation.transform(self.preprocessing)
        if isinstance(self.train, Samples):
            return DataLoader(
                ImageDataset(self.train, transform, self.mode),
                batch_size=self.batch_size,
                shuffle=True,
                drop_last=len(self.train) > self.batch_size,
                **self._loading(self.workers),
            )
        # every process reads its own files: with as many files for each, all samples come equally often
        files = len(self.train.files)
        workers = next((n for n in range(min(self.workers, files), 0, -1) if files % n == 0), 0)
        dataset = self.train.dataset(transform, self.mode, True, self.batch_size, workers, self.seed)
        return DataLoader(dataset, batch_size=self.batch_size, **self._loading(workers))

    def val_dataloader(self) -> DataLoader:
        """Return batches of the validation part in order, with the model's own preprocessing."""
        return evaluation_loader(self.val, self.preprocessing, 2 * self.batch_size, self.workers)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Tell the reader of shards which epoch comes next: it shuffles by it."""
        if not isinstance(self.train, Samples) and self.trainer is not None and self.trainer.training:
            loader = self.trainer.train_dataloader
            if loader is not None:
                loader.dataset.set_epoch(self.trainer.current_epoch + 1)
        return batch

    @staticmethod
    def _loading(workers: int) -> dict[str, Any]:
        return {"num_workers": workers, "persistent_workers": workers > 0}


def evaluation_loader(source: Source, preprocessing: dict[str, Any], batch_size: int, workers: int) -> DataLoader:
    """Return batches (B, C, H, W) and labels (B,) of a source in order, preprocessed as a checkpoint asks for.

    Args:
        source: Labelled images.
        preprocessing: timm's data configuration.
        batch_size: Images per batch.
        workers: Loading processes.
    """
    transform: Any = create_transform(**preprocessing)
    mode = mode_for(preprocessing["input_size"][0])
    if isinstance(source, Samples):
        return DataLoader(ImageDataset(source, transform, mode), batch_size=batch_size, num_workers=workers)
    # one process: with more, timm's reader reports a length that it does not keep
    workers = min(1, workers)
    return DataLoader(source.dataset(transform, mode, workers=workers), batch_size=batch_size, num_workers=workers)
