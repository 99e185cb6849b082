import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from van.data.coco import CocoDetectionDataset, CocoSplit, decode_masks, find_split, find_splits
from van.errors import DataError, VanError

IMAGES = [
    {"id": 9, "file_name": "b.png", "width": 20, "height": 10},
    {"id": 4, "file_name": "a.png", "width": 16, "height": 12},
    {"id": 30, "file_name": "c.png", "width": 8, "height": 8},
]
SQUARE = [[2, 3, 6, 3, 6, 8, 2, 8]]
# columns of 10 pixels: rows 0 to 3 of columns 2 and 3
RUNS = {"counts": [20, 4, 6, 4, 166], "size": [10, 20]}
ANNOTATIONS = [
    {"id": 1, "image_id": 9, "category_id": 7, "bbox": [2, 3, 4, 5], "area": 20, "iscrowd": 0, "segmentation": SQUARE},
    {"id": 2, "image_id": 9, "category_id": 3, "bbox": [2, 0, 2, 4], "area": 8, "iscrowd": 0, "segmentation": RUNS},
    {"id": 3, "image_id": 9, "category_id": 3, "bbox": [9, 0, 9, 9], "area": 8, "iscrowd": 1, "segmentation": RUNS},
    {"id": 5, "image_id": 4, "category_id": 7, "bbox": [-3, 6, 8, 20], "area": 9, "iscrowd": 0, "segmentation": SQUARE},
]
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def save(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": CATEGORIES, **content}))


@pytest.fixture
def split(tmp_path):
    save(tmp_path / "annotations/instances_train.json", images=IMAGES, annotations=ANNOTATIONS)
    (tmp_path / "train").mkdir()
    for i, image in enumerate(IMAGES):
        Image.new("RGB", (image["width"], image["height"]), (i, 10, 20)).save(tmp_path / "train" / image["file_name"])
    return CocoSplit(find_split(tmp_path, "train"))


@pytest.mark.parametrize(
    ("json_name", "folder"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_train2017.json", "train"),
        ("annotations/instances_train.json", "train"),
        ("annotations/instances_train.json", "images/train"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_layouts(tmp_path, json_name, folder):
    save(tmp_path / json_name)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    files = find_split(tmp_path, "train")
    assert (files.annotations, files.images) == (tmp_path / json_name, tmp_path / folder)
    assert find_splits(tmp_path) == {"train": files}
    with pytest.raises(DataError, match="annotations for val"):
        find_split(tmp_path, "val")


def test_validation_split_of_roboflow_and_the_last_year(tmp_path):
    save(tmp_path / "valid/_annotations.coco.json")
    assert find_split(tmp_path, "val").images == tmp_path / "valid"
    assert list(find_splits(tmp_path)) == ["val"]
    for year in ("2014", "2017", ""):
        save(tmp_path / f"annotations/person_keypoints_val{year}.json")
        (tmp_path / f"val{year}").mkdir()
    files = find_split(tmp_path, "val", "person_keypoints")
    assert (files.annotations.name, files.images.name) == ("person_keypoints_val2017.json", "val2017")


def test_what_was_looked_for_is_said(tmp_path):
    with pytest.raises(DataError, match=r"instances_train2017\.json.*train/_annotations\.coco\.json"):
        find_split(tmp_path, "train")
    with pytest.raises(DataError, match="panoptic annotations for train"):
        find_splits(tmp_path, "panoptic")
    with pytest.raises(DataError, match="not a folder"):
        find_split(tmp_path / "nowhere", "train")
    save(tmp_path / "annotations/instances_val2017.json")
    with pytest.raises(DataError, match=r"no images: none of .*val2017.*images/val "):
        find_split(tmp_path, "val")


def test_classes_are_in_the_order_of_ids_with_gaps(split):
    assert split.class_names == ["cat", "dog"]
    assert split.category_ids == [3, 7]
    assert split.labels == {3: 0, 7: 1}
    assert [image["id"] for image in split.images] == [4, 9, 30]
    assert [a["id"] for a in split.annotations(9)] == [1, 2, 3]
    assert split.annotations(30) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ("\udcff", "not JSON"),
        ("[]", "not a COCO annotation file"),
        ('{"images": [], "annotations": []}', "not a COCO annotation file"),
        ('{"images": 3, "categories": [{"id": 1, "name": "a"}]}', "'images' is not a list"),
        ('{"images": [{"id": 3}], "categories": [{"id": 1, "name": "a"}]}', "no 'file_name'"),
        ('{"images": [], "categories": [{"id": "1", "name": "a"}]}', "a category has no integer"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, text, told):
    save(tmp_path / "train/_annotations.coco.json")
    files = find_split(tmp_path, "train")
    files.annotations.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=told) as error:
        CocoSplit(files)
    assert str(files.annotations) in str(error.value)
    files.annotations.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        CocoSplit(files)


def test_keypoints_of_the_file(tmp_path):
    posed = {"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]}
    save(tmp_path / "train/_annotations.coco.json", categories=[{"id": 0, "name": "all"}, posed])
    split = CocoSplit(find_split(tmp_path, "train", "person_keypoints"), "person_keypoints")
    assert split.keypoint_names == ["nose", "left_eye", "right_eye"]
    assert split.skeleton == [(0, 1), (0, 2)]
    assert split.flip_pairs == [(1, 2)]
    assert split.posed_ids == [1]
    save(tmp_path / "train/_annotations.coco.json")
    with pytest.raises(DataError, match="no category has keypoints"):
        CocoSplit(split.files, "person_keypoints")


def test_items(split):
    dataset = CocoDetectionDataset(split, masks=True)
    assert len(dataset) == 3
    image, target = dataset[1]
    assert type(image) is tv_tensors.Image
    assert image.dtype == torch.uint8
    assert image[:, 0, 0].tolist() == [0, 10, 20]
    assert type(target["boxes"]) is tv_tensors.BoundingBoxes
    assert target["boxes"].canvas_size == (10, 20)
    assert target["boxes"].tolist() == [[2, 3, 6, 8], [2, 0, 4, 4]]
    assert target["labels"].tolist() == [1, 0]
    assert target["image_id"] == 9
    assert target["size"] == (10, 20)
    expected = np.zeros((2, 10, 20), np.uint8)
    expected[0, 3:8, 2:6] = 1
    expected[1, :4, 2:4] = 1
    assert (target["masks"].numpy() == expected).all()
    assert dataset[0][1]["boxes"].tolist() == [[0, 6, 5, 12]]  # inside the image
    _, empty = dataset[2]
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, 8, 8)
    assert empty["labels"].dtype == torch.int64


def test_transforms_keep_boxes_and_masks_in_step(split):
    flip = CocoDetectionDataset(split, v2.RandomHorizontalFlip(p=1.0), masks=True)
    _, target = flip[1]
    assert target["boxes"].tolist() == [[14, 3, 18, 8], [16, 0, 18, 4]]
    for box, mask in zip(target["boxes"].int().tolist(), target["masks"], strict=True):
        x0, y0, x1, y1 = box
        assert mask[y0:y1, x0:x1].all()
        assert mask.sum() == (x1 - x0) * (y1 - y0)
    assert target["image_id"] == 9


def test_left_out(split):
    assert [i["id"] for i in CocoDetectionDataset(split, keep_empty=False).images] == [4, 9]
    dataset = CocoDetectionDataset(split.without(annotations={1, 5}), keep_empty=False)
    assert [i["id"] for i in dataset.images] == [9]
    assert dataset[0][1]["labels"].tolist() == [0]
    assert [i["id"] for i in CocoDetectionDataset(split.without({9})).images] == [4, 30]


def test_split_without_some_records(split):
    less = split.without({4}, {1})
    assert [image["id"] for image in less.images] == [9, 30]
    assert [a["id"] for a in less.all_annotations()] == [2, 3]
    assert [a["id"] for a in less.content["annotations"]] == [2, 3]
    assert len(list(split.all_annotations())) == 4
    assert less.class_names == split.class_names


def test_broken_image_is_named(split):
    path = split.files.images / "b.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"b\.png"):
        CocoDetectionDataset(split)[1]


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [1, 2, 3]},
        {"bbox": None},
        {"bbox": [1, 2, 0, 3]},
        {"bbox": [30, 2, 5, 3]},
        {"bbox": [float("nan"), 2, 5, 3]},
        {"category_id": 5},
        {"segmentation": []},
        {"segmentation": [[1, 2, 3, 4]]},
        {"segmentation": [[1, 2, 3, 4, float("nan"), 5]]},  # the library would take all memory
        {"segmentation": {"counts": [40], "size": [10, 4]}},
        {"segmentation": {"counts": "zz", "size": [10, 20]}},
    ],
)
def test_malformed_annotation_is_an_error_that_names_the_image(split, change):
    broken = [{**ANNOTATIONS[0], **change}]
    save(split.files.annotations, images=IMAGES, annotations=broken)
    dataset = CocoDetectionDataset(CocoSplit(split.files), masks=True)
    with pytest.raises(DataError, match=r"b\.png, image 9 of .*instances_train\.json.*van check-data"):
        dataset[1]


def test_masks_of_any_form():
    whole = decode_masks([[[0, 0, 5, 0, 5, 4, 0, 4]], {"counts": [0, 20], "size": [4, 5]}], 4, 5)
    assert whole.shape == (2, 4, 5)
    assert whole.all()
    two = decode_masks([[[0, 0, 1, 0, 1, 4, 0, 4], [3, 0, 5, 0, 5, 4, 3, 4]]], 4, 5)
    assert two[0].sum(0).tolist() == [4, 0, 0, 4, 4]
    # as pycocotools writes it: 5 zeros, then 15 ones
    assert decode_masks([{"counts": "5?", "size": [4, 5]}], 4, 5)[0].T.ravel().tolist() == [0] * 5 + [1] * 15


def test_missing_package_is_named_before_training(split, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval.core", None)
    CocoDetectionDataset(split)[1]
    with pytest.raises(VanError, match=r"visual-attention-network\[detection\]"):
        CocoDetectionDataset(split, masks=True)
