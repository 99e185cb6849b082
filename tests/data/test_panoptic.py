"""COCO's panoptic format, read and written."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from van.data.panoptic import (
    PanopticDataset,
    PanopticWriter,
    SegmentsToLearn,
    decode_ids,
    encode_ids,
    find_panoptic,
    find_panoptic_splits,
    panoptic_categories,
)
from van.data.semantic import find_semantic
from van.data.shapes import make_shapes
from van.errors import DataError

CATEGORIES = panoptic_categories(["cat", "dog", "sky"], [3, 7, 90], [True, True, False])
IDS = np.array([[70000, 70000, 5, 0], [70000, 260, 5, 5]])


def write(root, infos, ids=IDS, categories=CATEGORIES):
    (root / "annotations/panoptic_train2017").mkdir(parents=True)
    (root / "train2017").mkdir()
    Image.new("RGB", ids.shape[::-1]).save(root / "train2017/b.jpg")
    Image.fromarray(encode_ids(ids)).save(root / "annotations/panoptic_train2017/b.png")
    content = {
        "images": [{"id": 4, "file_name": "b.jpg", "height": ids.shape[0], "width": ids.shape[1]}],
        "annotations": [{"image_id": 4, "file_name": "b.png", "segments_info": infos}],
        "categories": categories,
    }
    (root / "annotations/panoptic_train2017.json").write_text(json.dumps(content))
    return root


def info(number, category, crowd=0):
    return {"id": number, "category_id": category, "iscrowd": crowd, "area": int((number == IDS).sum())}


def test_ids_and_colours():
    ids = np.array([[0, 255, 256], [65535, 65536, 16777215]])
    colours = encode_ids(ids)
    assert colours[0, 2].tolist() == [0, 1, 0]
    assert colours[1, 1].tolist() == [0, 0, 1]
    assert decode_ids(colours).tolist() == ids.tolist()


def test_an_item_has_masks_to_learn_and_segments_to_measure(tmp_path):
    split = find_panoptic(write(tmp_path, [info(5, 90), info(70000, 7), info(260, 3, crowd=1)]), "train")
    assert split.class_names == ["cat", "dog", "sky"]
    assert split.things == {0, 1}
    image, target = SegmentsToLearn()(*PanopticDataset(split)[0])
    assert image.shape == (3, 2, 4)
    assert target["image_id"] == 4
    assert target["size"] == (2, 4)
    assert target["segmentation"].tolist() == [[2, 2, 1, 0], [2, 3, 1, 1]]
    assert target["segments"] == [
        {"id": 1, "label": 2, "isthing": False, "iscrowd": False},
        {"id": 2, "label": 1, "isthing": True, "iscrowd": False},
        {"id": 3, "label": 0, "isthing": True, "iscrowd": True},
    ]
    # crowd regions are not learned
    assert target["labels"].tolist() == [2, 1]
    assert target["masks"].tolist() == [(IDS == 5).tolist(), (IDS == 70000).tolist()]


def test_what_a_transform_cuts_off_is_not_learned_and_padding_is_no_segment(tmp_path):
    split = find_panoptic(write(tmp_path, [info(5, 90), info(70000, 7), info(260, 3)]), "train")
    fill = {torch.Tensor: 0, "others": 255}
    change = v2.Compose([v2.CenterCrop((2, 2)), v2.Pad([0, 0, 1, 0], fill=fill)])
    _, target = SegmentsToLearn(change)(*PanopticDataset(split)[0])
    assert target["segmentation"].tolist() == [[2, 1, 0], [3, 1, 0]]
    _, target = SegmentsToLearn(v2.Lambda(lambda x: x[..., :1, :1]))(*PanopticDataset(split)[0])
    assert target["labels"].tolist() == [1]
    assert target["masks"].tolist() == [[[True]]]


def test_more_segments_than_bytes(tmp_path):
    ids = np.arange(1, 301).reshape(15, 20)
    split = find_panoptic(write(tmp_path, [{"id": i, "category_id": 3} for i in range(1, 301)], ids), "train")
    _, target = SegmentsToLearn(v2.Resize((15, 20)))(*PanopticDataset(split)[0])
    assert len(target["labels"]) == 300
    assert target["masks"].sum((1, 2)).tolist() == [1] * 300
    assert {s["id"] for s in target["segments"]} == set(target["segmentation"].unique().tolist())


def test_json_and_png_must_match(tmp_path):
    split = find_panoptic(write(tmp_path, [info(5, 90), info(70000, 7)]), "train")
    with pytest.raises(DataError, match=r"b\.png has pixels of segment 260, which .*train2017\.json does not list"):
        PanopticDataset(split)[0]


@pytest.mark.parametrize(("image", "what"), [(Image.new("L", (4, 2)), "PNG of mode L"), (None, "does not exist")])
def test_png_must_be_rgb_and_there(tmp_path, image, what):
    path = write(tmp_path, [info(5, 90)]) / "annotations/panoptic_train2017/b.png"
    path.unlink()
    if image:
        image.save(path)
    with pytest.raises(DataError, match=rf"b\.png .*{what}"):
        PanopticDataset(find_panoptic(tmp_path, "train"))[0]


def test_categories_must_say_what_is_a_thing(tmp_path):
    write(tmp_path, [], categories=[{"id": 1, "name": "cat"}])
    with pytest.raises(DataError, match="category cat has no 'isthing'"):
        find_panoptic(tmp_path, "train")


def test_shapes_agree_with_their_semantic_masks(tmp_path):
    make_shapes(tmp_path / "shapes", 10, 48)
    splits = find_panoptic_splits(tmp_path / "shapes")
    assert {name: len(split) for name, split in splits.items()} == {"train": 8, "val": 2}
    semantic = find_semantic(tmp_path / "shapes", "train")
    assert splits["train"].class_names == semantic.class_names
    for i, (_, target) in enumerate(PanopticDataset(splits["train"])):
        labels = np.array([255, *(segment["label"] for segment in target["segments"])])
        assert np.array_equal(labels[target["segmentation"]], semantic.labels(i))


def test_what_was_written_reads_back(tmp_path):
    segmentation = torch.tensor([[1, 1, 2, 0], [1, 3, 2, 2]], dtype=torch.int32)
    segments = [
        {"id": 1, "label": 1, "isthing": True, "score": 0.9},
        {"id": 2, "label": 2, "isthing": False, "score": 0.8},
        {"id": 3, "label": 0, "isthing": True, "score": 0.7},
        {"id": 4, "label": 0, "isthing": True, "score": 0.7},
    ]
    file = tmp_path / "annotations/panoptic_val.json"
    with PanopticWriter(file, CATEGORIES) as writer:
        assert writer.add(1, "x/a.jpg", segmentation, segments).name == "a.png"
        assert writer.add(2, "y/a.jpg", segmentation, segments).name == "a_2.png"
    content = json.loads(file.read_text())
    assert content["images"][1] == {"id": 2, "file_name": "y/a.jpg", "height": 2, "width": 4}
    infos = content["annotations"][0]["segments_info"]
    assert [i["id"] for i in infos] == [1, 2, 3]  # the last has no pixel
    assert infos[1] == {"id": 2, "category_id": 90, "area": 3, "bbox": [2, 0, 2, 2], "iscrowd": 0, "score": 0.8}
    for name in ("x", "y"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (4, 2)).save(tmp_path / f"val/{name}/a.jpg")
    _, target = SegmentsToLearn()(*PanopticDataset(find_panoptic(tmp_path, "val"))[1])
    assert target["segmentation"].tolist() == segmentation.tolist()
    assert target["labels"].tolist() == [1, 2, 0]


def test_the_json_is_written_even_after_an_error(tmp_path):
    writer = PanopticWriter(tmp_path / "out.json", CATEGORIES)
    writer.add(1, "a.jpg", np.zeros((1, 1), int), [])
    with pytest.raises(DataError, match=r"b\.png has pixels of segment 1"), writer:
        writer.add(2, "b.jpg", np.ones((1, 1), int), [])
    assert [image["file_name"] for image in json.loads((tmp_path / "out.json").read_text())["images"]] == ["a.jpg"]
