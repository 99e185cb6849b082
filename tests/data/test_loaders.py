"""Samplers, collation and the number of loading processes."""

import os
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from van.data.loaders import (
    OrderedBatches,
    OrientedBatches,
    StepBatches,
    batch_loader,
    collate_labels,
    collate_lists,
    collate_masks,
    collate_objects,
    collate_segments,
    loading_processes,
)
from van.errors import DataError

IMAGE = tv_tensors.Image(torch.zeros(3, 4, 6, dtype=torch.uint8))


def test_number_of_loading_processes():
    most = min(8, os.cpu_count() or 1)
    assert loading_processes(None) == loading_processes(None, 100_000) == most
    assert loading_processes(None, 3) == 0
    assert loading_processes(3, 3) == 3
    assert loading_processes(0) == 0
    with pytest.raises(DataError, match="workers is -1"):
        loading_processes(-1)


RATIOS = [1.5] * 11 + [0.7] * 6 + [1.0] * 2


def numbered(batches):
    """Return the numbers of the samples in each batch, and their indices."""
    lists = list(batches)
    return [[number for number, _ in batch] for batch in lists], [[index for _, index in batch] for batch in lists]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_training_batches(processes):
    ranks = [OrientedBatches(RATIOS, 2, 0, processes, rank) for rank in range(processes)]
    epochs = []
    for epoch in range(3):
        for batches in ranks:
            batches.set_epoch(epoch)
        lists = [numbered(batches)[1] for batches in ranks]
        assert all(len(found) == len(batches) for found, batches in zip(lists, ranks, strict=True))
        assert len({len(found) for found in lists}) == 1
        together = [batch for found in lists for batch in found]
        for batch in together:
            assert len(batch) == 2
            assert len({RATIOS[i] >= 1 for i in batch}) == 1
        used = [i for batch in together for i in batch]
        assert len(used) == len(set(used))
        epochs.append(together)
    assert epochs[0] != epochs[1] != epochs[2]
    again = OrientedBatches(RATIOS, 2, 0, processes, 0)
    assert numbered(again)[1] == epochs[0][: len(again)]


@pytest.mark.parametrize("make", [partial(OrientedBatches, RATIOS), partial(StepBatches, len(RATIOS))])
def test_processes_share_the_batches_of_one(make):
    alone = make(4, processes=1, rank=0)
    ranks = [make(2, processes=2, rank=rank) for rank in range(2)]
    for epoch in range(3):
        for batches in (alone, *ranks):
            batches.set_epoch(epoch)
        assert list(alone) == [first + second for first, second in zip(*ranks, strict=True)]


@pytest.mark.parametrize("batches", [OrientedBatches(RATIOS, 3), StepBatches(len(RATIOS), 3), StepBatches(5, 3, 4)])
def test_an_epoch_goes_on_at_any_batch(batches):
    numbers = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        whole = list(batches)
        numbers += [number for batch in whole for number, _ in batch]
        for done in range(len(whole) + 1):
            batches.start_at(epoch, done)
            assert list(batches) == list(batches) == whole[done:]  # data loaders ask twice
            batches.set_epoch(epoch)
            assert list(batches) == whole[done:]
        batches.set_epoch(epoch + 1)
        assert len(list(batches)) == len(whole)
    assert numbers == list(range(len(numbers)))  # no two samples of a run are augmented alike


def test_an_orientation_with_few_images_is_seen_all_the_same():
    batches = OrientedBatches([1.5] * 8 + [0.5], 4)
    _, indices = numbered(batches)
    assert len(batches) == 3
    assert [len(batch) for batch in indices] == [4, 4, 4]
    assert {index for batch in indices for index in batch} == set(range(9))


