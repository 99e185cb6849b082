"""What the engine asks of the data of a task."""

from collections.abc import Sized
from typing import Any

from lightning import LightningDataModule


class DataModule(LightningDataModule):
    """Training and validation samples of one data set. Tasks add the loaders.

    Attributes:
        class_names: Names in the order of the labels.
        train: Training samples.
        val: Validation samples.
        split: What the evaluation of a task takes for the validation split.
        notes: Sentences about the data that the user should know.
        extra: What prediction needs to know of the data, for the weight file; what JSON can hold.
        batch_size: Samples per step and process.
        workers: Loading processes.
        shares_itself: Whether the loaders share the samples among processes; Lightning's sampler stays away then.
    """

    class_names: list[str]
    train: Sized
    val: Sized
    split: Any
    batch_size: int
    workers: int
    shares_itself: bool = True

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self.extra: dict[str, Any] = {}

    def steps(self, processes: int) -> int:
        """Return how many batches each of so many processes trains on in an epoch."""
        raise NotImplementedError

    def check(self) -> None:
        """Decode every image once.

        Raises:
            DataError: some are broken; the message lists them.
        """
