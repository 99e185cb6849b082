"""Images with labeled pixels for training and evaluation: classes, segments, or what is salient."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from van.data.augmentation import PanopticAugmentation, SaliencyAugmentation, SemanticAugmentation
from van.data.coco_checks import OnProblem
from van.data.formats import SemanticFormat
from van.data.loaders import (
    Collate,
    StepBatches,
    as_stacks,
    batch_loader,
    evaluation_loader,
    loading_processes,
    processes_and_rank,
)
from van.data.pairs import Split
from van.data.panoptic import PanopticDataset, find_panoptic
from van.data.pixel_checks import usable_pixels
from van.data.saliency import SaliencyDataset, find_saliency
from van.data.semantic import SemanticDataset
from van.data.shapes import data_folder
from van.data.targets import check_saliency, plain
from van.errors import DataError


def stack_masks(items: list[tuple[Any, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (B, 3, H, W) and masks (B, H, W) of floats."""
    images, masks = as_stacks(items)
    check_saliency(masks)
    return images, masks.float()


def stack_segments(items: list[tuple[Any, Any]]) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Return images (B, 3, H, W), and masks and labels of the segments of each."""
    images, targets = as_stacks(items)
    return images, [{"masks": plain(target["masks"]), "labels": target["labels"]} for target in targets]


class PixelData(LightningDataModule):
    """Training and validation images of one data set; semantic_data, panoptic_data and saliency_data make it.

    Training batches are images (B, 3, H, W) of uint8 and their targets, validation batches lists of images as they are
    and of targets. They are shared among processes here, so the trainer gets use_distributed_sampler=False.

    Args:
        train: Augmented images.
        val: Images as they are.
        collate: Makes a training batch of items.
        class_names: Names in the order of the labels.
        split: Annotations of the validation split.
        notes: Sentences about the data that the user should know.
        extra: What prediction needs to know of the data; what JSON can hold.

    Attributes:
        batch_size: Images per training step and process.
        steps_per_epoch: Batches of an epoch and process; None takes those of a pass over the data.
    """

    def __init__(
        self,
        train: Dataset,
        val: Dataset,
        collate: Collate,
        class_names: list[str],
        split: Any,
        notes: list[str],
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.train: Any = train
        self.val: Any = val
        self.collate = collate
        self.class_names = class_names
        self.split = split
        self.notes = notes
        self.extra = extra or {}
        self.batch_size = 1
        self.steps_per_epoch: int | None = None
        self.seed = 0
        self.workers = 0

    def plan(self, batch_size: int, steps: int | None, seed: int, workers: int | None) -> "PixelData":
        """Set how images become batches.

        Args:
            batch_size: Images per step and process.
            steps: Batches per epoch and process; None takes those of a pass over the data.
            seed: Of the order.
            workers: Loading processes; None takes one per processor, at most 8.
        """
        self.batch_size, self.steps_per_epoch, self.seed = batch_size, steps, seed
        self.workers = loading_processes(workers)
        return self

    def steps(self, processes: int) -> int:
        """Return how many batches each of so many processes trains on in an epoch."""
        return self.steps_per_epoch or max(1, len(self.train) // (self.batch_size * processes))

    def train_dataloader(self) -> DataLoader:
        """Return shuffled, augmented batches."""
        steps = self.steps(processes_and_rank()[0])
        order = StepBatches(len(self.train), self.batch_size, steps, self.seed)
        return batch_loader(self.train, order, self.collate, self.workers)

    def val_dataloader(self) -> DataLoader:
        """Return the images of the validation split as they are."""
        return evaluation_loader(self.val, self.batch_size, self.workers)


def _both(
    find: Callable[[Any, Split], Any], folder: str | Path, on_problem: OnProblem, decode: bool, workers: int | None
) -> tuple[Any, Any, list[str]]:
    """Return the usable training and validation split, and what was left out."""
    train, val = find(folder, "train"), find(folder, "val")  # a split that is missing should show before the long check
    train, notes = usable_pixels(train, on_problem, decode, workers)
    val, more = usable_pixels(val, on_problem, decode, workers, empty_classes=False)
    return train, val, notes + more


def semantic_data(
    data: str,
    root: str | None,
    format: SemanticFormat,
    augmentation: SemanticAugmentation,
    on_problem: OnProblem = "refuse",
    decode: bool = False,
    workers: int | None = None,
) -> PixelData:
    """Return images with classes; the built-in shapes are made where they are missing.

    Args:
        data: Folder, or "shapes".
        root: Where the shapes are stored; None takes the folder data.
        format: How the files are meant.
        augmentation: Random changes of the training images.
        on_problem: What to do with images and masks that cannot be used: refuse them all, or skip these.
        decode: Decode every image once, to find the broken ones before training does; masks always are.
        workers: Processes that read files; None takes one per processor, at most 8.

    Raises:
        DataError: the data cannot be used.
    """
    train, val, notes = _both(format.find, data_folder(data, root), on_problem, decode, workers)
    if train.class_names != val.class_names:
        raise DataError(
            f"{train.name} and {val.name} have different classes. Put one classes.txt above both, or name it as "
            "format.classes."
        )
    datasets = SemanticDataset(train, augmentation.transform()), SemanticDataset(val)
    return PixelData(*datasets, as_stacks, train.class_names, val, notes)


def panoptic_data(
    data: str,
    root: str | None,
    augmentation: PanopticAugmentation,
    on_problem: OnProblem = "refuse",
    decode: bool = False,
    workers: int | None = None,
) -> PixelData:
    """Return images with segments; for the arguments see semantic_data."""
    train, val, notes = _both(find_panoptic, data_folder(data, root), on_problem, decode, workers)
    if train.coco.categories != val.coco.categories:
        raise DataError(
            f"{val.coco.files.annotations} has other categories than {train.coco.files.annotations}. Give both the "
            "same list of categories."
        )
    datasets = PanopticDataset(train, augmentation.transform()), PanopticDataset(val, masks=False)
    extra = {"category_ids": train.category_ids, "isthing": train.isthing}
    return PixelData(*datasets, stack_segments, train.class_names, val, notes, extra)


def saliency_data(
    data: str,
    root: str | None,
    augmentation: SaliencyAugmentation,
    on_problem: OnProblem = "refuse",
    decode: bool = False,
    workers: int | None = None,
) -> PixelData:
    """Return images with what stands out; for the arguments see semantic_data."""
    train, val, notes = _both(find_saliency, data_folder(data, root), on_problem, decode, workers)
    datasets = SaliencyDataset(train, augmentation.transform()), SaliencyDataset(val)
    return PixelData(*datasets, stack_masks, ["salient"], val, notes)