class Noise(Dataset):
    """Samples that are random numbers from the three generators."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_random_numbers_do_not_depend_on_the_loading_processes():
    def values(workers, seed=0):
        return list(batch_loader(Noise(), StepBatches(10, 5, seed=seed), list, workers))

    alone = values(0)
    assert alone == values(0) == values(2)
    assert len({item[1:] for batch in alone for item in batch}) == 10
    assert alone != values(0, seed=1)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_evaluation_batches_hold_every_image_once(processes, batch_size):
    ranks = [list(OrderedBatches(range(len(RATIOS)), batch_size, processes, rank)) for rank in range(processes)]
    assert len({len(found) for found in ranks}) == 1
    assert all(0 < len(batch) <= max(2, batch_size) for found in ranks for batch in found)
    assert sorted(i for found in ranks for batch in found for i in batch) == list(range(len(RATIOS)))


def test_fewer_images_than_devices():
    with pytest.raises(DataError, match="2 images cannot be shared by 3 devices"):
        OrderedBatches([0, 1], 1, 3, 0)
    with pytest.raises(DataError, match="2 images cannot be shared by 3 devices"):
        OrientedBatches([1.0, 1.0], 1, 0, 3, 0)


def test_evaluation_keeps_the_order():
    batches = OrderedBatches([4, 2, 0, 3, 1], 2)
    assert list(batches) == [[4, 2], [0, 3], [1]]
    assert len(batches) == 3


class TestStepBatches:
    def test_every_image_once_per_pass_across_epochs(self):
        batches = StepBatches(10, 4, steps=3)
        seen = []
        for epoch in range(5):  # 60 places: six passes
            batches.set_epoch(epoch)
            _, found = numbered(batches)
            assert len(found) == len(batches) == 3
            seen += [place for batch in found for place in batch]
        assert all(sorted(seen[i : i + 10]) == list(range(10)) for i in range(0, 60, 10))
        assert seen[:10] != seen[10:20]

    def test_processes_share_each_pass(self):
        splits = [StepBatches(12, 2, steps=2, processes=3, rank=rank) for rank in range(3)]
        assert sorted(i for split in splits for batch in numbered(split)[1] for i in batch) == list(range(12))

    def test_order_follows_from_seed_and_epoch(self):
        def order(seed, epoch):
            batches = StepBatches(10, 5, 2, seed)
            batches.set_epoch(epoch)
            return numbered(batches)[1]

        assert order(1, 2) == order(1, 2)
        assert order(1, 2) != order(2, 2)
        assert order(1, 2) != order(1, 3)

    def test_batch_larger_than_the_data(self):
        (batch,) = numbered(StepBatches(3, 8, 1))[1]
        assert sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]


def test_collated_tensors_are_plain():
    mask = tv_tensors.Mask(torch.zeros(4, 6, dtype=torch.uint8))
    images, labels = collate_labels(2)([(IMAGE, mask)] * 2)
    assert type(images) is type(labels) is torch.Tensor
    assert (images.shape, labels.shape) == ((2, 3, 4, 6), (2, 4, 6))
    images, masks = collate_masks([(IMAGE, mask)])
    assert type(masks) is torch.Tensor
    assert masks.dtype == torch.float32
    images, targets = collate_lists([(IMAGE, {"masks": mask, "image_id": 7}), (IMAGE, mask)])
    assert {type(t) for t in (*images, targets[0]["masks"], targets[1])} == {torch.Tensor}
    assert targets[0]["image_id"] == 7


@pytest.mark.parametrize(
    ("collate", "target", "message"),
    [
        (collate_labels(2), torch.full((4, 6), 2), "label 2, expected 0 to 1"),
        (collate_masks, torch.full((4, 6), 2), "values from 2 to 2, expected 0 to 1"),
        (collate_segments(2), {"labels": torch.tensor([2]), "masks": torch.ones(1, 4, 6)}, "expected numbers from 0"),
        (collate_objects(2, False), {"labels": torch.tensor([0]), "boxes": torch.zeros(1, 4)}, "x1 < x2"),
    ],
)
def test_wrong_targets_do_not_reach_the_device(collate, target, message):
    with pytest.raises(DataError, match=message):
        collate([(IMAGE, target)])
