"""Labeled images for training and evaluating a classifier: splits, transforms, loaders."""

from pathlib import Path
from typing import Any

from scipy.sparse import csr_array
from timm.data import create_transform
from torch.utils.data import DataLoader, default_collate

from van.data import loaders
from van.data.balance import contents_of
from van.data.images import mode_for
from van.data.kinds import REGRESSION, SINGLE_LABEL
from van.data.parquet import ParquetSamples
from van.data.samples import ImageDataset, Samples, readable_samples, split_samples, usable_samples
from van.data.skipping import Skipping
from van.data.sources import open_data, relabel
from van.data.splits import held_out_note, other_data_note, refuse_folds, remembered
from van.data.tables import TableSamples
from van.engine.data import DataModule
from van.engine.options import EvaluateOptions
from van.engine.predictor import Predictor
from van.errors import DataError
from van.models.weights import Checkpoint
from van.tasks.classification.options import ClassificationTrainOptions
from van.tasks.classification.targets import Target, target_for, target_of


class ClassificationData(DataModule):
    """Training and validation images of one data set.

    The files are found at construction, so that problems show before anything is built.

    Args:
        options: Of training.
        preprocessing: timm's data configuration of the model: input_size (C, H, W), mean, std, interpolation, crop_pct,
            crop_mode.
        batch_size: Images per step and process.
        known: What the outputs of the weights mean that training starts from, if it starts from any.

    Attributes:
        target: What is learned.
        model: Name of the model to train.
        model_args: Arguments of the model.
        checkpoint: What training starts from, or None.

    Raises:
        DataError: the data cannot be used.
    """

    train: Samples
    val: Samples
    target: Target
    model: str
    model_args: dict[str, Any]
    checkpoint: Checkpoint | None

    def __init__(
        self,
        options: ClassificationTrainOptions,
        preprocessing: dict[str, Any],
        batch_size: int,
        known: Target | None = None,
    ) -> None:
        data = options.data
        splits = open_data(data, options.data_root, options.target)
        description: dict[str, Any] = {}
        notes: list[str] = []
        for name, source in splits.items():
            splits[name], more = readable_samples(source, _title(name, data), options.on_bad_image)
            notes += more
            if isinstance(source, TableSamples):
                unread = f"; not read: {', '.join(source.unread)}" if source.unread else ""
                notes.append(f"{source.file}: {source.kind} from {', '.join(source.columns)}{unread}.")
        train = splits.get("train", splits.get("all"))
        if train is None:
            raise DataError(f"{data} has a val split but no train split. Add a train folder beside it.")
        if isinstance(train, ParquetSamples) and (options.check_data or "val" not in splits):
            lacks = (
                "cannot be decoded beforehand (--check-data)" if options.check_data else "needs a split for validation"
            )
            stored = data.replace("hfids", "hfds", 1)
            raise DataError(f"{data} is streamed, so it {lacks}. Use {stored}, which stores it.")
        if "val" in splits:
            val = splits["val"]
            refuse_folds(options.division, data)
            relabel(val, train.class_names, f"The val split of {data}", "the train split")
        else:
            description = options.division.described(map(train.signature, range(len(train))))
            train, val = split_samples(train, options.division)
        if train.kind is SINGLE_LABEL and len(train.class_names) < 2:
            raise DataError(
                f"{data} has only one class ({train.class_names[0]}). A classifier needs at least two class folders."
            )
        if options.check_data:
            train, more = usable_samples(train, f"The train split of {data}", options.on_bad_image, options.workers)
            notes += more
        if options.check_data or options.on_bad_image == "skip":
            # what cannot be decoded is replaced while training, but must be out of the metrics from the start
            val, more = usable_samples(val, f"The val split of {data}", options.on_bad_image, options.workers)
            notes += more
        if missing := train.missing_classes():
            raise DataError(f"The train split of {data} has no image of {', '.join(missing[:5])}. Add some.")
        if train.kind is REGRESSION:
            _refuse_constant(train, data)
        self.target = target_for(train, known)
        self.target.check_training(options)
        # the digits are in memory: no process is faster than none
        workers = loaders.loading_processes(options.workers, 0 if data == "digits" else None)
        super().__init__(train, val, train.class_names, batch_size, workers, seed=options.seed)
        self.transform = options.augmentation.transform(preprocessing)
        self.preprocessing = preprocessing
        self.mode = mode_for(preprocessing["input_size"][0])
        self.extra |= self.target.extra()
        self.notes += notes
        if train.kind is REGRESSION and (options.augmentation.hflip or min(options.augmentation.scale) < 1):
            self.notes.append(
                "Flips and random crops change where things are. If the numbers are positions, use "
                "--augmentation.hflip 0 --augmentation.scale 1 1 --augmentation.ratio 1 1 --crop-mode squash "
                "--crop-pct 1."
            )
        self._skipped: Path | None = None
        if description:
            self.extra["split"] = description
        if missing := val.missing_classes():
            self.notes.append(
                f"The val split has no image of {len(missing)} of {len(val.class_names)} classes "
                f"({', '.join(missing[:5])}): their accuracy is not measured."
            )

    @property
    def described(self) -> str:
        """What labels are, in a few words."""
        return self.target.described

    def contents(self) -> csr_array:
        """Return 1 for each class of each training image; see DataModule."""
        kind = self.train.kind
        if kind is REGRESSION:
            return super().contents()
        images = (dict.fromkeys(kind.classes(label), 1) for label in self.train.labels)
        return contents_of(images, len(self.class_names))

    def resample(self, how: str, threshold: float | None) -> None:
        """Show images of rare classes more often; see DataModule."""
        if isinstance(self.train, ParquetSamples):
            raise DataError(
                "sampling needs images that can be read in any order, but these are streamed. Use hfds/NAME, which "
                "stores them, or class_weights."
            )
        super().resample(how, threshold)

    def order(self, processes: int | None = None, rank: int | None = None) -> loaders.TrainBatches:
        """Return the batches of training; see DataModule."""
        if isinstance(self.train, ParquetSamples):
            return loaders.BlockBatches(self.train.blocks, self.batch_size, self.seed, processes, rank)
        return super().order(processes, rank)

    def skip_bad_images(self, file: Path) -> None:
        """From now on, train on another image where one cannot be decoded; see DataModule."""
        self._skipped = file

    def training_set(self, mixed: bool = True) -> Any:
        """Return augmented images (C, H, W) and targets."""
        dataset = ImageDataset(self.train, self.transform, self.mode)
        return dataset if self._skipped is None else Skipping(dataset, self._skipped)

    def stored_set(self) -> Any:
        """Return images of bytes (C, H, W) in their own size, and labels."""
        from torchvision.transforms.v2.functional import pil_to_tensor

        return ImageDataset(self.train, pil_to_tensor, self.mode)

    def val_dataloader(self) -> DataLoader:
        """Return batches of the validation split in order, with the model's own preprocessing."""
        return evaluation_loader(self.val, self.preprocessing, 2 * self.batch_size, self.workers)


