"""What the engine asks of the data of a task."""

import hashlib
from collections.abc import Callable, Sequence
from copy import copy
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader, default_collate

from van.data.augmentation import MosaicAugmentation
from van.data.balance import REPEAT_THRESHOLD, image_factors
from van.data.loaders import StepBatches, TrainBatches, batch_loader, evaluation_loader, loading_processes
from van.data.mixing import Augmented, Mixing, Targets
from van.engine.options import StepOptions
from van.errors import VanError

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class DataModule(LightningDataModule):
    """Training and validation samples of one data set.

    Batches are shared among processes here: Lightning's own sampler stays away.

    Args:
        train: Training samples.
        val: Validation samples.
        class_names: Names in the order of the labels.
        batch_size: Samples per step and process.
        workers: Loading processes.
        split: What the evaluation of the task takes for the validation split; None takes val.
        seed: Of the order of the training samples and of their augmentation.
        collate: Joins samples to a batch.

    Attributes:
        notes: Sentences about the data that the user should know; those about what was left out are LeftOut.
        extra: What prediction needs to know of the data, for the weight file; what JSON can hold.
        steps_per_epoch: Steps of an epoch; None takes those of a pass over the data.
        changes: Random changes of a training sample, from image and target to image and target; None where the
            training samples are changed already.
        mixing: Random changes before these that join several samples; None for none.
        unmixed_epochs: Last epochs of training without them.
        factors: How often each training image is seen in a pass; None takes each once.
    """

    class_names: list[str]
    steps_per_epoch: int | None = None
    changes: Callable[[Any, Any], Any] | None = None
    mixing: Mixing | None = None
    unmixed_epochs: int = 0
    factors: Any = None

    def __init__(
        self,
        train: Any,
        val: Any,
        class_names: list[str],
        batch_size: int,
        workers: int,
        split: Any = None,
        seed: int = 0,
        collate: Callable[[list[Any]], Any] = default_collate,
    ) -> None:
        super().__init__()
        self.train, self.val, self.split = train, val, val if split is None else split
        self.class_names = list(class_names)
        self.batch_size, self.workers = batch_size, workers
        self.seed, self.collate = seed, collate
        self.notes: list[str] = []
        self.extra: dict[str, Any] = {}

    def order(self, processes: int | None = None, rank: int | None = None) -> TrainBatches:
        """Return the batches of training; None asks torch.distributed."""
        steps = self.steps_per_epoch
        return StepBatches(len(self.train), self.batch_size, steps, self.seed, processes, rank, self.factors)

    def contents(self) -> "csr_array":
        """Return how much of each class is on each training image: objects, pixels, or 1; (images, classes).

        Raises:
            VanError: there are no classes to choose among.
        """
        raise VanError(
            "class_weights and sampling are for data with several classes, which this task does not have. Leave them "
            "out."
        )

    def resample(self, how: str, threshold: float | None) -> None:
        """Show images of rare classes more often from now on; to be called before there is a loader.

        Args:
            how: balanced or repeat-factor; see van.data.balance.image_factors.
            threshold: Of repeat-factor; None takes that of LVIS.

        Raises:
            VanError: the images cannot be taken in any order, or have no classes.
        """
        factors = image_factors(self.contents(), how, REPEAT_THRESHOLD if threshold is None else threshold)
        self.factors = factors
        self.notes.append(
            f"sampling {how}: a pass has {factors.sum():.0f} samples of {len(factors)} images, each of which is seen "
            f"{factors.min():.3g} to {factors.max():.3g} times on average."
        )

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches, from the step on at which a continued run has stopped."""
        order = self.order()
        if self.trainer is not None:
            fit = self.trainer.fit_loop
            epoch: Any = fit.epoch_progress.current
            inside = fit.epoch_loop.batch_progress.current
            order.start_at(epoch.processed, inside.ready if epoch.started > epoch.processed else 0)
        end = None
        if self.unmixed_epochs and self.trainer is not None and self.trainer.max_epochs is not None:
            end = max(0, self.trainer.max_epochs - self.unmixed_epochs), self.training_set(mixed=False)
        return batch_loader(self.training_set(), order, self.collate, self.workers, end)

    def training_set(self, mixed: bool = True) -> Any:
        """Return the training samples as a dataset, augmentation included.

        Args:
            mixed: Join several samples, where that is part of the augmentation.
        """
        if self.changes is None:
            return self.train
        return Augmented(self.train, self.changes, self.mixing if mixed else None)

    def augment(self, changes: Callable[[Any, Any], Any], options: MosaicAugmentation, targets: type[Targets]) -> None:
        """Change training samples at random.

        Args:
            changes: Of a single sample.
            options: Of what joins samples before.
            targets: How their targets are joined.

        Raises:
            DataError: an option is out of range.
        """
        self.changes, self.mixing = changes, options.mixing(targets)
        self.unmixed_epochs = options.unmixed_epochs

    def stored_set(self) -> Any:
        """Return the training samples as a dataset without random changes."""
        stored: Any = copy(self.train)
        stored.transform = None
        return stored

    def splits(self) -> dict[str, Any]:
        """Return what the training and the validation samples come from; see van.data.regions.Inspected."""
        return {name: getattr(part, "split", part) for name, part in (("train", self.train), ("val", self.val))}

    def val_dataloader(self) -> DataLoader:
        """Return the validation samples in order."""
        return evaluation_loader(self.val, 2 * self.batch_size, self.workers, collate=self.collate)

    def steps(self, processes: int) -> int:
        """Return how many batches each of so many processes trains on in an epoch."""
        return len(self.order(processes, 0))

    def batch_names(self, epoch: int, batch: int) -> list[str]:
        """Return the names of the samples of a training step, over all processes; an empty list if they have none.

        Args:
            epoch: Its number from 0.
            batch: Number of the step in it from 0.
        """
        named = getattr(self.train, "name", None)
        if named is None:
            return []
        found = next(islice(self.order().batches(epoch), batch, None))
        return [named(index % len(self.train)) for _, index in found]  # a set may come at several sizes

    def fingerprint(self) -> str:
        """Return a digest of names, labels and order of all samples; the images are not read."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.train, self.val):
            named, labels = getattr(part, "name", str), getattr(part, "labels", None)
            for index in range(len(part)):
                where = "/".join(Path(named(index)).parts[-2:])  # a folder may move
                digest.update(f"{where}\t{labels[index] if labels is not None else ''}\n".encode())
        return digest.hexdigest()

    @property
    def described(self) -> str:
        """What labels are, in a few words such as "10 classes"; empty where there is nothing to say."""
        return f"{len(self.class_names)} classes" if len(self.class_names) > 1 else ""

    def skip_bad_images(self, file: Path) -> None:
        """From now on, train on another sample where one cannot be used; to be called before there is a loader.

        Args:
            file: What is skipped is listed there; see van.data.skipping.
        """
        from van.data.skipping import Skipping

        self.train = Skipping(self.train, file)


class StepData(DataModule):
    """Samples that train in batches counted by passes over the data or by steps, and are validated as they are.

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
        from van.engine.fit import length

        workers, batch_size = loading_processes(options.workers), options.batch_size // processes
        super().__init__(train, val, class_names, batch_size, workers, split, options.seed, collate)
        steps = length(options)[1]
        self.steps_per_epoch = None if steps is None else steps * options.accumulate
        self.notes += notes

    def val_dataloader(self) -> DataLoader:
        """Return the validation samples in order."""
        return evaluation_loader(self.val, self.batch_size, self.workers)
