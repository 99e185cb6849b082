"""Images with labelled pixels for training and evaluation: classes, segments, or what stands out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from van.data.detection import OnProblem, OrientedBatches, data_folder, loading_processes, processes_and_rank
from van.data.pairs import Part
from van.data.panoptic import PanopticDataset, find_panoptic
from van.data.pixel_checks import usable_pixels
from van.data.pixel_transforms import PanopticAugmentation, SaliencyAugmentation, SemanticAugmentation
from van.data.saliency import SaliencyDataset, find_saliency
from van.data.semantic import IGNORED, SemanticDataset, SemanticPart, find_semantic
from van.errors import DataError

Collate = Callable[[list[tuple[Any, Any]]], tuple[Any, Any]]


class StepBatches(DistributedSampler):
    """So many batches per epoch, of an endless row of passes over the data, each in its own order.

    An epoch may be shorter or longer than a pass: the next one goes on where it ended. Every process gets other images
    of the same batches.

    Args:
        images: How many images there are.
        batch_size: Images per batch and process.
        steps: Batches per epoch and process.
        seed: Of the order.
        processes: How many share the images; None asks torch.distributed.
        rank: Which of them this is; None asks torch.distributed.
    """

    # a DistributedSampler that yields lists: Lightning leaves it as it is and tells it the epoch

    def __init__(
        self,
        images: int,
        batch_size: int,
        steps: int,
        seed: int = 0,
        processes: int | None = None,
        rank: int | None = None,
    ) -> None:
        processes, rank = processes_and_rank(processes, rank)
        super().__init__(cast(Any, range(images)), num_replicas=processes, rank=rank, seed=seed)
        self.images = images
        self.batch_size = batch_size
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        orders: dict[int, list[int]] = {}
        whole = self.batch_size * self.num_replicas
        for step in range(self.epoch * self.steps, (self.epoch + 1) * self.steps):
            first = step * whole + self.rank * self.batch_size
            batch = []
            for place in range(first, first + self.batch_size):
                turn, index = divmod(place, self.images)
                if turn not in orders:
                    generator = torch.Generator().manual_seed(self.seed + turn)
                    # batches of several processes may lie in two passes
                    orders = {k: v for k, v in orders.items() if k == turn - 1}
                    orders[turn] = torch.randperm(self.images, generator=generator).tolist()
                batch.append(orders[turn][index])
            yield batch


class _Batches(Dataset):
    """What a list of items makes, for lists of places."""

    def __init__(self, dataset: Dataset, collate: Collate) -> None:
        self.dataset = dataset
        self.collate = collate

    def __len__(self) -> int:
        return len(cast(Any, self.dataset))

    def __getitem__(self, places: list[int]) -> tuple[Any, Any]:
        return self.collate([self.dataset[place] for place in places])


def _as_is(batch: Any) -> Any:
    return batch


def _loader(dataset: Dataset, collate: Collate, batches: Any, workers: int) -> DataLoader:
    return DataLoader(
        _Batches(dataset, collate),
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        collate_fn=_as_is,
        persistent_workers=workers > 0,
    )


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(torch.Tensor)


def stack_labels(items: list[tuple[Any, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (B, 3, H, W) and labels (B, H, W)."""
    images, labels = zip(*items, strict=True)
    return torch.stack([_plain(i) for i in images]), torch.stack([_plain(label) for label in labels])


def stack_masks(items: list[tuple[Any, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (B, 3, H, W) and masks (B, H, W) of floats."""
    images, masks = stack_labels(items)
    return images, masks.float()


def stack_segments(items: list[tuple[Any, Any]]) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Return images (B, 3, H, W), and masks and labels of the segments of each."""
    images, targets = zip(*items, strict=True)
    kept = [{"masks": _plain(target["masks"]), "labels": target["labels"]} for target in targets]
    return torch.stack([_plain(i) for i in images]), kept


def _lists(items: list[tuple[Any, Any]]) -> tuple[list[torch.Tensor], list[Any]]:
    images, targets = zip(*items, strict=True)
    return [_plain(i) for i in images], [_plain(t) if isinstance(t, torch.Tensor) else t for t in targets]


def evaluation_batches(dataset: Dataset, batch_size: int, workers: int) -> DataLoader:
    """Return every image once, as it is: lists of images (3, H, W) uint8 and of targets.

    Args:
        dataset: Of any kind.
        batch_size: Images per batch and process.
        workers: Loading processes.
    """
    order = OrientedBatches([1.0] * len(cast(Any, dataset)), batch_size, shuffle=False)
    return _loader(dataset, _lists, order, workers)


class PixelData(LightningDataModule):
    """Training and validation images of one data set; semantic_data, panoptic_data and saliency_data make it.

    Training batches are images (B, 3, H, W) of uint8 and their targets, validation batches lists of images as they are
    and of targets. They are shared among processes here, so the trainer gets use_distributed_sampler=False.

    Args:
        train: Augmented images.
        val: Images as they are.
        collate: Makes a training batch of items.
        class_names: Names in the order of the labels.
        part: Annotations of the validation part.
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
        part: Any,
        notes: list[str],
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.train: Any = train
        self.val: Any = val
        self.collate = collate
        self.class_names = class_names
        self.part = part
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
        return _loader(
            self.train, self.collate, StepBatches(len(self.train), self.batch_size, steps, self.seed), self.workers
        )

    def val_dataloader(self) -> DataLoader:
        """Return the images of the validation part as they are."""
        return evaluation_batches(self.val, self.batch_size, self.workers)


@dataclass
class SemanticFormat:
    """How the files of a data set for semantic segmentation are meant.

    Attributes:
        classes: File with the names of the classes, one a line; by default classes.txt or ADE20K's objectInfo150.txt.
        reduce_zero_label: In the files 0 marks pixels that do not count, and the first class is 1; by default only
            where the classes are those of objectInfo150.txt.
        ignore_index: Number in the files that marks pixels that do not count; 255 does as well.
    """

    classes: str | None = None
    reduce_zero_label: bool | None = None
    ignore_index: int = IGNORED

    def find(self, folder: str | Path, part: Part) -> SemanticPart:
        """Find the images and masks of a part; see find_semantic."""
        return find_semantic(folder, part, self.classes, self.reduce_zero_label, self.ignore_index)


def _both(
    find: Callable[[Any, Part], Any], folder: str | Path, on_problem: OnProblem, decode: bool, workers: int | None
) -> tuple[Any, Any, list[str]]:
    """Return the usable training and validation part, and what was left out."""
    train, val = find(folder, "train"), find(folder, "val")  # a part that is missing should show before the long check
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
    return PixelData(*datasets, stack_labels, train.class_names, val, notes)


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
