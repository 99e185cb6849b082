"""Labeled images for training and evaluating a classifier: splits, transforms, loaders."""

from typing import Any

from timm.data import create_transform
from torch.utils.data import DataLoader

from van.data.images import mode_for
from van.data.loaders import loading_processes
from van.data.samples import ImageDataset, Samples, check_images, split_samples
from van.data.sources import Source, open_data, relabel
from van.engine.data import DataModule
from van.engine.options import EvaluateOptions
from van.engine.predictor import Predictor
from van.errors import DataError
from van.tasks.classification.options import ClassificationTrainOptions


def _workers(workers: int | None, data: str) -> int:
    # the digits are in memory: no process is faster than none
    return loading_processes(workers, 0 if data == "digits" else None)


class ClassificationData(DataModule):
    """Training and validation images of one data set.

    The files are found at construction, so that what is wrong with them shows before anything is built.

    Args:
        options: Of training.
        preprocessing: timm's data configuration of the model: input_size (C, H, W), mean, std, interpolation, crop_pct.
        batch_size: Images per step and process.

    Raises:
        DataError: the data cannot be used.
    """

    def __init__(self, options: ClassificationTrainOptions, preprocessing: dict[str, Any], batch_size: int) -> None:
        data = options.data
        splits = open_data(data, options.data_root)
        train: Any = splits.get("train", splits.get("all"))
        description = None
        if train is None:
            raise DataError(f"{data} has a val split but no train split. Add a train folder beside it.")
        if "val" in splits:
            val: Any = splits["val"]
            relabel(val, train.class_names, f"The val split of {data}")
        elif isinstance(train, Samples):
            description = {"val_fraction": options.val_fraction, "seed": options.seed, "images": len(train)}
            train, val = split_samples(train, options.val_fraction, options.seed)
        else:
            raise DataError(f"{data} has no validation shards. Name shards train-*.tar and val-*.tar.")
        super().__init__(train, val, train.class_names, batch_size, _workers(options.workers, data))
        self.preprocessing = preprocessing
        self.augmentation = options.augmentation
        self.seed = options.seed
        self.mode = mode_for(preprocessing["input_size"][0])
        if description:
            self.extra["split"] = description
        if len(self.class_names) < 2:
            raise DataError(
                f"{data} has one class only ({self.class_names[0]}). A classifier needs two or more class folders."
            )
        if missing := train.missing_classes():
            raise DataError(f"The train split of {data} has no image of {', '.join(missing[:5])}. Add some.")
        if missing := val.missing_classes():
            self.notes.append(
                f"The validation split has no image of {len(missing)} classes ({', '.join(missing[:5])}): how well "
                "they are recognized is not measured."
            )

    def check(self) -> None:
        """Decode every image once.

        Raises:
            DataError: some are broken; the message lists them.
        """
        for split in (self.train, self.val):
            if not isinstance(split, Samples):
                raise DataError("--check-data reads single files; WebDataset shards are not checked. Leave it out.")
            check_images(split, self.workers)

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
        """Return batches of the validation split in order, with the model's own preprocessing."""
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


def evaluation_split(options: EvaluateOptions, predictor: Predictor) -> tuple[Source, list[str]]:
    """Return the images that evaluation is asked for, their classes numbered as the model's.

    Where the data has no splits, those that the weights were trained with are made again.

    Args:
        options: Of evaluation.
        predictor: Knows its classes, and the split that it was trained with.

    Returns:
        The images, and sentences about them.

    Raises:
        DataError: there is no such split, or the data has a class that the model does not know.
    """
    data, notes = options.data, []
    splits: dict[str, Source] = dict(open_data(data, options.data_root))
    known, whole = predictor.extra.get("split"), splits.get("all")
    if known and isinstance(whole, Samples) and options.split != "all":
        if len(whole) == known["images"]:
            splits["train"], splits["val"] = split_samples(whole, known["val_fraction"], known["seed"])
            notes.append(
                f"{data} has no splits; the weights were trained on {len(splits['train'])} of its {len(whole)} images, "
                f"and {len(splits['val'])} were held out."
            )
        else:
            notes.append(
                f"The weights were trained on {known['images']} images with a split of their own; {data} has "
                f"{len(whole)}, so all of them are measured, and some may have been trained on."
            )
    name = options.split = options.split or ("val" if "val" in splits else "all")
    if name not in splits:
        raise DataError(f"{data} has no split {name!r}, it has {', '.join(splits)}. Choose one with --split.")
    source, known_names = splits[name], predictor.class_names
    own = list(source.class_names)
    relabel(source, known_names, str(data))
    if all(name.isdecimal() for name in known_names) and len(own) == len(known_names):
        source.class_names = own  # of weights without names
    return source, notes
