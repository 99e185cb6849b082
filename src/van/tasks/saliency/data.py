"""Images with masks of salient objects: splits, transforms, loaders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset

from van.data.folders import data_folder
from van.data.loaders import collate_masks
from van.data.pixel_checks import usable_split, usable_splits
from van.data.saliency import SaliencyDataset, SaliencySplit, SizePasses, find_saliency_splits
from van.data.skipping import Skipping
from van.data.splits import evaluated_split, training_splits
from van.engine.data import StepData
from van.tasks.saliency.options import SaliencyEvaluateOptions, SaliencyTrainOptions


class SaliencyData(StepData):
    """Images that train at one size after the other, a pass over them at each, and are validated as they are.

    Args:
        options: Of training.
        processes: How many processes share a batch.
        train: Training images.
        val: Validation images.
        notes: Sentences about the data that the user should know.
    """

    def __init__(
        self,
        options: SaliencyTrainOptions,
        processes: int,
        train: SaliencySplit,
        val: SaliencySplit,
        notes: Sequence[str] = (),
    ) -> None:
        self.passes: list[Any] = [SaliencyDataset(train, transform) for transform in options.augmentation.transform()]
        super().__init__(
            options, processes, self.passes[0], SaliencyDataset(val), ["salient"], val, collate_masks, notes
        )
        if len(self.passes) > 1 and self.steps_per_epoch is None:
            sizes = " and ".join(f"{height} x {width}" for height, width in options.augmentation.image_sizes)
            self.notes.append(f"an epoch is {len(self.passes)} passes over the images, at {sizes} pixels.")

    def order(self, processes: int | None = None, rank: int | None = None) -> SizePasses:
        """Return batches all images of which have one size."""
        sizes = len(self.passes)
        return SizePasses(len(self.train), sizes, self.batch_size, self.steps_per_epoch, self.seed, processes, rank)

    def skip_bad_images(self, file: Path) -> None:
        """From now on, train on another image of the same size where one cannot be decoded; see DataModule."""
        self.passes = [Skipping(images, file) for images in self.passes]

    def training_set(self, mixed: bool = True) -> ConcatDataset:
        """Return the images at one size after the other."""
        return ConcatDataset(self.passes)


def saliency_data(options: SaliencyTrainOptions, processes: int) -> SaliencyData:
    """Return training and validation images; the built-in shapes are made where they are missing.

    Args:
        options: Of training.
        processes: How many processes share a batch.

    Raises:
        DataError: the data cannot be used.
    """
    splits = find_saliency_splits(data_folder(options.data, options.data_root))
    train, val, remembered = training_splits(splits, options.division, options.data)
    train, val, notes = usable_splits(train, val, options.on_bad_image, options.check_data, options.workers)
    data = SaliencyData(options, processes, train, val, notes)
    data.extra |= remembered
    return data


def evaluation_split(options: SaliencyEvaluateOptions, known: Any) -> tuple[SaliencySplit, list[str]]:
    """Return the images to evaluate on, and what was left out of them.

    Raises:
        DataError: the data cannot be used.
    """
    splits = find_saliency_splits(data_folder(options.data, options.data_root))
    found, options.split, notes = evaluated_split(splits, options.split, known, options.data)
    decode = options.on_bad_image == "skip"
    kept, more = usable_split(found, options.on_bad_image, decode, options.workers, empty_classes=False)
    return kept, notes + more
