"""Batches of images with labelled pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from van.data.pixel_transforms import PanopticAugmentation, SaliencyAugmentation, SemanticAugmentation
from van.data.pixels import SemanticFormat, StepBatches, evaluation_batches, panoptic_data, saliency_data, semantic_data
from van.data.shapes import make_shapes
from van.errors import DataError

SMALL = {"scale": (32, 32), "crop": (32, 32)}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, 10, 48)
    return folder


class TestStepBatches:
    def test_every_image_once_per_pass_across_epochs(self):
        batches = StepBatches(10, 4, steps=3)
        seen = []
        for epoch in range(5):  # 60 places: six passes
            batches.set_epoch(epoch)
            found = list(batches)
            assert len(found) == len(batches) == 3
            seen += [place for batch in found for place in batch]
        assert all(sorted(seen[i : i + 10]) == list(range(10)) for i in range(0, 60, 10))
        assert seen[:10] != seen[10:20]

    def test_processes_share_each_pass(self):
        splits = [StepBatches(12, 2, steps=2, processes=3, rank=rank) for rank in range(3)]
        assert sorted(place for split in splits for batch in split for place in batch) == list(range(12))

    def test_order_follows_from_seed_and_epoch(self):
        def order(seed, epoch):
            batches = StepBatches(10, 5, 2, seed)
            batches.set_epoch(epoch)
            return list(batches)

        assert order(1, 2) == order(1, 2)
        assert order(1, 2) != order(2, 2)
        assert order(1, 2) != order(1, 3)

    def test_batch_larger_than_the_data(self):
        (batch,) = StepBatches(3, 8, 1)
        assert sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]


def test_semantic_batches(shapes):
    data = semantic_data(str(shapes), None, SemanticFormat(), SemanticAugmentation(**SMALL)).plan(4, None, 0, 0)
    assert data.class_names[:2] == ["person", "circle"]
    assert (data.steps(1), data.steps(2)) == (2, 1)
    batches = list(data.train_dataloader())
    assert len(batches) == 2
    images, labels = batches[0]
    assert (images.shape, images.dtype) == ((4, 3, 32, 32), torch.uint8)
    assert labels.shape == (4, 32, 32)
    assert type(images) is type(labels) is torch.Tensor
    whole = [item for batch in data.val_dataloader() for item in zip(*batch, strict=True)]
    assert len(whole) == 2
    for (image, truth), file in zip(whole, data.split.images, strict=True):  # shapes has wide and high images
        with Image.open(file) as original:
            assert (3, *original.size[::-1]) == image.shape == (3, *truth.shape)


def test_epochs_of_given_steps(shapes):
    data = semantic_data(str(shapes), None, SemanticFormat(), SemanticAugmentation(**SMALL)).plan(4, 5, 0, 0)
    assert data.steps(1) == len(list(data.train_dataloader())) == 5


def test_panoptic_batches(shapes):
    data = panoptic_data(str(shapes), None, PanopticAugmentation((0.8, 1.2), (32, 32))).plan(4, None, 0, 0)
    assert data.extra["category_ids"] == [1, 2, 3, 5, 6, 92, 93]
    assert data.extra["isthing"] == [True] * 5 + [False] * 2
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 32, 32)
    for target in targets:
        assert target["masks"].shape == (len(target["labels"]), 32, 32)
    images, targets = next(iter(data.val_dataloader()))
    assert targets[0]["segmentation"].shape == images[0].shape[1:]
    assert {segment["id"] for segment in targets[0]["segments"]} >= set(
        targets[0]["segmentation"].unique().tolist()
    ) - {0}


def test_saliency_batches(shapes):
    data = saliency_data(str(shapes), None, SaliencyAugmentation((32, 32), 4)).plan(4, None, 0, 0)
    images, masks = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 32, 32)
    assert masks.dtype == torch.float32
    assert set(masks.unique().tolist()) <= {0.0, 1.0}


def test_evaluation_sees_every_image_once(shapes):
    data = semantic_data(str(shapes), None, SemanticFormat(), SemanticAugmentation(**SMALL))
    sizes = [len(images) for images, _ in evaluation_batches(data.val, 3, 0)]
    assert sum(sizes) == len(data.val) == 2


def bad_folder(tmp_path, **masks):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for name in "ab":
            Image.new("RGB", (20, 20), "red").save(tmp_path / "images" / split / f"{name}.png")
            labels = np.zeros((20, 20), np.uint8)
            labels[10:] = 1
            Image.fromarray(labels).save(tmp_path / "masks" / split / f"{name}.png")
    (tmp_path / "classes.txt").write_text("no\nyes\n")
    Image.new("L", (10, 20)).save(tmp_path / "masks" / "train" / "b.png")
    return tmp_path


def test_bad_masks_are_refused_or_skipped(tmp_path):
    folder = str(bad_folder(tmp_path))
    with pytest.raises(DataError, match=r"b\.png: has 10 x 20 pixels"):
        semantic_data(folder, None, SemanticFormat(), SemanticAugmentation())
    data = semantic_data(folder, None, SemanticFormat(), SemanticAugmentation(), "skip")
    assert (len(data.train), len(data.val)) == (1, 2)
    assert "1 of 2 images are left out" in data.notes[0]


def test_other_classes_for_validation(tmp_path):
    folder = bad_folder(tmp_path)
    (folder / "classes.txt").unlink()
    for split, names in (("train", "no\nyes\n"), ("val", "yes\nno\n")):
        (folder / "masks" / split / "classes.txt").write_text(names)
    with pytest.raises(DataError, match="different classes"):
        semantic_data(str(folder), None, SemanticFormat(), SemanticAugmentation(), "skip")
