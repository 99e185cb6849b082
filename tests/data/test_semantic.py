"""Images with masks of class numbers, in the layouts in which people keep them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from van.data.semantic import SemanticDataset, find_semantic, find_semantic_splits, read_classes
from van.data.shapes import make_shapes
from van.errors import DataError

MASK = np.array([[0, 1, 2, 255], [1, 1, 2, 0]], np.uint8)


def write(root, images, masks, names, mask=MASK, classes="classes.txt"):
    (root / images).mkdir(parents=True)
    (root / masks).mkdir(parents=True)
    for place, name in enumerate(names):
        Image.new("RGB", mask.shape[::-1], (place, 0, 0)).save(root / images / f"{name}.png")
        Image.fromarray(mask).save(root / masks / f"{name}.png")
    if classes:
        (root / classes).write_text("a\nb\nc\n")
    return root


@pytest.mark.parametrize(
    ("images", "masks", "classes"),
    [
        ("images/train", "masks/train", "classes.txt"),
        ("images/training", "annotations/training", "classes.txt"),
        ("images/train", "semantic/train", "semantic/classes.txt"),
        ("train/images", "train/masks", "train/masks/classes.txt"),
        ("train", "semantic/train", "semantic/classes.txt"),
    ],
)
def test_layouts_with_splits(tmp_path, images, masks, classes):
    write(tmp_path, images, masks, ["a", "b"], classes=classes)
    split = find_semantic(tmp_path, "train")
    assert [path.name for path in split.images] == [path.name for path in split.masks] == ["a.png", "b.png"]
    assert split.images[0].parent == tmp_path / images
    assert split.masks[0].parent == tmp_path / masks
    assert split.class_names == ["a", "b", "c"]
    assert list(find_semantic_splits(tmp_path)) == ["train"]
    with pytest.raises(DataError, match=r"no images with masks for val.*images/val and masks/val"):
        find_semantic(tmp_path, "val")


def test_an_item_is_an_image_and_its_labels(tmp_path):
    dataset = SemanticDataset(find_semantic(write(tmp_path, "images/val", "masks/val", "ab"), "val"))
    image, labels = dataset[1]
    assert isinstance(image, tv_tensors.Image)
    assert isinstance(labels, tv_tensors.Mask)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 2, 4)
    assert image[0].unique().tolist() == [1]
    assert labels.dtype == torch.uint8
    assert labels.tolist() == MASK.tolist()
    flipped = SemanticDataset(dataset.split, v2.RandomHorizontalFlip(1.0))[1][1]
    assert flipped.tolist() == MASK[:, ::-1].tolist()


def test_a_folder_without_splits_is_a_whole(tmp_path):
    write(tmp_path, "images", "masks", [f"{i}" for i in range(12)])
    assert len(find_semantic(tmp_path, "all")) == 12
    with pytest.raises(DataError, match="have no splits, so there is no val"):
        find_semantic(tmp_path, "val")
    assert list(find_semantic_splits(tmp_path)) == ["all"]


def test_ade20k(tmp_path):
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName", "1\t0.1\t9\t9\t1\twall", "2\t0.1\t9\t9\t1\tscreen, door"]
    rows += ["3\t0.1\t9\t9\t0\tscreen, crt"]
    mask = np.array([[0, 1, 2, 3]], np.uint8)
    write(tmp_path, "images/training", "annotations/training", ["a"], mask, classes=None)
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows) + "\n")
    split = find_semantic(tmp_path, "train")
    assert split.class_names == ["wall", "screen, door", "screen, crt"]
    assert split.labels(0).tolist() == [[255, 0, 1, 2]]
    assert find_semantic(tmp_path, "train", reduce_zero_label=False).table()[:4].tolist() == [0, 1, 2, -1]


def test_another_number_may_mark_pixels_that_do_not_count(tmp_path):
    write(tmp_path, "images/train", "masks/train", ["a"], np.array([[0, 1, 2, 9, 255]], np.uint8))
    split = find_semantic(tmp_path, "train", ignore_index=9)
    assert split.labels(0).tolist() == [[0, 1, 2, 255, 255]]
    with pytest.raises(DataError, match=r"ignore_index is -1, expected .* 0 to 65535"):
        find_semantic(tmp_path, "train", ignore_index=-1)


@pytest.mark.parametrize("mode", ["P", "I;16", "1"])
def test_palettes_16_bits_and_black_and_white_give_their_numbers(tmp_path, mode):
    numbers = np.array([[0, 1], [1, 0]] if mode == "1" else [[0, 2], [1, 255]], np.uint8)
    write(tmp_path, "images/train", "masks/train", ["a"], numbers)
    if mode == "P":
        image = Image.fromarray(numbers)
        image = image.copy()
        image.putpalette([200, 10, 10] * 256)
    else:
        image = Image.fromarray(numbers.astype(np.uint16) if mode == "I;16" else numbers.astype(bool))
    assert image.mode == mode
    image.save(tmp_path / "masks/train/a.png")
    assert find_semantic(tmp_path, "train").labels(0).tolist() == numbers.tolist()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (4, 2)), r"masks/train/a\.png is an image of mode RGB, expected a mask with one channel"),
        (Image.new("L", (4, 2), 3), r"a\.png has 8 pixels with 3, expected 0 to 2 for 3 classes.*reduce_zero_label"),
        (Image.new("L", (4, 2), 7), r"a\.png has 8 pixels with 7, expected 0 to 2 .*ignored pixels\. van"),
        (Image.new("L", (2, 4)), r"masks/train/a\.png has 2 x 4 pixels, its image .*a\.png has 4 x 2; is .* EXIF"),
    ],
)
def test_what_is_no_mask_of_its_image_is_refused(tmp_path, image, message):
    write(tmp_path, "images/train", "masks/train", ["a"])
    image.save(tmp_path / "masks/train/a.png")
    with pytest.raises(DataError, match=message):
        SemanticDataset(find_semantic(tmp_path, "train"))[0]


def test_broken_and_jpeg_masks_are_refused(tmp_path):
    write(tmp_path, "images/train", "masks/train", ["a", "b"])
    Image.new("L", (4, 2)).save(tmp_path / "masks/train/a.png", "JPEG")
    path = tmp_path / "masks/train/b.png"
    path.write_bytes(path.read_bytes()[:45])
    split = find_semantic(tmp_path, "train")
    with pytest.raises(DataError, match=r"a\.png is a JPEG"):
        split.labels(0)
    with pytest.raises(DataError, match=r"b\.png cannot be decoded"):
        split.labels(1)


def test_files_without_a_partner_are_noted(tmp_path):
    write(tmp_path, "images/train", "masks/train", ["a", "b", "c"])
    (tmp_path / "masks/train/a.png").unlink()
    (tmp_path / "images/train/b.png").unlink()
    Image.new("RGB", (4, 2)).save(tmp_path / "images/train/c.jpg")
    split = find_semantic(tmp_path, "train")
    assert [path.name for path in split.images] == ["c.jpg"]
    assert {(path.name, what.split(tmp_path.as_posix())[0]) for path, what in split.unpaired} == {
        ("a.png", "it has no mask in "),
        ("b.png", "it has no image in "),
        ("c.png", "another image has the same name: c.jpg"),
    }
    (tmp_path / "images/train/c.jpg").unlink()
    (tmp_path / "images/train/c.png").unlink()
    with pytest.raises(DataError, match=r"1 images\) and .*2 masks\) have no file name in common"):
        find_semantic(tmp_path, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n\nb\n", "no class in line 2"),
        ("", "no class in line 1"),
        ("a\nb\na\n", "class 'a' more than once"),
        ("\n".join(map(str, range(255))), "255 classes, expected at most 254"),
    ],
)
def test_class_files(tmp_path, text, message):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_classes(tmp_path / "classes.txt")


def test_without_a_class_file_it_says_where_it_looked(tmp_path):
    write(tmp_path, "images/train", "masks/train", ["a"], classes=None)
    with pytest.raises(DataError, match=r"no class file.*masks/train/classes\.txt.*objectInfo150\.txt"):
        find_semantic(tmp_path, "train")
    (tmp_path / "mine.txt").write_text("x\ny\n")
    assert find_semantic(tmp_path, "train", tmp_path / "mine.txt").class_names == ["x", "y"]


def test_shapes(tmp_path):
    make_shapes(tmp_path / "shapes", 10, 48)
    splits = find_semantic_splits(tmp_path / "shapes")
    assert {name: len(split) for name, split in splits.items()} == {"train": 8, "val": 2}
    assert splits["train"].class_names[-2:] == ["sky", "ground"]
    image, labels = SemanticDataset(splits["train"])[0]
    assert image.shape[-2:] == labels.shape
    assert set(labels.unique().tolist()) <= {*range(7), 255}