def _title(split: str, data: str) -> str:
    return data if split == "all" else f"The {split} split of {data}"


def _refuse_constant(train: Samples, data: str) -> None:
    """Raise DataError if a number is the same for all images: there is nothing to learn, and no scale."""
    for name, values in zip(train.class_names, zip(*train.labels, strict=True), strict=True):
        if len(set(values)) == 1:
            raise DataError(
                f"The train split of {data} has the same {name} for all images, {values[0]:g}. Remove the column."
            )


def evaluation_loader(source: Samples, preprocessing: dict[str, Any], batch_size: int, workers: int) -> DataLoader:
    """Return batches (B, C, H, W) and targets (B, ...) of a source in order, preprocessed for evaluation.

    Args:
        source: Labeled images.
        preprocessing: timm's data configuration.
        batch_size: Images per batch.
        workers: Loading processes.
    """
    transform: Any = create_transform(**preprocessing)
    mode = mode_for(preprocessing["input_size"][0])
    dataset = ImageDataset(source, transform, mode)
    return loaders.evaluation_loader(dataset, batch_size, workers, collate=default_collate)


def evaluation_split(options: EvaluateOptions, predictor: Predictor) -> tuple[Samples, list[str]]:
    """Return the images that evaluation is asked for, their classes numbered as the model's.

    Where the data has no splits, those that the weights were trained with are made again.

    Args:
        options: Of evaluation.
        predictor: Knows its classes, and the split that it was trained with.

    Returns:
        The images, and sentences about them.

    Raises:
        DataError: there is no such split, the data has a class that the model does not know, or its labels are of
            another kind.
    """
    data = options.data
    notes: list[str] = []
    target = target_of(predictor.class_names, predictor.extra)
    splits: dict[str, Samples] = dict(open_data(data, options.data_root, target.kind))
    for name, source in splits.items():
        if options.split in (None, "all", name) or name == "all":
            splits[name], more = readable_samples(source, _title(name, data), options.on_bad_image)
            notes += more
    known, whole = predictor.extra.get("split"), None if "val" in splits else splits.get("all", splits.get("train"))
    if whole is not None:
        splits["all"] = whole
    if known and whole is not None and options.split != "all":
        division = remembered(known, [whole.signature(i) for i in range(len(whole))])
        if division:
            splits["train"], splits["val"] = split_samples(whole, division)
            notes.append(held_out_note(data, len(splits["train"]), len(splits["val"])))
        else:
            notes.append(other_data_note(data, known["images"], len(whole)))
    name = options.split = options.split or ("val" if "val" in splits else "all")
    if name not in splits:
        raise DataError(f"{data} has no split {name!r}, it has {', '.join(splits)}. Choose one with --split.")
    source, known_names = splits[name], predictor.class_names
    own = list(source.class_names)
    relabel(source, known_names, str(data))
    if all(name.isdecimal() for name in known_names) and len(own) == len(known_names):
        source.class_names = own  # of weights without names
    if options.on_bad_image == "skip":
        source, more = usable_samples(source, f"The {name} split of {data}", "skip", options.workers)
        notes += more
    return source, notes
