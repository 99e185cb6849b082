"""What the engine asks of the data of a task."""

from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader


class DataModule(LightningDataModule):
    """Training and validation samples of one data set.

    Without overrides the samples are datasets whose items the default collation joins to batches.

    Args:
        train: Training samples.
        val: Validation samples.
        class_names: Names in the order of the labels.
        batch_size: Samples per step and process.
        workers: Loading processes.
        split: What the evaluation of the task takes for the validation split; None takes val.

    Attributes:
        notes: Sentences about the data that the user should know.
        extra: What prediction needs to know of the data, for the weight file; what JSON can hold.
        shares_itself: Whether the loaders share the samples among processes; Lightning's sampler stays away then.
    """

    class_names: list[str]
    shares_itself: bool = False

    def __init__(
        self, train: Any, val: Any, class_names: list[str], batch_size: int, workers: int, split: Any = None
    ) -> None:
        super().__init__()
        self.train, self.val, self.split = train, val, val if split is None else split
        self.class_names = list(class_names)
        self.batch_size, self.workers = batch_size, workers
        self.notes: list[str] = []
        self.extra: dict[str, Any] = {}

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches; the last, incomplete one is left out."""
        return DataLoader(
            self.train,
            self.batch_size,
            shuffle=True,
            drop_last=len(self.train) > self.batch_size,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self) -> DataLoader:
        """Return the validation samples in order."""
        return DataLoader(self.val, 2 * self.batch_size, num_workers=self.workers, persistent_workers=self.workers > 0)

    def steps(self, processes: int) -> int:
        """Return how many batches each of so many processes trains on in an epoch."""
        return -(-len(self.train_dataloader()) // processes)

    def check(self) -> None:
        """Decode every image once.

        Raises:
            DataError: some are broken; the message lists them.
        """
