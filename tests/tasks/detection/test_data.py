import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from van.data.coco import CocoDetectionDataset, CocoSplit, find_split
from van.data.loaders import evaluation_loader
from van.data.shapes import make_shapes
from van.errors import DataError
from van.tasks.detection.data import DetectionData
from van.tasks.detection.options import DetectionTrainOptions


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


def make(folder, masks=False, **options):
    return DetectionData(DetectionTrainOptions(data=str(folder), **{"workers": 0, **options}), masks, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_the_module(shapes, workers):
    data = make(shapes, masks=True, workers=workers)
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


def test_bad_annotations_are_refused_or_skipped(own_shapes):
    def spoil(content):
        content["annotations"][0]["bbox"][2] = 0
        content["annotations"][1]["category_id"] = 77

    change(own_shapes, "train", spoil)
    with pytest.raises(DataError, match="2 problems"):
        make(own_shapes)
    data = make(own_shapes, on_bad_image="skip")
    assert any("2 annotations" in note for note in data.notes)
    whole = CocoSplit(find_split(own_shapes, "train"))
    assert sum(1 for _ in data.train.split.all_annotations()) == sum(1 for _ in whole.all_annotations()) - 2
    assert len(list(data.train_dataloader())) == data.steps(1)


def test_broken_image_is_found_by_decoding(own_shapes):
    file = sorted((own_shapes / "train").iterdir())[3]
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 4 // 5])  # the header is whole
    with pytest.raises(DataError, match=file.name):
        make(own_shapes, check_data=True)
    data = make(own_shapes, on_bad_image="skip", check_data=True)
    assert file.name not in [image["file_name"] for image in data.train.images]
    assert any(file.name in note for note in data.notes)
    unchecked = make(own_shapes)
    with pytest.raises(DataError, match=file.name):
        list(evaluation_loader(unchecked.train, 2, 0))


def test_images_without_objects_are_left_out_where_asked(own_shapes):
    whole = make(own_shapes)
    gone = whole.train.images[0]["id"]
    change(own_shapes, "train", lambda content: content.update(
        annotations=[a for a in content["annotations"] if a["image_id"] != gone]
    ))  # fmt: skip
    kept = make(own_shapes).train
    assert len(kept) == len(whole.train)
    train = make(own_shapes, keep_empty=False).train
    assert gone not in [image["id"] for image in train.images]
    assert train.images == [image for image in kept.images if kept.objects(image["id"])]
    assert len(train.ratios) == len(train)


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
    with pytest.raises(DataError, match=r"COCO: annotations/instances_SPLIT\.json"):
        make(tmp_path)
