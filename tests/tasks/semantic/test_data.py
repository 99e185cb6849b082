"""Batches of images with labels of their pixels, and what all dense tasks share about them."""

import numpy as np
import pytest
import torch
from PIL import Image

from van.data.augmentation import SemanticAugmentation
from van.errors import DataError
from van.tasks.semantic.data import semantic_data
from van.tasks.semantic.options import SemanticTrainOptions

SMALL = SemanticAugmentation(fit=(32, 32), crop_size=(32, 32))


def data_of(folder, processes=1, **options):
    given = {"batch_size": 8, "workers": 0, "augmentation": SMALL, **options}
    return semantic_data(SemanticTrainOptions(data=str(folder), **given), processes)


def test_batches(data):
    found = data_of(data["semantic"])
    assert found.class_names[:2] == ["person", "circle"]
    assert (found.steps(1), found.steps(2)) == (2, 1)
    batches = list(found.train_dataloader())
    assert len(batches) == 2
    images, labels = batches[0]
    assert (images.shape, images.dtype) == ((8, 3, 32, 32), torch.uint8)
    assert labels.shape == (8, 32, 32)
    assert type(images) is type(labels) is torch.Tensor
    whole = [item for batch in found.val_dataloader() for item in zip(*batch, strict=True)]
    assert len(whole) == 4
    for (image, truth), file in zip(whole, found.split.images, strict=True):  # shapes has wide and high images
        with Image.open(file) as original:
            assert (3, *original.size[::-1]) == image.shape == (3, *truth.shape)


def test_epochs_of_given_steps(data):
    found = data_of(data["semantic"], iterations=10, validate_every=5)
    assert found.steps(1) == len(list(found.train_dataloader())) == 5


def test_processes_share_a_batch(data):
    assert data_of(data["semantic"], processes=2).batch_size == 4


def bad_folder(folder):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for name in "ab":
            Image.new("RGB", (20, 20), "red").save(folder / "images" / split / f"{name}.png")
            labels = np.zeros((20, 20), np.uint8)
            labels[10:] = 1
            Image.fromarray(labels).save(folder / "masks" / split / f"{name}.png")
    (folder / "classes.txt").write_text("no\nyes\n")
    Image.new("L", (10, 20)).save(folder / "masks" / "train" / "b.png")
    return folder


def test_bad_masks_are_refused_or_skipped(tmp_path):
    folder = bad_folder(tmp_path)
    with pytest.raises(DataError, match=r"b\.png.*10 x 20"):
        data_of(folder, batch_size=1)
    found = data_of(folder, batch_size=1, on_bad_image="skip")
    assert (len(found.train), len(found.val)) == (1, 2)
    assert "1 of 2 images" in found.notes[0]


def test_other_classes_for_validation(tmp_path):
    folder = bad_folder(tmp_path)
    (folder / "classes.txt").unlink()
    for split, names in (("train", "no\nyes\n"), ("val", "yes\nno\n")):
        (folder / "masks" / split / "classes.txt").write_text(names)
    with pytest.raises(DataError, match="different classes"):
        data_of(folder, on_bad_image="skip")
