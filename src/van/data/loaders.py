"""From samples to batches: how many processes load, in which order, and how samples are joined."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from van.data.targets import plain
from van.errors import DataError

_FEW = 256  # for so many samples no processes are started
_MOST = 8

Collate = Callable[[list[Any]], Any]


def loading_processes(workers: int | None, samples: int | None = None) -> int:
    """Return how many processes load samples, for training, evaluation and prediction alike.

    Args:
        workers: What the user asked for; None takes one per processor, at most 8, and none for a few samples.
        samples: How many there are, where it is known and all of them are cheap to load.
    """
    if workers is not None:
        return workers
    return 0 if samples is not None and samples <= _FEW else min(_MOST, os.cpu_count() or 1)


def processes_and_rank(processes: int | None = None, rank: int | None = None) -> tuple[int, int]:
    """Return how many processes share the data, and which of them this is; None asks torch.distributed."""
    together = dist.is_available() and dist.is_initialized()
    if processes is None:
        processes = dist.get_world_size() if together else 1
    if rank is None:
        rank = dist.get_rank() if together else 0
    return processes, rank


class _Batches(DistributedSampler):
    """Yields lists of places. A DistributedSampler: Lightning leaves it as it is and tells it the epoch."""

    def __init__(
        self, count: int, batch_size: int, seed: int = 0, processes: int | None = None, rank: int | None = None
    ) -> None:
        processes, rank = processes_and_rank(processes, rank)
        super().__init__(cast(Any, range(count)), num_replicas=processes, rank=rank, seed=seed)
        if count < processes:
            raise DataError(f"{count} samples cannot be shared by {processes} devices. Give fewer --devices.")
        self.count = count
        self.batch_size = batch_size


class OrderedBatches(_Batches):
    """Every sample once, in order or in that of a key, in about equal batches; each process has its own part.

    Args:
        count: How many samples there are.
        batch_size: Samples per batch and process.
        key: One number per sample that they are sorted by, so that like ones share a batch; None keeps the order.
        processes: How many share the samples; None asks torch.distributed.
        rank: Which of them this is; None asks torch.distributed.

    Raises:
        DataError: there are fewer samples than processes.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        key: Sequence[float] | None = None,
        processes: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(count, batch_size, 0, processes, rank)
        self.order = torch.arange(count) if key is None else torch.tensor(key).argsort(stable=True)

    def __len__(self) -> int:
        whole = -(-self.count // (self.num_replicas * self.batch_size))
        return min(whole, self.count // self.num_replicas)  # rather one sample more than a batch of none

    def __iter__(self) -> Iterator[list[int]]:
        own = torch.tensor_split(self.order, self.num_replicas)[self.rank]
        return iter([batch.tolist() for batch in torch.tensor_split(own, len(self))])


class OrientedBatches(_Batches):
    """Random batches of images that are all wider than high, or all higher than wide, so that little is padded.

    Every process gets as many batches as the others, and other images. The order is new in every epoch; the images of
    each orientation left over from whole batches wait for another epoch, unless they are all that there are.

    Args:
        ratios: Width divided by height of each image.
        batch_size: Images per batch and process.
        seed: Of the order.
        processes: How many share the images; None asks torch.distributed.
        rank: Which of them this is; None asks torch.distributed.

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
    ) -> None:
        super().__init__(len(ratios), batch_size, seed, processes, rank)
        wide = torch.tensor(ratios) >= 1
        self.groups = [group for group in (wide.nonzero()[:, 0], (~wide).nonzero()[:, 0]) if len(group)]

    def __len__(self) -> int:
        batches = sum(max(1, len(group) // self.batch_size) for group in self.groups)
        return max(1, batches // self.num_replicas)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        batches: list[list[int]] = []
        for group in self.groups:
            order = group[torch.randperm(len(group), generator=generator)].tolist()
            size = self.batch_size
            batches += [order[i * size : (i + 1) * size] for i in range(max(1, len(group) // size))]
        places = torch.randperm(len(batches), generator=generator).tolist()
        # fewer batches than processes: some come twice
        count = len(self) * self.num_replicas
        return iter([batches[places[i % len(places)]] for i in range(self.rank, count, self.num_replicas)])


class StepBatches(_Batches):
    """A fixed number of batches per epoch, from an endless row of passes over the data, each in its own order.

    An epoch may be shorter or longer than a pass: the next one continues where it ended. Every process gets other
    samples of the same batches.

    Args:
        count: How many samples there are.
        batch_size: Samples per batch and process.
        steps: Batches per epoch and process.
        seed: Of the order.
        processes: How many share the samples; None asks torch.distributed.
        rank: Which of them this is; None asks torch.distributed.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        steps: int,
        seed: int = 0,
        processes: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(count, batch_size, seed, processes, rank)
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
                turn, index = divmod(place, self.count)
                if turn not in orders:
                    generator = torch.Generator().manual_seed(self.seed + turn)
                    # batches of several processes may lie in two passes
                    orders = {k: v for k, v in orders.items() if k == turn - 1}
                    orders[turn] = torch.randperm(self.count, generator=generator).tolist()
                batch.append(orders[turn][index])
            yield batch


class _Joined(Dataset):
    """What lists of samples become, for lists of places."""

    def __init__(self, dataset: Any, collate: Collate) -> None:
        self.dataset = dataset
        self.collate = collate

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, places: list[int]) -> Any:
        return self.collate([self.dataset[place] for place in places])


def _as_is(batch: Any) -> Any:
    return batch


def batch_loader(dataset: Dataset, batches: Any, collate: Collate, workers: int) -> DataLoader:
    """Return a loader of batches that a sampler chooses.

    Args:
        dataset: The samples.
        batches: A sampler that yields lists of places.
        collate: Joins a list of samples.
        workers: Loading processes.
    """
    return DataLoader(
        _Joined(dataset, collate),
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        collate_fn=_as_is,
        persistent_workers=workers > 0,
    )


def evaluation_loader(
    dataset: Dataset, batch_size: int, workers: int, key: Sequence[float] | None = None
) -> DataLoader:
    """Return every sample once, as it is: lists of images (3, H, W) uint8 and of targets.

    Args:
        dataset: Pairs of image and target.
        batch_size: Samples per batch and process.
        workers: Loading processes.
        key: See OrderedBatches.
    """
    return batch_loader(dataset, OrderedBatches(len(cast(Any, dataset)), batch_size, key), as_lists, workers)


def as_lists(items: list[tuple[Any, Any]]) -> tuple[list[torch.Tensor], list[Any]]:
    """Return images of any sizes and their targets as two lists, tensors without torchvision's wrapper."""
    images, targets = zip(*items, strict=True)
    return [plain(image) for image in images], [_unwrapped(target) for target in targets]


def _unwrapped(target: Any) -> Any:
    if isinstance(target, dict):
        return {key: _unwrapped(value) for key, value in target.items()}
    return plain(target) if isinstance(target, torch.Tensor) else target


def as_stacks(items: list[tuple[Any, Any]]) -> tuple[torch.Tensor, Any]:
    """Return images (B, 3, H, W), and targets stacked where they are tensors, else as a list."""
    images, targets = as_lists(items)
    stacked = torch.stack(targets) if isinstance(targets[0], torch.Tensor) else targets
    return torch.stack(images), stacked
