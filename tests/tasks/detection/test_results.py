import sys

import numpy as np
import pytest
from PIL import Image

from van.errors import VanError
from van.tasks.detection.results import Detections, encode_masks

mask_functions = pytest.importorskip("faster_coco_eval.core.mask")


def two(**changes):
    masks = np.zeros((2, 10, 12), bool)
    masks[0, 2:5, 3:9] = True
    options = {
        "class_names": ["cat", "dog"], "size": (10, 12), "path": "in/a.png",
        "boxes": np.array([[3.0, 2.0, 9.0, 5.0], [0.0, 0.0, 1.5, 2.25]], np.float32), "labels": np.array([1, 0]),
        "scores": np.array([0.75, 0.5], np.float32), "masks": masks, "image": Image.new("RGB", (12, 10)),
    }  # fmt: skip
    return Detections(**{**options, **changes})


def test_results_in_cocos_format():
    found = two()
    first, second = found.results(42, [4, 7])
    assert {k: v for k, v in first.items() if k != "segmentation"} == {
        "image_id": 42, "category_id": 7, "bbox": [3.0, 2.0, 6.0, 3.0], "score": 0.75
    }  # fmt: skip
    assert second["bbox"] == [0.0, 0.0, 1.5, 2.25]
    assert np.array_equal(mask_functions.decode(first["segmentation"]), found.masks[0])
    assert mask_functions.area([second["segmentation"]]).tolist() == [0]
    assert isinstance(first["segmentation"]["counts"], str)
    assert encode_masks(found.masks[:0]) == []


def test_dictionary():
    content = two(masks=None, category_ids=[4, 7]).to_dict()
    dog = {"class": "dog", "category_id": 7, "bbox": [3.0, 2.0, 6.0, 3.0], "score": 0.75}
    assert content["objects"][0] == dog
    assert {k: v for k, v in content.items() if k != "objects"} == {"image": "in/a.png", "height": 10, "width": 12}
    assert [entry["category_id"] for entry in two().to_dict()["objects"]] == [2, 1]  # without ids counted from 1
    assert "segmentation" in two().to_dict()["objects"][0]


def test_above():
    some = two(best_score=0.75).above(0.6)
    assert len(some) == len(some.masks) == 1
    assert some.classes == ["dog"]
    assert some.path == "in/a.png"


def test_summary():
    assert two().summary() == "1 dog, 1 cat"
    assert two(labels=np.array([0, 0])).summary() == "2 cat"
    nothing = two(best_score=0.75).above(0.9)
    assert "0.9" in nothing.summary()
    assert "0.75" in nothing.summary()
    assert "--score-threshold" in nothing.summary()
    assert "threshold" not in two(best_score=None).above(0.9).summary()


def test_drawings(tmp_path):
    nothing = two(best_score=0.75).above(0.9).draw()
    assert np.asarray(nothing).any()  # a note on the black picture
    assert two().draw().width % 12 == 0
    assert two().draw(size=384).width == 384
    assert (tmp_path / two().save(tmp_path)["picture"]).is_file()
    with pytest.raises(VanError, match="no image"):
        two(image=None).draw()


class TestSupervision:
    def test_without_the_package_it_names_the_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "supervision", None)
        with pytest.raises(VanError, match="pip install supervision"):
            two().to_supervision()

    def test_gives_its_detections(self):
        supervision = pytest.importorskip("supervision")
        found = two().to_supervision()
        assert isinstance(found, supervision.Detections)
        assert found.xyxy.tolist() == two().boxes.tolist()
        assert found.class_id.tolist() == [1, 0]
        assert found.data["class_name"].tolist() == ["dog", "cat"]
        assert found.mask.shape == (2, 10, 12)
        assert len(two().above(0.9).to_supervision()) == 0
