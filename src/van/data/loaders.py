"""From samples to batches: number of loading processes, samplers, collation, data loaders."""

import hashlib
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from van.data.balance import Repeats
from van.data.targets import check_labels, check_objects, check_saliency
from van.errors import DataError

Collate = Callable[[list[Any]], Any]

_FEW = 128  # up to this many images, starting processes takes longer than it saves
_MOST_PROCESSES = 8
STREAMS = 32  # of blocks that are read side by side


def loading_processes(workers: int | None, images: int | None = None) -> int:
    """Return the number of loading processes: for training, evaluation, prediction and checks alike.

    Args:
        workers: What the user asked for; None takes one per processor, at most 8, and none for few images.
        images: Number of images that are read once; None where they are read again in every epoch.

    Raises:
        DataError: workers is negative.
    """
    if workers is None:
        return 0 if images is not None and images <= _FEW else min(_MOST_PROCESSES, os.cpu_count() or 1)
    if workers < 0:
        raise DataError(f"workers is {workers}, expected 0 or more.")
    return workers


def processes_and_rank(processes: int | None = None, rank: int | None = None) -> tuple[int, int]:
    """Return how many processes train together and which one this is; None asks torch.distributed."""
    together = dist.is_available() and dist.is_initialized()
    if processes is None:
        processes = dist.get_world_size() if together else 1
    if rank is None:
        rank = dist.get_rank() if together else 0
    return processes, rank


# ------------------------------------------------------------------------------------------------ samplers


class _BatchSampler(DistributedSampler):
    """Yields lists of indices, different ones in every process.

    Being a DistributedSampler, it is told the epoch by Lightning and is otherwise left alone.

    Args:
        images: Number of images.
        batch_size: Images per batch and process.
        seed: Of the order.
        processes: How many share the images; None asks torch.distributed.
        rank: Which of them this is; None asks torch.distributed.
    """

    def __init__(self, images: int, batch_size: int, seed: int, processes: int | None, rank: int | None) -> None:
        processes, rank = processes_and_rank(processes, rank)
        super().__init__(cast(Any, range(images)), num_replicas=processes, rank=rank, seed=seed)
        self.images = images
        self.batch_size = batch_size

    def _refuse_fewer_images_than_processes(self) -> None:
        if self.images < self.num_replicas:
            raise DataError(f"{self.images} images cannot be shared by {self.num_replicas} devices. Use fewer devices.")


