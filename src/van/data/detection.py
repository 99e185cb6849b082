"""Images with boxes and masks for training and evaluating a detector."""

from pathlib import Path

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from van.data.augmentation import DetectionAugmentation
from van.data.coco import CocoDetectionDataset, CocoSplit
from van.data.coco_checks import OnProblem, usable_split
from van.data.loaders import OrientedBatches, as_lists, batch_loader, evaluation_loader, loading_processes
from van.errors import DataError


def ratios(dataset: CocoDetectionDataset) -> list[float]:
    """Return width divided by height of each image."""
    return [(image.get("width") or 1) / (image.get("height") or 1) for image in dataset.images]


def evaluation_batches(split: CocoSplit, batch_size: int, workers: int) -> DataLoader:
    """Return every image of a split once, in batches of like shape: lists of images (3, H, W) uint8 and of targets."""
    dataset = CocoDetectionDataset(split)
    return evaluation_loader(dataset, batch_size, workers, ratios(dataset))


class DetectionData(LightningDataModule):
    """Training and validation images of one data set in COCO's format.

    Batches are a list of images (3, H, W) of uint8 and a list of targets; see CocoDetectionDataset. They are shared
    among processes here, so the trainer gets use_distributed_sampler=False.

    Args:
        folder: In COCO's layout; see data_folder for the built-in data.
        augmentation: Random changes of the training images.
        batch_size: Images per step and process.
        masks: Whether masks are learned.
        on_problem: What to do with annotations and images that cannot be used: refuse them all, or skip these.
        decode: Decode every image once, to find the broken ones before training does.
        seed: Of the order.
        workers: Loading processes; None takes one per processor, at most 8.

    Attributes:
        train: Annotations of the training split.
        val: Annotations of the validation split.
        class_names: Names in the order of the labels.
        category_ids: Ids in the data, in the order of the labels.
        notes: Sentences about the data that the user should know.

    Raises:
        DataError: the data cannot be used.
    """

    def __init__(
        self,
        folder: str | Path,
        augmentation: DetectionAugmentation,
        batch_size: int,
        masks: bool = False,
        on_problem: OnProblem = "refuse",
        decode: bool = False,
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed
        self.workers = loading_processes(workers)
        self.train, notes = usable_split(folder, "train", on_problem, masks, decode, workers)
        self.val, more = usable_split(folder, "val", on_problem, masks, decode, workers)
        self.notes = notes + more
        self.class_names = self.train.class_names
        self.category_ids = self.train.category_ids
        if (self.val.class_names, self.val.category_ids) != (self.class_names, self.category_ids):
            raise DataError(
                f"{self.val.files.annotations} has other categories than {self.train.files.annotations}. Give both the "
                "same list of categories."
            )
        self._train = CocoDetectionDataset(self.train, augmentation.transform(), masks)
        if not any(self._train.objects(image["id"]) for image in self._train.images):
            raise DataError(
                f"{self.train.files.annotations} has no annotations to learn from. See van check-data {folder}."
            )

    def steps(self, processes: int) -> int:
        """Return how many batches each of so many processes trains on in an epoch."""
        return len(self._train_batches(processes, 0))

    def _train_batches(self, processes: int | None = None, rank: int | None = None) -> OrientedBatches:
        return OrientedBatches(ratios(self._train), self.batch_size, self.seed, processes, rank)

    def train_dataloader(self) -> DataLoader:
        """Return shuffled, augmented batches of one orientation each."""
        return batch_loader(self._train, self._train_batches(), as_lists, self.workers)

    def val_dataloader(self) -> DataLoader:
        """Return the images of the validation split as they are."""
        return evaluation_batches(self.val, self.batch_size, self.workers)
