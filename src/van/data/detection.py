"""Images with boxes and masks for training a detector."""

from typing import Any

from torch.utils.data import DataLoader

from van.data.augmentation import DetectionAugmentation
from van.data.coco import CocoDetectionDataset, CocoSplit
from van.data.coco_checks import usable_split
from van.data.folders import OnProblem, data_folder
from van.data.loaders import OrientedBatches, batch_loader, collate_objects, evaluation_loader, loading_processes
from van.data.module import DataModule
from van.errors import DataError


class DetectionData(DataModule):
    """Training and validation images of one data set in COCO's format.

    Batches are a list of images (3, H, W) of uint8 and a list of targets; see CocoDetectionDataset.

    Args:
        data: Folder in COCO's layout, or "shapes".
        root: Where the shapes are stored; None takes the folder data.
        augmentation: Random changes to the training images.
        batch_size: Images per step and process.
        masks: Whether masks are learned.
        on_problem: What to do about annotations and images that cannot be used: refuse them all, or skip these.
        seed: Of the order.
        workers: Loading processes; None takes one per processor, at most 8.

    Attributes:
        train: Training images; their annotations are train.split.
        val: Validation images; their annotations are val.split.

    Raises:
        DataError: the data cannot be used.
    """

    shares_itself = True

    def __init__(
        self,
        data: str,
        root: str | None,
        augmentation: DetectionAugmentation,
        batch_size: int,
        masks: bool = False,
        on_problem: OnProblem = "refuse",
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        self.transform = augmentation.transform()
        self.folder = data_folder(data, root)
        self.masks = masks
        self.on_problem: OnProblem = on_problem
        self.seed = seed
        train, val, notes = self._open(workers)
        super().__init__(train, val, train.split.class_names, batch_size, loading_processes(workers))
        self.notes = notes
        self.extra = {"category_ids": train.split.category_ids}

    def _open(
        self, workers: int | None, decode: bool = False
    ) -> tuple[CocoDetectionDataset, CocoDetectionDataset, list[str]]:
        options: Any = {"masks": self.masks, "decode": decode, "workers": workers}
        train, notes = usable_split(self.folder, "train", self.on_problem, **options)
        val, more = usable_split(self.folder, "val", self.on_problem, **options)
        check_categories(train, val)
        dataset = CocoDetectionDataset(train, self.transform, self.masks)
        if not any(dataset.objects(image["id"]) for image in dataset.images):
            raise DataError(f"{train.name} has no annotations to learn from. See van check-data {self.folder}.")
        return dataset, CocoDetectionDataset(val), notes + more

    def check(self) -> None:
        """Decode every image once, and refuse or leave out broken ones.

        Raises:
            DataError: some are broken and are not to be skipped; the message lists them.
        """
        self.train, self.val, self.notes = self._open(self.workers, decode=True)

    def steps(self, processes: int) -> int:
        """Return the number of batches per epoch of each of so many processes."""
        return len(OrientedBatches(self.train.ratios, self.batch_size, self.seed, processes, 0))

    def train_dataloader(self) -> DataLoader:
        """Return shuffled, augmented batches of one orientation each."""
        batches = OrientedBatches(self.train.ratios, self.batch_size, self.seed)
        return batch_loader(self.train, batches, collate_objects(len(self.class_names), self.masks), self.workers)

    def val_dataloader(self) -> DataLoader:
        """Return the images of the validation split as they are."""
        return evaluation_loader(self.val, self.batch_size, self.workers, self.val.ratios)


def check_categories(train: CocoSplit, val: CocoSplit) -> None:
    """Raise DataError unless two splits have the same categories."""
    if (val.class_names, val.category_ids) != (train.class_names, train.category_ids):
        raise DataError(f"{val.name} has other categories than {train.name}. Give both the same list of categories.")
