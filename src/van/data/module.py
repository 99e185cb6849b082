"""What the data modules of all tasks have in common."""

from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader


class DataModule(LightningDataModule):
    """Training and validation samples of one data set.

    Args:
        train: Training samples.
        val: Validation samples.
        class_names: Names in the order of the labels.
        batch_size: Samples per step and process.
        workers: Loading processes.

    Attributes:
        notes: Sentences about the data that the user should know.
        extra: What prediction needs to know about the data, for the weight file; what JSON can hold.
        shares_itself: Whether the loaders share the samples among processes: Lightning must not do it again then.
    """

    shares_itself: bool = False

    def __init__(self, train: Any, val: Any, class_names: list[str], batch_size: int, workers: int) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.class_names = list(class_names)
        self.batch_size, self.workers = batch_size, workers
        self.notes: list[str] = []
        self.extra: dict[str, Any] = {}

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches; the last, incomplete one is dropped."""
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
        """Return the number of batches per epoch of each of so many processes."""
        return -(-len(self.train_dataloader()) // processes)

    def check(self) -> None:
        """Decode every image once, and refuse or leave out broken ones.

        Raises:
            DataError: some are broken and are not to be skipped; the message lists them.
        """
        raise NotImplementedError
