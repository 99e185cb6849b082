import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes

from van.data.augmentation import DetectionAugmentation
from van.data.coco import CocoDetectionDataset, CocoSplit, find_split
from van.data.coco_checks import usable_split
from van.data.detection import DetectionData
from van.data.loaders import evaluation_loader
from van.data.shapes import make_shapes
from van.errors import DataError


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "set"
    make_shapes(folder, 20, 64)
    return folder


@pytest.fixture
def own_shapes(shapes, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(shapes, tmp_path / "own")


def change(folder, split, function):
    path = folder / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


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


# ------------------------------------------------------------------------------------------------ data module


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_the_module(shapes, workers):
    data = DetectionData(str(shapes), None, DetectionAugmentation(), 4, masks=True, workers=workers)
    assert data.class_names == ["person", "circle", "square", "triangle", "star"]
    loader = data.train_dataloader()
    assert len(loader) == data.steps(1) == len(list(loader))
    for images, targets in loader:
        assert len({image.shape[-1] >= image.shape[-2] for image in images}) == 1
        for image, target in zip(images, targets, strict=True):
            assert image.dtype == torch.uint8
            assert type(image) is type(target["boxes"]) is type(target["masks"]) is torch.Tensor
            assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
            assert target["masks"].shape[1:] == image.shape[1:]
            assert (target["labels"] < 5).all()
    ids = [target["image_id"] for _, targets in data.val_dataloader() for target in targets]
    assert sorted(ids) == [image["id"] for image in data.val.images]


def test_evaluation_shows_images_as_they_are(shapes):
    split = CocoSplit(find_split(shapes, "val"))
    dataset = CocoDetectionDataset(split)
    for images, targets in evaluation_loader(dataset, 3, 0, dataset.ratios):
        for image, target in zip(images, targets, strict=True):
            record = next(i for i in split.images if i["id"] == target["image_id"])
            assert np.array_equal(image.permute(1, 2, 0), np.asarray(Image.open(split.image_path(record))))
            assert target["size"] == tuple(image.shape[1:])


def make(folder, **options):
    return DetectionData(str(folder), None, DetectionAugmentation(), 2, workers=0, **options)


def test_bad_annotations_are_refused_or_skipped(own_shapes):
    def spoil(content):
        content["annotations"][0]["bbox"][2] = 0
        content["annotations"][1]["category_id"] = 77

    change(own_shapes, "train", spoil)
    with pytest.raises(DataError, match="2 problems"):
        make(own_shapes)
    data = make(own_shapes, on_problem="skip")
    assert any("2 annotations" in note for note in data.notes)
    whole = CocoSplit(find_split(own_shapes, "train"))
    assert sum(1 for _ in data.train.split.all_annotations()) == sum(1 for _ in whole.all_annotations()) - 2
    assert len(list(data.train_dataloader())) == data.steps(1)


def test_broken_image_is_found_by_decoding(own_shapes):
    file = sorted((own_shapes / "train").iterdir())[3]
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 4 // 5])  # the header is whole
    with pytest.raises(DataError, match=file.name):
        make(own_shapes).check()
    data = make(own_shapes, on_problem="skip")
    data.check()
    assert file.name not in [image["file_name"] for image in data.train.images]
    assert any(file.name in note for note in data.notes)
    unchecked = make(own_shapes)
    with pytest.raises(DataError, match=file.name):
        list(evaluation_loader(unchecked.train, 2, 0))


def test_nothing_to_learn_from(own_shapes):
    change(own_shapes, "train", lambda content: content["annotations"].clear())
    with pytest.raises(DataError, match="no annotations"):
        make(own_shapes)


def test_only_crowds_are_nothing_to_learn_from(own_shapes):
    change(own_shapes, "train", lambda content: [a.update(iscrowd=1) for a in content["annotations"]])
    with pytest.raises(DataError, match="no annotations to learn from"):
        make(own_shapes)


def test_other_categories_in_the_validation_split(own_shapes):
    change(own_shapes, "val", lambda content: content["categories"][0].update(name="ghost"))
    with pytest.raises(DataError, match="other categories"):
        make(own_shapes)


def test_no_data_there(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        make(tmp_path / "nowhere")
    with pytest.raises(DataError, match="instances_train2017"):
        usable_split(tmp_path, "train", "refuse")
