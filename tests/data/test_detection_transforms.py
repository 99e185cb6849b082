import pytest
import torch
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes

from van.data.augmentation import DetectionAugmentation
from van.errors import DataError


def sample():
    """A picture with two rectangles, black on white, and one target for them."""
    image = torch.full((3, 40, 60), 255, dtype=torch.uint8)
    boxes = torch.tensor([[5.0, 6.0, 20.0, 30.0], [40.0, 10.0, 55.0, 14.0]])
    masks = torch.zeros(2, 40, 60, dtype=torch.uint8)
    for (x1, y1, x2, y2), mask in zip(boxes.int().tolist(), masks, strict=True):
        mask[y1:y2, x1:x2] = 1
    image[:, masks.bool().any(dim=0)] = 0
    target = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(40, 60)), "labels": torch.tensor([3, 1]),
        "masks": tv_tensors.Mask(masks), "image_id": 7, "size": (40, 60),
    }  # fmt: skip
    return tv_tensors.Image(image), target


# ------------------------------------------------------------------------------------------------ augmentation


def test_flip_keeps_boxes_and_masks_in_step():
    image, target = sample()
    flipped, changed = DetectionAugmentation(hflip=1.0).transform()(image, target)
    assert torch.equal(flipped, image.flip(-1))
    assert changed["boxes"].tolist() == [[40, 6, 55, 30], [5, 10, 20, 14]]
    assert torch.equal(changed["masks"], target["masks"].flip(-1))
    assert changed["labels"].tolist() == [3, 1]
    assert (changed["image_id"], changed["size"]) == (7, (40, 60))


def test_no_augmentation_changes_nothing():
    image, target = sample()
    same, unchanged = DetectionAugmentation(hflip=0.0).transform()(image, target)
    assert torch.equal(same, image)
    assert torch.equal(unchanged["boxes"], target["boxes"])


def test_photometric_changes_colours_only():
    torch.manual_seed(0)
    image, target = sample()
    other, unchanged = DetectionAugmentation(hflip=0.0, photometric=1.0).transform()(image, target)
    assert other.shape == image.shape
    assert other.dtype == torch.uint8
    assert not torch.equal(other, image)
    assert torch.equal(unchanged["boxes"], target["boxes"])


@pytest.mark.parametrize("scale_range", [(0.2, 0.5), (1.0, 1.0), (1.5, 3.0)])
def test_large_scale_jitter(scale_range):
    torch.manual_seed(0)
    transform = DetectionAugmentation(scale_range=scale_range, crop_size=(50, 48)).transform()
    seen = 0
    for _ in range(20):
        image, target = transform(*sample())
        assert image.shape == (3, 50, 48)
        assert target["masks"].shape[1:] == (50, 48)
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
        for box, mask in zip(target["boxes"], target["masks"], strict=True):
            tight = masks_to_boxes(mask[None])[0] + torch.tensor([0, 0, 1, 1])
            assert box.tolist() == tight.tolist()
            if mask.sum() > 30:  # of less, the shrinking blends in what is around
                # what the mask covers is dark: picture and mask have moved alike
                assert image[:, mask.bool()].float().mean() < 100
                seen += 1
    assert seen > 5


def test_jitter_without_masks():
    image, target = sample()
    del target["masks"]
    image, target = DetectionAugmentation(hflip=0.0, scale_range=(1.0, 1.0), crop_size=(60, 60)).transform()(
        image, target
    )
    assert (target["boxes"][:, 2:] - target["boxes"][:, :2]).tolist() == [[15, 24], [15, 4]]


def test_small_boxes_are_left_out():
    image, target = sample()
    _, target = DetectionAugmentation(hflip=0.0, min_box_size=5).transform()(image, target)
    assert target["labels"].tolist() == [3]
    assert len(target["masks"]) == len(target["boxes"]) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hflip": 1.5}, r"hflip is 1\.5"),
        ({"photometric": -1.0}, "photometric is -1"),
        ({"min_box_size": -1.0}, "min_box_size is -1"),
        ({"scale_range": (2.0, 1.0), "crop_size": (9, 9)}, r"scale_range is \(2\.0, 1\.0\), expected two increasing"),
        ({"scale_range": (0.5, 1.0)}, "needs both"),
        ({"crop_size": (9, 9)}, "needs both"),
        ({"scale_range": (0.5, 1.0), "crop_size": (0, 10)}, "crop_size"),
    ],
)
def test_impossible_options(options, words):
    with pytest.raises(DataError, match=words):
        DetectionAugmentation(**options).transform()
