import pytest
import torch
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes

from van.data.augmentation import DetectionAugmentation
from van.data.transforms import RandomRangeCrop
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
    flipped, changed = DetectionAugmentation(hflip=1.0).transform([40], 60)(image, target)
    assert torch.equal(flipped, image.flip(-1))
    assert changed["boxes"].tolist() == [[40, 6, 55, 30], [5, 10, 20, 14]]
    assert torch.equal(changed["masks"], target["masks"].flip(-1))
    assert changed["labels"].tolist() == [3, 1]
    assert (changed["image_id"], changed["size"]) == (7, (40, 60))


def test_no_augmentation_changes_nothing():
    image, target = sample()
    same, unchanged = DetectionAugmentation(hflip=0.0).transform([40], 60)(image, target)
    assert torch.equal(same, image)
    assert torch.equal(unchanged["boxes"], target["boxes"])


def test_photometric_changes_colours_only():
    torch.manual_seed(0)
    image, target = sample()
    other, unchanged = DetectionAugmentation(hflip=0.0, photometric=1.0).transform([40], 60)(image, target)
    assert other.shape == image.shape
    assert other.dtype == torch.uint8
    assert not torch.equal(other, image)
    assert torch.equal(unchanged["boxes"], target["boxes"])


@pytest.mark.parametrize("scale_range", [(0.2, 0.5), (1.0, 1.0), (1.5, 3.0)])
def test_large_scale_jitter(scale_range):
    torch.manual_seed(0)
    transform = DetectionAugmentation(scale_range=scale_range, crop_size=(50, 48)).transform([40], 60)
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
    transform = DetectionAugmentation(hflip=0.0, scale_range=(1.0, 1.0), crop_size=(60, 60)).transform([40], 60)
    image, target = transform(image, target)
    assert (target["boxes"][:, 2:] - target["boxes"][:, :2]).tolist() == [[15, 24], [15, 4]]


def test_small_boxes_are_left_out():
    image, target = sample()
    _, target = DetectionAugmentation(hflip=0.0, min_box_size=5).transform([40], 60)(image, target)
    assert target["labels"].tolist() == [3]
    assert len(target["masks"]) == len(target["boxes"]) == 1


def test_images_get_a_size_of_the_detector():
    torch.manual_seed(0)
    transform = DetectionAugmentation(hflip=0.0).transform([20, 30], 42)
    shapes = set()
    for _ in range(20):
        image, target = transform(*sample())
        shapes.add(tuple(image.shape[1:]))
        assert target["masks"].shape[1:] == image.shape[1:]
        assert target["boxes"].canvas_size == tuple(image.shape[1:])
        factor = image.shape[2] / 60
        torch.testing.assert_close(target["boxes"].as_subclass(torch.Tensor), sample()[1]["boxes"] * factor)
        assert image[:, target["masks"].bool().any(0)].float().mean() < 60
    assert shapes == {(20, 30), (28, 42)}  # 30 would make the long edge 45


def test_part_of_the_images_is_cropped_first():
    torch.manual_seed(0)
    options = {"random_crop": 0.5, "random_crop_resize": [32, 36], "random_crop_range": (16, 24)}
    transform = DetectionAugmentation(hflip=0.0, **options).transform([40], 60)
    seen = []
    for _ in range(200):
        image, target = transform(*sample())
        height, width = image.shape[1:]
        assert min(height, width) == 40 or max(height, width) == 60
        assert target["masks"].shape[1:] == (height, width)
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
        seen.append((height, width))
        for label, box, mask in zip(target["labels"], target["boxes"], target["masks"], strict=True):
            x1, y1, x2, y2 = box.round().int().tolist()
            assert 0 <= x1 <= x2 <= width
            assert 0 <= y1 <= y2 <= height
            if label == 3 and mask.sum() > 150:  # box and picture move with the mask; the other one is too thin
                assert image[:, mask.bool()].float().mean() < 90
                tight = masks_to_boxes(mask[None])[0] + torch.tensor([0, 0, 1, 1])
                assert (box - tight).abs().max() < 3
    assert 70 < sum(size != (40, 60) for size in seen) < 130
    assert len(set(seen)) > 20


def test_crop_sides_are_drawn_from_the_range():
    torch.manual_seed(0)
    crop, image = RandomRangeCrop(30, 50), tv_tensors.Image(torch.zeros(3, 40, 60, dtype=torch.uint8))
    shapes = [crop(image).shape[1:] for _ in range(300)]
    assert {height for height, _ in shapes} == set(range(30, 41))
    assert {width for _, width in shapes} == set(range(30, 51))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hflip": 1.5}, r"hflip is 1\.5"),
        ({"photometric": -1.0}, "photometric is -1"),
        ({"min_box_size": -1.0}, "min_box_size is -1"),
        ({"scale_range": (2.0, 1.0), "crop_size": (9, 9)}, r"scale_range is \(2\.0, 1\.0\), expected two increasing"),
        ({"scale_range": (0.5, 1.0)}, "needs both"),
        ({"crop_size": (9, 9)}, "needs both"),
        ({"random_crop": 0.5}, "random_crop_resize None"),
        ({"random_crop_range": (9, 12)}, "all three or none"),
        ({"random_crop": 0.5, "random_crop_resize": [0], "random_crop_range": (9, 12)}, "random_crop_resize is"),
        ({"random_crop": 0.5, "random_crop_resize": [9], "random_crop_range": (12, 9)}, "two increasing"),
        ({"scale_range": (0.5, 1.0), "crop_size": (0, 10)}, "crop_size"),
    ],
)
def test_impossible_options(options, words):
    with pytest.raises(DataError, match=words):
        DetectionAugmentation(**options).transform([40], 60)


def test_jitter_is_not_undone_by_other_sizes():
    jitter = {"scale_range": (0.5, 1.0), "crop_size": (9, 9)}
    with pytest.raises(DataError, match=r"one model\.min_size"):
        DetectionAugmentation(**jitter).transform([40, 50], 60)
    crop = {"random_crop": 0.5, "random_crop_resize": [40], "random_crop_range": (9, 12)}
    with pytest.raises(DataError, match=r"Leave out augmentation\.random_crop"):
        DetectionAugmentation(**jitter, **crop).transform([40], 60)
