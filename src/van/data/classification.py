"""Labeled images for training and evaluating a classifier: splits, transforms, loaders."""

from typing import Any

from timm.data import create_transform
from torch.utils.data import DataLoader

from van.data.augmentation import ClassificationAugmentation
from van.data.checks import listed
from van.data.images import mode_for
from van.data.loaders import loading_processes
from van.data.module import DataModule
from van.data.samples import ImageDataset, Samples, find_problems, split_samples
from van.data.sources import Source, describe_split, open_data, relabel
from van.errors import DataError


class ClassificationData(DataModule):
    """Training and validation images of one data set.

    The files are found at construction, so that problems show before anything is built.

    Args:
        data: Path or name; see van.data.sources.open_data.
        root: Where named data sets are stored.
        preprocessing: timm's data configuration of the model: input_size (C, H, W), mean, std, interpolation, crop_pct.
        augmentation: Random changes to the training images.
        batch_size: Images per step and process.
        val_fraction: Fraction of the images used for validation where the data has no validation split.
        seed: Of the split and the shuffling of shards.
        workers: Loading processes; None takes one per processor, at most 8, and none for the digits.

    Raises:
        DataError: the data cannot be used.
    """

    def __init__(
        self,
        data: str,
        root: str | None,
        preprocessing: dict[str, Any],
        augmentation: ClassificationAugmentation,
        batch_size: int,
        val_fraction: float = 0.2,
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        self.transform = augmentation.transform(preprocessing)
        self.preprocessing = preprocessing
        self.seed = seed
        self.mode = mode_for(preprocessing["input_size"][0])

        splits = open_data(data, root)
        self._description = {} if "val" in splits else describe_split(splits, val_fraction, seed)
        train = splits.get("train", splits.get("all"))
        if train is None:
            raise DataError(f"{data} has a val split but no train split. Add a train folder beside it.")
        if "val" in splits:
            val: Source = splits["val"]
            relabel(val, train.class_names, f"The val split of {data}", "the train split")
        elif isinstance(train, Samples):
            train, val = split_samples(train, val_fraction, seed)
        else:
            raise DataError(f"{data} has no validation shards. Name the shards train-*.tar and val-*.tar.")
        if len(train.class_names) < 2:
            raise DataError(
                f"{data} has only one class ({train.class_names[0]}). A classifier needs at least two class folders."
            )
        if missing := train.missing_classes():
            raise DataError(f"The train split of {data} has no image of {', '.join(missing[:5])}. Add some.")
        # the digits are in memory
        workers = loading_processes(workers, 0 if data == "digits" else None)
        super().__init__(train, val, train.class_names, batch_size, workers)
        if self._description:
            self.extra = {"split": self._description}
        if missing := val.missing_classes():
            self.notes.append(
                f"The val split has no image of {len(missing)} of {len(val.class_names)} classes "
                f"({', '.join(missing[:5])}): their accuracy is not measured."
            )

    def split_description(self) -> dict[str, Any]:
        """Return what van.data.sources.open_split needs to find the validation images again.

        Returns:
            val_fraction, seed and images, which JSON can hold; empty where the data has splits of its own.
        """
        return dict(self._description)

    def check(self) -> None:
        """Decode every image once.

        Raises:
            DataError: some are broken; the message lists them.
        """
        for split in (self.train, self.val):
            if not isinstance(split, Samples):
                raise DataError("WebDataset shards cannot be checked, only single files. Leave out --check-data.")
            if problems := find_problems(split, workers=self.workers, few=0):
                raise DataError(f"{len(problems)} of {len(split)} images cannot be used:\n{listed(problems)}")

    def train_dataloader(self) -> DataLoader:
        """Return shuffled, augmented batches (B, C, H, W) with labels (B,); the last, incomplete one is dropped."""
        if isinstance(self.train, Samples):
            return DataLoader(
                ImageDataset(self.train, self.transform, self.mode),
                batch_size=self.batch_size,
                shuffle=True,
                drop_last=len(self.train) > self.batch_size,
                **self._loading(self.workers),
            )
        # every process reads its own files: with equally many files for each, all samples occur equally often
        files = len(self.train.files)
        workers = next((n for n in range(min(self.workers, files), 0, -1) if files % n == 0), 0)
        dataset = self.train.dataset(self.transform, self.mode, True, self.batch_size, workers, self.seed)
        return DataLoader(dataset, batch_size=self.batch_size, **self._loading(workers))

    def val_dataloader(self) -> DataLoader:
        """Return batches of the validation split in order, with the model's own preprocessing."""
        return classification_loader(self.val, self.preprocessing, 2 * self.batch_size, self.workers)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Tell the reader of shards which epoch comes next: it shuffles accordingly."""
        if not isinstance(self.train, Samples) and self.trainer is not None and self.trainer.training:
            loader = self.trainer.train_dataloader
            if loader is not None:
                loader.dataset.set_epoch(self.trainer.current_epoch + 1)
        return batch

    @staticmethod
    def _loading(workers: int) -> dict[str, Any]:
        return {"num_workers": workers, "persistent_workers": workers > 0}


def classification_loader(source: Source, preprocessing: dict[str, Any], batch_size: int, workers: int) -> DataLoader:
    """Return batches (B, C, H, W) and labels (B,) of a source in order, preprocessed for evaluation.

    Args:
        source: Labeled images.
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
