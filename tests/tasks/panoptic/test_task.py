"""Panoptic segmentation from data to pictures: what it does beyond the promises of all tasks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import van
from van.data.augmentation import PanopticAugmentation
from van.data.panoptic import read_ids
from van.engine.result import read_records
from van.errors import VanError
from van.tasks.panoptic.data import panoptic_data
from van.tasks.panoptic.options import PanopticInference, PanopticTrainOptions
from van.tasks.panoptic.results import Panoptic

pytest.importorskip("transformers")


def read(path):
    return json.loads(Path(path).read_text())


def test_batches(data):
    augmentation = PanopticAugmentation((0.8, 1.2), (32, 32))
    options = PanopticTrainOptions(data=str(data["panoptic"]), batch_size=4, workers=0, augmentation=augmentation)
    found = panoptic_data(options, 1)
    assert found.extra["category_ids"] == [1, 2, 3, 5, 6, 92, 93]
    assert found.extra["isthing"] == [True] * 5 + [False] * 2
    images, targets = next(iter(found.train_dataloader()))
    assert images.shape == (4, 3, 32, 32)
    for target in targets:
        assert target["masks"].shape == (len(target["labels"]), 32, 32)
    images, targets = next(iter(found.val_dataloader()))
    assert targets[0]["segmentation"].shape == images[0].shape[1:]
    ids = {segment["id"] for segment in targets[0]["segments"]}
    assert ids >= set(targets[0]["segmentation"].unique().tolist()) - {0}


def test_only_architectures_with_segments(cli, data):
    status, _, err = cli("train", "--task", "panoptic", "--data", data["panoptic"], "--model.architecture", "upernet")
    assert status == 1
    assert "mask2former" in err


@pytest.mark.parametrize("name", ["score_threshold", "overlap_threshold"])
def test_thresholds_out_of_range(name):
    with pytest.raises(VanError, match=f"{name} is 2"):
        PanopticInference(**{name: 2}).check()


def test_evaluation_writes_segments_with_the_ids_of_the_data(cli, run_of, data):
    options = ["--weights", run_of("panoptic").folder, "--data", data["panoptic"], "--output", "m", "--workers", "0"]
    status, out, err = cli("evaluate", *options)
    assert status == 0, err
    assert "PQ of things" in out
    content = read("m/panoptic.json")
    assert [category["id"] for category in content["categories"]] == [1, 2, 3, 5, 6, 92, 93]
    assert len(content["annotations"]) == len(list(Path("m/panoptic").iterdir())) == 4


def test_predictions_in_coco_format(cli, run_of, data):
    folder = data["panoptic"] / "val"
    broken = Path("0.jpg")
    broken.write_bytes(b"x")
    status, _, err = cli("predict", broken, folder, "--weights", run_of("panoptic").folder, "--output", "out")
    assert status == 1
    assert "0.jpg" in err
    entries, content = list(read_records("out/predictions.jsonl")), read("out/panoptic.json")
    assert [entry.get("image_id") for entry in entries] == [None, 2, 3, 4, 5]
    assert [image["id"] for image in content["images"]] == [2, 3, 4, 5]
    for entry, record in zip(entries[1:], content["annotations"], strict=True):
        assert entry["panoptic"] == f"panoptic/{record['file_name']}"
        ids = read_ids(Path("out") / entry["panoptic"])
        assert ids.shape == (entry["height"], entry["width"])
        areas = {segment["id"]: segment["area"] for segment in entry["segments"]}
        assert areas == {segment["id"]: segment["area"] for segment in record["segments_info"]}
        assert all((ids == number).sum() == area for number, area in areas.items())


def test_large_image_scaled_for_its_segments(cli, run_of):
    Image.new("RGB", (260, 300)).save("a.png")
    options = ["predict", "a.png", "--weights", run_of("panoptic").folder, "--output"]
    status, _, err = cli(*options, "out", "--fit", "48", "64")
    assert status == 0, err
    with Image.open("out/panoptic/a.png") as result:
        assert result.size == (260, 300)
    status, _, err = cli(*options, "more", "--fit", "0", "64")
    assert status == 1
    assert "fit is" in err
    assert not Path("more").exists()


class TestResult:
    def result(self, segments=(), best=0.28):
        segmentation = np.array([[1, 1, 2], [0, 1, 2]], np.int32)
        kind = {"class_names": ["cat", "sky"], "size": (2, 3), "score_threshold": 0.5, "best_score": best}
        return Panoptic(segmentation=segmentation, segments=list(segments), image=Image.new("RGB", (3, 2)), **kind)

    def test_segments_by_class(self):
        found = [{"id": i, "label": i - 1, "isthing": i == 1, "score": 0.9} for i in (1, 2)]
        result = self.result(found)
        assert result.summary() == "1 cat, 1 sky"
        assert result.to_dict()["segments"][0] == {"class": "cat", "area": 3, **found[0]}

    @pytest.mark.parametrize(
        ("best", "words"), [(0.28, "best 0.28.*--score-threshold"), (0.9, "--overlap-threshold"), (0.0, "no segments")]
    )
    def test_nothing_found_says_why(self, best, words):
        import re

        assert re.search(words, self.result(best=best).summary())


def test_segments_as_arrays(run_of):
    result = van.load(run_of("panoptic").folder)(np.zeros((40, 30, 3), np.uint8))
    assert result.segmentation.shape == (40, 30)
    assert result.segmentation.dtype == np.int32
    assert set(np.unique(result.segmentation)) <= {0, *(segment["id"] for segment in result.segments)}