class TrainBatches(_BatchSampler):
    """Batches of a training epoch: lists of pairs (number, index), where number counts the samples of the whole run.

    Order and numbers follow from seed and epoch alone. However many processes share a step, it has the same samples,
    and a run can go on at any step of an epoch.

    Attributes:
        share: Samples of a step that each process gets.
    """

    share: int

    _first = 0

    def start_at(self, epoch: int, batch: int) -> None:
        """Choose where an epoch begins; those after it begin at their start.

        Args:
            epoch: Its number from 0.
            batch: How many batches of it are left out.
        """
        self.set_epoch(epoch)
        self._first = batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0; Lightning does it, also for the one that a continued run begins with."""
        if epoch != self.epoch:
            self._first = 0
        super().set_epoch(epoch)

    def batches(self, epoch: int) -> Iterator[list[tuple[int, int]]]:
        """Return all batches of an epoch over all processes together, each of batch_size * processes samples."""
        raise NotImplementedError

    def first_number(self, epoch: int) -> int:
        """Return the number of the first sample of an epoch."""
        return epoch * len(self) * self.share * self.num_replicas

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        own = slice(self.rank * self.share, (self.rank + 1) * self.share)
        return (batch[own] for batch in islice(self.batches(self.epoch), self._first, None))


class OrientedBatches(TrainBatches):
    """Shuffled batches of images that are all landscape or all portrait, so that little padding is needed.

    The order is new in every epoch. Of each orientation, images that do not fill a batch wait for another epoch; where
    there are too few for any batch, it is filled with images of the other.

    Args:
        ratios: Width divided by height of each image.
        batch_size: Images per batch and process.
        seed: Of the order.
        processes: How many share the images; None asks torch.distributed.
        rank: Which of them this is; None asks torch.distributed.
        factors: How often each image is seen in an epoch; None takes each once. See van.data.balance.Repeats.

    Raises:
        DataError: there are fewer images than processes.
    """

    def __init__(
        self,
        ratios: Sequence[float],
        batch_size: int,
        seed: int = 0,
        processes: int | None = None,
        rank: int | None = None,
        factors: Sequence[float] | None = None,
    ) -> None:
        super().__init__(len(ratios), batch_size, seed, processes, rank)
        self._refuse_fewer_images_than_processes()
        self.share = min(batch_size, len(ratios) // self.num_replicas)
        wide = torch.tensor(ratios) >= 1
        self.groups = [group for group in (wide.nonzero()[:, 0], (~wide).nonzero()[:, 0]) if len(group)]
        seen = None if factors is None else np.asarray(factors)
        self.repeats = [None if seen is None else Repeats(seen[group.numpy()]) for group in self.groups]

    def __len__(self) -> int:
        lengths = [
            len(group) if repeats is None else repeats.length
            for group, repeats in zip(self.groups, self.repeats, strict=True)
        ]
        return sum(max(1, length // (self.share * self.num_replicas)) for length in lengths)

    def batches(self, epoch: int) -> Iterator[list[tuple[int, int]]]:
        """Return all batches of an epoch over all processes together."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        size = self.share * self.num_replicas
        orders = [
            group[torch.randperm(len(group), generator=generator) if repeats is None else repeats.order(generator)]
            for group, repeats in zip(self.groups, self.repeats, strict=True)
        ]
        orders = [order.tolist() for order in orders]
        batches: list[list[int]] = []
        for order, other in zip(orders, reversed(orders), strict=True):
            # an orientation with too few images for a batch takes some of the other; repeats are rounded, so twice
            filled = order if len(order) >= size else (2 * (order + other))[:size]
            batches += [filled[i * size : (i + 1) * size] for i in range(len(filled) // size)]
        for place, batch in enumerate(torch.randperm(len(batches), generator=generator).tolist()):
            yield list(enumerate(batches[batch], (epoch * len(batches) + place) * size))


class StepBatches(TrainBatches):
    """A fixed number of shuffled batches per epoch.

    The batches come from an endless sequence of passes over the images, each in an order of its own. An epoch may be
    shorter or longer than a pass; the next one continues where it ended.

    Args:
        images: Number of images.
        batch_size: Images per batch and process.
        steps: Batches per epoch and process; None takes those that fit into a pass, at least one.
        seed: Of the order.
        processes: How many share the images; None asks torch.distributed.
        rank: Which of them this is; None asks torch.distributed.
        factors: How often each image is seen in a pass; None takes each once. See van.data.balance.Repeats.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        steps: int | None = None,
        seed: int = 0,
        processes: int | None = None,
        rank: int | None = None,
        factors: Sequence[float] | None = None,
    ) -> None:
        self.repeats = None if factors is None else Repeats(factors)
        # from here on, images are those of a pass
        images = images if self.repeats is None else self.repeats.length
        super().__init__(images, batch_size, seed, processes, rank)
        self.share = batch_size
        self._turn: tuple[int, list[int]] | None = None
        self.steps = steps or max(1, images // (batch_size * self.num_replicas))

    def __len__(self) -> int:
        return self.steps

    def batches(self, epoch: int) -> Iterator[list[tuple[int, int]]]:
        """Return all batches of an epoch over all processes together."""
        whole = self.batch_size * self.num_replicas
        for step in range(epoch * self.steps, (epoch + 1) * self.steps):
            numbers = range(step * whole, (step + 1) * whole)
            yield [(number, self.shuffled(number // self.images)[number % self.images]) for number in numbers]

    def shuffled(self, turn: int) -> list[int]:
        """Return the order of the images in a pass, which counts from 0."""
        if self._turn is None or self._turn[0] != turn:
            generator = torch.Generator().manual_seed(self.seed + turn)
            if self.repeats is None:
                self._turn = turn, torch.randperm(self.images, generator=generator).tolist()
            else:
                self._turn = turn, self.repeats.order(generator)
        return self._turn[1]


class BlockBatches(TrainBatches):
    """Shuffled batches of images in blocks that are read as a whole, such as groups of rows of a Parquet file.

    The blocks are shuffled and dealt to streams, and what a process gets of a batch comes from one stream, shuffled
    inside its block. Where processes times loading processes divide the number of streams, each block is read by one of
    them only. The images that do not fill a batch are left out of the epoch; in each they are others.

    Args:
        blocks: Number of images in each block, in order.
        batch_size: Images per batch and process.
        seed: Of the order.
        processes: How many share the images; None asks torch.distributed.
        rank: Which of them this is; None asks torch.distributed.

    Raises:
        DataError: there are not enough images for one batch of every process.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        batch_size: int,
        seed: int = 0,
        processes: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(sum(blocks), batch_size, seed, processes, rank)
        self._refuse_fewer_images_than_processes()
        self.share = min(batch_size, self.images // self.num_replicas)
        self.blocks = np.split(np.arange(self.images), np.cumsum(blocks)[:-1])

    def __len__(self) -> int:
        return self.images // (self.share * self.num_replicas)

    def batches(self, epoch: int) -> Iterator[list[tuple[int, int]]]:
        """Return all batches of an epoch over all processes together."""
        order, whole = self._order(epoch), self.share * self.num_replicas
        for start in range(0, len(self) * whole, whole):
            yield [(epoch * len(self) * whole + start + i, order[start + i]) for i in range(whole)]

    def _order(self, epoch: int) -> list[int]:
        generator = np.random.default_rng((self.seed, epoch))
        queue = iter(generator.permutation(len(self.blocks)))
        streams: list[list[int]] = [[] for _ in range(STREAMS)]
        order: list[int] = []
        while len(order) < self.images:
            for stream in streams:
                while len(stream) < self.share and (block := next(queue, None)) is not None:
                    stream += generator.permutation(self.blocks[block]).tolist()
                order += stream[: self.share]
                del stream[: self.share]
        return order


class OrderedBatches(_BatchSampler):
    """Every image once, in a fixed order; all processes get the same number of batches.

    Args:
        order: Indices of the images in the order they are wanted in.
        batch_size: Images per batch and process; a batch may hold one more where that evens out the processes.
        processes: How many share the images; None asks torch.distributed.
        rank: Which of them this is; None asks torch.distributed.

    Raises:
        DataError: there are fewer images than processes.
    """

    def __init__(
        self, order: Sequence[int], batch_size: int, processes: int | None = None, rank: int | None = None
    ) -> None:
        super().__init__(len(order), batch_size, 0, processes, rank)
        self._refuse_fewer_images_than_processes()
        self.order = torch.as_tensor(order)

    def __len__(self) -> int:
        batches = -(-self.images // (self.num_replicas * self.batch_size))
        return min(batches, self.images // self.num_replicas)  # one image more is better than an empty batch

    def __iter__(self) -> Iterator[list[int]]:
        own = torch.tensor_split(self.order, self.num_replicas)[self.rank]
        return iter([batch.tolist() for batch in torch.tensor_split(own, len(self))])


# ------------------------------------------------------------------------------------------------ collation


def plain(value: Any) -> Any:
    """Return a tensor without torchvision's wrappers, which slow down every operation; dictionaries value by value."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return value.as_subclass(torch.Tensor) if isinstance(value, torch.Tensor) else value


def collate_lists(items: list[tuple[Any, Any]]) -> tuple[list[torch.Tensor], list[Any]]:
    """Return a list of images (3, H, W) of any sizes and the list of their targets."""
    images, targets = zip(*items, strict=True)
    return [plain(image) for image in images], [plain(target) for target in targets]


def _collate_objects(items: list[tuple[Any, Any]], num_classes: int, masks: bool) -> tuple[Any, Any]:
    images, targets = collate_lists(items)
    for target in targets:
        check_objects(target, num_classes, masks=masks)
    return images, targets


def _collate_labels(items: list[tuple[Any, Any]], num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = map(torch.stack, collate_lists(items))
    check_labels(labels, num_classes)
    return images, labels


def _collate_segments(items: list[tuple[Any, Any]], num_classes: int) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    images, targets = collate_lists(items)
    for target in targets:
        check_objects(target, num_classes, boxes=False, masks=True)
    return torch.stack(images), [{key: target[key] for key in ("masks", "labels")} for target in targets]


def collate_masks(items: list[tuple[Any, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (B, 3, H, W) and salient masks (B, H, W) as floats from 0 to 1, checked."""
    images, masks = map(torch.stack, collate_lists(items))
    masks = masks.float()
    check_saliency(masks)
    return images, masks


def collate_objects(num_classes: int, masks: bool) -> Collate:
    """Return what joins images and targets with boxes to two lists, and checks the targets.

    Args:
        num_classes: Number of classes.
        masks: Whether every object must have a mask.
    """
    return partial(_collate_objects, num_classes=num_classes, masks=masks)


def collate_labels(num_classes: int) -> Collate:
    """Return what joins images and labels of pixels to tensors (B, 3, H, W) and (B, H, W), and checks the labels."""
    return partial(_collate_labels, num_classes=num_classes)


def collate_segments(num_classes: int) -> Collate:
    """Return what joins images to (B, 3, H, W) and lists masks and labels of their segments, and checks these."""
    return partial(_collate_segments, num_classes=num_classes)


# ------------------------------------------------------------------------------------------------ loaders


class _Batches(Dataset):
    """Collated items for lists of indices."""

    def __init__(self, dataset: Dataset, collate: Collate) -> None:
        self.dataset = dataset
        self.collate = collate

    def __len__(self) -> int:
        return len(cast(Any, self.dataset))

    def __getitem__(self, indices: list[Any]) -> Any:
        return self.collate([self.dataset[index] for index in indices])


class _RandomBatches(_Batches):
    """Collated items for lists of numbers and indices, whose random numbers follow from seed and number alone.

    From some number on they come from another data set.
    """

    def __init__(self, dataset: Dataset, collate: Collate, seed: int, end: "tuple[int, Dataset] | None" = None) -> None:
        super().__init__(dataset, collate)
        self.seed, self.end = seed, end

    def _item(self, number: int, index: int) -> Any:
        seed_generators(self.seed, number)
        return (self.dataset if self.end is None or number < self.end[0] else self.end[1])[index]

    def __getitem__(self, indices: list[Any]) -> Any:
        return self.collate([self._item(number, index) for number, index in indices])


def seed_generators(*numbers: int) -> None:
    """Seed the generators of Python, NumPy and torch, the current GPU's included, with what follows from some numbers.

    So a step, or a sample, is random in the same way in every process, with any number of loading processes, and after
    a run was continued.
    """
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little")
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the generator that timm uses
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # torch.manual_seed would keep a list of calls where it is not
        torch.cuda.manual_seed(seed)


def as_is(item: Any) -> Any:
    """Return an item; data loaders would convert it."""
    return item


def _outlive_signals(worker: int) -> None:
    """Let a loading process go on where a signal to the whole group asks training to stop, for the running step."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(30))  # torch also ends stuck ones with SIGTERM


def batch_loader(
    dataset: Dataset,
    batches: _BatchSampler,
    collate: Collate,
    workers: int,
    end: tuple[int, Dataset] | None = None,
) -> DataLoader:
    """Return a loader of the batches that a sampler lists.

    Args:
        dataset: Items are what collate takes, such as pairs of an image and its target.
        batches: One of the samplers of this module. It shares the images among processes: Lightning's trainer gets
            use_distributed_sampler=False.
        collate: Joins items to a batch.
        workers: Loading processes.
        end: What the end of training takes instead: an epoch from 0, and a data set of the same samples.
    """
    random_order = isinstance(batches, TrainBatches)
    last = (batches.first_number(end[0]), end[1]) if end and random_order else None
    return DataLoader(
        _RandomBatches(dataset, collate, batches.seed, last) if random_order else _Batches(dataset, collate),
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        collate_fn=as_is,
        persistent_workers=workers > 0,
        worker_init_fn=_outlive_signals,
    )


def evaluation_loader(
    dataset: Dataset,
    batch_size: int,
    workers: int,
    ratios: Sequence[float] | None = None,
    collate: Collate = collate_lists,
) -> DataLoader:
    """Return every image once; by default lists of images (3, H, W) and of targets.

    Args:
        dataset: Items are pairs of an image and its target.
        batch_size: Images per batch and process.
        workers: Loading processes.
        ratios: Width divided by height of each image, to batch images of similar shape; None keeps the order.
        collate: Joins items to a batch.
    """
    images = len(cast(Any, dataset))
    order = range(images) if ratios is None else torch.tensor(ratios).argsort(stable=True).tolist()
    return batch_loader(dataset, OrderedBatches(order, batch_size), collate, workers)
