"""Images with masks of what stands out."""

import numpy as np
import pytest
from PIL import Image

from van.data.saliency import SaliencyDataset, SizePasses, find_saliency, find_saliency_splits
from van.data.shapes import make_shapes
from van.errors import DataError


def write(root, images, masks, mask):
    (root / images).mkdir(parents=True)
    (root / masks).mkdir(parents=True)
    Image.new("RGB", mask.size).save(root / images / "a.jpg")
    mask.save(root / masks / "a.png")


@pytest.mark.parametrize(
    ("split", "images", "masks"),
    [
        ("train", "DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask"),
        ("val", "DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask"),
        ("val", "DUTS-TE-Image", "DUTS-TE-Mask"),
        ("val", "images/val", "masks/val"),
        ("val", "val", "saliency/val"),
        ("val", "saliency/images/val", "saliency/masks/val"),
        ("all", "imgs", "gt"),
    ],
)
def test_layouts(tmp_path, split, images, masks):
    write(tmp_path, images, masks, Image.fromarray(np.array([[0, 128, 129, 255]], np.uint8)))
    ((name, found),) = find_saliency_splits(tmp_path).items()
    assert name == split
    image, mask = SaliencyDataset(found)[0]
    assert image.shape == (3, 1, 4)
    assert mask.tolist() == [[0, 0, 1, 1]]
    assert found.masks == find_saliency(tmp_path, split).masks == [tmp_path / masks / "a.png"]


@pytest.mark.parametrize("mode", ["1", "P", "I;16"])
def test_masks_are_read_by_their_brightness(tmp_path, mode):
    grey = np.array([[0, 255]], np.uint8)
    mask = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    if mode == "P":
        mask = Image.fromarray(np.array([[1, 0]], np.uint8))
        mask.putpalette([255, 255, 255, 0, 0, 0])
    assert mask.mode == mode
    write(tmp_path, "images", "masks", mask)
    assert find_saliency(tmp_path, "all").salient(0).tolist() == [[0, 1]]


def test_colours_and_other_sizes_are_refused(tmp_path):
    write(tmp_path, "images", "masks", Image.new("RGB", (2, 1)))
    dataset = SaliencyDataset(find_saliency(tmp_path, "all"))
    with pytest.raises(DataError, match=r"masks/a\.png is an image of mode RGB, expected .* from 0 to 255"):
        dataset[0]
    Image.new("L", (3, 1)).save(tmp_path / "masks/a.png")
    with pytest.raises(DataError, match=r"masks/a\.png has 3 x 1 pixels, its image .*a\.jpg has 2 x 1"):
        dataset[0]


def test_shapes(tmp_path):
    make_shapes(tmp_path / "shapes", 5, 48)
    splits = find_saliency_splits(tmp_path / "shapes")
    assert {name: len(split) for name, split in splits.items()} == {"train": 4, "val": 1}
    assert SaliencyDataset(splits["train"])[0][1].unique().tolist() == [0, 1]


def indices_of(batches):
    """Return the indices in each batch."""
    return [[index for _, index in batch] for batch in batches]


def test_passes_take_every_image_once_at_each_size():
    passes, orders = SizePasses(10, 3, 2, 15), []
    for epoch in (0, 1):
        passes.set_epoch(epoch)
        batches = indices_of(passes)
        assert len(batches) == 15
        for size in range(3):
            indices = [index for batch in batches[5 * size : 5 * size + 5] for index in batch]
            assert sorted(indices) == list(range(10 * size, 10 * size + 10))
            orders.append(tuple(index % 10 for index in indices))
    assert len(set(orders)) == 6


def test_passes_leave_out_what_fills_no_batch():
    batches = indices_of(SizePasses(7, 2, 3, 4))
    assert [sorted({index // 7 for index in batch}) for batch in batches] == [[0], [0], [1], [1]]
    assert all(len(set(batches[i] + batches[i + 1])) == 6 for i in (0, 2))
    assert [len(batch) for batch in SizePasses(2, 2, 5, 2)] == [5, 5]  # more than there are: some are repeated


def test_processes_share_a_pass():
    together = list(SizePasses(9, 2, 4, 4))
    first, second = (list(SizePasses(9, 2, 2, 4, processes=2, rank=rank)) for rank in (0, 1))
    assert [a + b for a, b in zip(first, second, strict=True)] == together


def test_epochs_given_in_steps_go_on_where_the_one_before_ended():
    whole, short = SizePasses(6, 2, 2, 6), SizePasses(6, 2, 2, 3)
    first = list(short)
    short.set_epoch(1)
    assert first + list(short) == list(whole)
