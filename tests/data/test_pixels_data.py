"""Batches of images with labeled pixels."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from van.data.augmentation import PanopticAugmentation, SaliencyAugmentation, SemanticAugmentation
from van.data.formats import SemanticFormat
from van.data.loaders import evaluation_loader
from van.data.pixels import PanopticData, SaliencyData, SemanticData
from van.data.shapes import make_shapes
from van.errors import DataError

SMALL = {"fit": (32, 32), "crop_size": (32, 32)}


def semantic(folder, batch_size=4, augmentation=SMALL, **options):
    options = {"workers": 0, **options}
    return SemanticData(
        str(folder), None, SemanticFormat(), SemanticAugmentation(**augmentation), batch_size, **options
    )


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, 10, 48)
    return folder


def test_semantic_batches(shapes):
    data = semantic(shapes)
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
    for (image, truth), file in zip(whole, data.val.split.images, strict=True):  # shapes has wide and high images
        with Image.open(file) as original:
            assert (3, *original.size[::-1]) == image.shape == (3, *truth.shape)


def test_epochs_of_given_steps(shapes):
    data = semantic(shapes, steps_per_epoch=5)
    assert data.steps(1) == len(list(data.train_dataloader())) == 5


def test_panoptic_batches(shapes):
    data = PanopticData(str(shapes), None, PanopticAugmentation((0.8, 1.2), (32, 32)), 4, workers=0)
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
    data = SaliencyData(str(shapes), None, SaliencyAugmentation((32, 32), 4), 4, workers=0)
    images, masks = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 32, 32)
    assert masks.dtype == torch.float32
    assert set(masks.unique().tolist()) <= {0.0, 1.0}


def test_evaluation_sees_every_image_once(shapes):
    data = semantic(shapes)
    sizes = [len(images) for images, _ in evaluation_loader(data.val, 3, 0)]
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
        semantic(folder, augmentation={})
    data = semantic(folder, on_problem="skip")
    assert (len(data.train), len(data.val)) == (1, 2)
    assert "left out 1 of 2 images" in data.notes[0]


def test_other_classes_for_validation(tmp_path):
    folder = bad_folder(tmp_path)
    (folder / "classes.txt").unlink()
    for split, names in (("train", "no\nyes\n"), ("val", "yes\nno\n")):
        (folder / "masks" / split / "classes.txt").write_text(names)
    with pytest.raises(DataError, match="different classes"):
        semantic(folder, on_problem="skip")


def test_broken_images_are_found_by_decoding(shapes, tmp_path):
    folder = shutil.copytree(shapes, tmp_path / "own")
    file = folder / "train" / "000003.jpg"
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(DataError, match=file.name):
        semantic(folder).check()
    data = semantic(folder, on_problem="skip")
    assert len(data.train) == 8
    data.check()
    assert len(data.train) == 7
    assert file.name in data.notes[0]
