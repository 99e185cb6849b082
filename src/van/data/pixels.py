"""Images with labeled pixels for training: semantic and panoptic segmentation, saliency."""

from abc import abstractmethod
from typing import Any

from torch.utils.data import DataLoader

from van.data.augmentation import PanopticAugmentation, SaliencyAugmentation, SemanticAugmentation
from van.data.detection import check_categories
from van.data.folders import OnProblem, Split, data_folder
from van.data.formats import SemanticFormat
from van.data.loaders import (
    Collate,
    StepBatches,
    batch_loader,
    collate_labels,
    collate_masks,
    collate_segments,
    evaluation_loader,
    loading_processes,
    processes_and_rank,
)
from van.data.module import DataModule
from van.data.panoptic import PanopticDataset, find_panoptic
from van.data.pixel_checks import usable_split
from van.data.saliency import SaliencyDataset, find_saliency
from van.data.semantic import SemanticDataset
from van.errors import DataError


class PixelData(DataModule):
    """Training and validation images of one data set; a subclass for each task says what is special about it.

    Training batches are images (B, 3, H, W) of uint8 and their targets, validation batches lists of images as they are
    and of targets.

    Args:
        data: Folder, or "shapes".
        root: Where the shapes are stored; None takes the folder data.
        batch_size: Images per step and process.
        steps_per_epoch: Batches per epoch and process; None takes one pass over the data.
        on_problem: What to do about images and masks that cannot be used: refuse them all, or skip these.
        seed: Of the order.
        workers: Loading processes; None takes one per processor, at most 8.

    Attributes:
        train: Training images; their files and annotations are train.split.
        val: Validation images; their files and annotations are val.split.

    Raises:
        DataError: the data cannot be used.
    """

    shares_itself = True
    collate: Collate

    def __init__(
        self,
        data: str,
        root: str | None,
        batch_size: int,
        steps_per_epoch: int | None = None,
        on_problem: OnProblem = "refuse",
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        self.folder = data_folder(data, root)
        self.steps_per_epoch = steps_per_epoch
        self.on_problem: OnProblem = on_problem
        self.seed = seed
        train, val, notes = self._open(workers)
        super().__init__(train, val, train.split.class_names, batch_size, loading_processes(workers))
        self.notes = notes

    @abstractmethod
    def find(self, split: Split) -> Any:
        """Return a split of the data, unchecked."""

    @abstractmethod
    def datasets(self, train: Any, val: Any) -> tuple[Any, Any]:
        """Return the datasets of the training and validation split."""

    def _open(self, workers: int | None, decode: bool = False) -> tuple[Any, Any, list[str]]:
        train, val = self.find("train"), self.find("val")  # a missing split should show before the long check
        train, notes = usable_split(train, self.on_problem, decode, workers)
        val, more = usable_split(val, self.on_problem, decode, workers, empty_classes=False)
        return *self.datasets(train, val), notes + more

    def check(self) -> None:
        """Decode every image once, and refuse or leave out broken ones; masks always are decoded.

        Raises:
            DataError: some are broken and are not to be skipped; the message lists them.
        """
        self.train, self.val, self.notes = self._open(self.workers, decode=True)

    def steps(self, processes: int) -> int:
        """Return the number of batches per epoch of each of so many processes."""
        return self.steps_per_epoch or max(1, len(self.train) // (self.batch_size * processes))

    def train_dataloader(self) -> DataLoader:
        """Return shuffled, augmented batches."""
        steps = self.steps(processes_and_rank()[0])
        batches = StepBatches(len(self.train), self.batch_size, steps, self.seed)
        return batch_loader(self.train, batches, self.collate, self.workers)

    def val_dataloader(self) -> DataLoader:
        """Return the images of the validation split as they are."""
        return evaluation_loader(self.val, self.batch_size, self.workers)


class SemanticData(PixelData):
    """Images with a class for each pixel.

    Args:
        data: Folder, or "shapes".
        root: Where the shapes are stored; None takes the folder data.
        format: How to read the masks.
        augmentation: Random changes to the training images.
        batch_size: Images per step and process.
        options: See PixelData.
    """

    def __init__(
        self,
        data: str,
        root: str | None,
        format: SemanticFormat,
        augmentation: SemanticAugmentation,
        batch_size: int,
        **options: Any,
    ) -> None:
        self.format, self.transform = format, augmentation.transform()
        super().__init__(data, root, batch_size, **options)
        self.collate = collate_labels(len(self.class_names))

    def find(self, split: Split) -> Any:
        """Return a split of the data, unchecked."""
        return self.format.find(self.folder, split)

    def datasets(self, train: Any, val: Any) -> tuple[Any, Any]:
        """Return the datasets of the training and validation split."""
        if train.class_names != val.class_names:
            raise DataError(
                f"{train.name} and {val.name} have different classes. Put one classes.txt in the folder above both, or "
                "set format.classes."
            )
        return SemanticDataset(train, self.transform), SemanticDataset(val)


class PanopticData(PixelData):
    """Images with segments.

    Args:
        data: Folder, or "shapes".
        root: Where the shapes are stored; None takes the folder data.
        augmentation: Random changes to the training images.
        batch_size: Images per step and process.
        options: See PixelData.
    """

    def __init__(
        self, data: str, root: str | None, augmentation: PanopticAugmentation, batch_size: int, **options: Any
    ) -> None:
        self.transform = augmentation.transform()
        super().__init__(data, root, batch_size, **options)
        self.collate = collate_segments(len(self.class_names))
        self.extra = {"category_ids": self.train.split.category_ids, "isthing": self.train.split.isthing}

    def find(self, split: Split) -> Any:
        """Return a split of the data, unchecked."""
        return find_panoptic(self.folder, split)

    def datasets(self, train: Any, val: Any) -> tuple[Any, Any]:
        """Return the datasets of the training and validation split."""
        check_categories(train.coco, val.coco)
        return PanopticDataset(train, self.transform), PanopticDataset(val, masks=False)


class SaliencyData(PixelData):
    """Images with salient objects.

    Args:
        data: Folder, or "shapes".
        root: Where the shapes are stored; None takes the folder data.
        augmentation: Random changes to the training images.
        batch_size: Images per step and process.
        options: See PixelData.
    """

    collate = staticmethod(collate_masks)

    def __init__(
        self, data: str, root: str | None, augmentation: SaliencyAugmentation, batch_size: int, **options: Any
    ) -> None:
        self.transform = augmentation.transform()
        super().__init__(data, root, batch_size, **options)

    def find(self, split: Split) -> Any:
        """Return a split of the data, unchecked."""
        return find_saliency(self.folder, split)

    def datasets(self, train: Any, val: Any) -> tuple[Any, Any]:
        """Return the datasets of the training and validation split."""
        return SaliencyDataset(train, self.transform), SaliencyDataset(val)
