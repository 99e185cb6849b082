"""What the engine asks of the data of a task."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from van.engine.options import StepOptions


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
        notes: Sentences about the data that the user should know; those about what was left out are LeftOut.
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

    def skip_bad_images(self, file: Path) -> None:
        """From now on, train on another sample where one cannot be used; to be called before there is a loader.

        Args:
            file: What is skipped is listed there; see van.data.skipping.
        """
        from van.data.skipping import Skipping

        self.train = Skipping(self.train, file)


class StepData(DataModule):
    """Samples that train in batches counted by passes over the data or by steps, and are validated as they are.

    Batches are shared among processes here, so that Lightning's own sampler stays away.

    Args:
        options: Of training: batch size, length, seed and loading processes.
        processes: How many processes share a batch.
        train: Training samples, pairs of image and target.
        val: Validation samples; their batches are lists of images (3, H, W) uint8 and of targets.
        class_names: Names in the order of the labels.
        split: What the evaluation of the task takes for the validation split.
        collate: Joins training samples.
        notes: Sentences about the data that the user should know.
    """

    shares_itself = True

    def __init__(
        self,
        options: StepOptions,
        processes: int,
        train: Any,
        val: Any,
        class_names: list[str],
        split: Any,
        collate: Callable[[list[Any]], Any],
        notes: Sequence[str] = (),
    ) -> None:
        from van.data.loaders import loading_processes
        from van.engine.fit import length

        workers = loading_processes(options.workers)
        super().__init__(train, val, class_names, options.batch_size // processes, workers, split)
        self.collate = collate
        self.steps_per_epoch = length(options)[1]
        self.seed = options.seed
        self.notes += notes

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches; an epoch goes on where the one before ended."""
        from van.data.loaders import StepBatches, batch_loader, processes_and_rank

        steps = self.steps(processes_and_rank()[0])
        order = StepBatches(len(self.train), self.batch_size, steps, self.seed)
        return batch_loader(self.train, order, self.collate, self.workers)

    def val_dataloader(self) -> DataLoader:
        """Return the validation samples in order."""
        from van.data.loaders import evaluation_loader

        return evaluation_loader(self.val, self.batch_size, self.workers)

    def steps(self, processes: int) -> int:
        """Return how many batches each of so many processes trains on in an epoch."""
        return self.steps_per_epoch or max(1, len(self.train) // (self.batch_size * processes))
