import json

import numpy as np
import pytest
from PIL import Image

from van.data.shapes import KEYPOINTS
from van.errors import DataError
from van.networks.options import SimpleBaselineOptions
from van.tasks.pose.data import PoseData
from van.tasks.pose.options import PoseTrainOptions


@pytest.fixture
def write(tmp_path):
    """Write a data set of two images with so many persons on each in turn; the val split has the same."""

    def write(persons):
        points = np.random.default_rng(0).uniform(10, 50, (17, 3)).round()
        points[:, 2] = 2
        person = {"category_id": 1, "bbox": [8, 8, 44, 44], "area": 900, "iscrowd": 0, "num_keypoints": 17}
        content = {
            "images": [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in (1, 2)],
            "annotations": [
                {**person, "id": i + 1, "image_id": 1 + i % 2, "keypoints": points.ravel().tolist()}
                for i in range(persons)
            ],
            "categories": [{"id": 1, "name": "person", "keypoints": list(KEYPOINTS), "skeleton": [[1, 2]]}],
        }
        (tmp_path / "annotations").mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
        for split in ("train", "val"):
            (tmp_path / split).mkdir()
            for i in (1, 2):
                Image.fromarray(pixels).save(tmp_path / split / f"{i}.png")
            (tmp_path / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(content))
        return tmp_path

    return write


def make(folder, **options):
    model = SimpleBaselineOptions(image_size=[64, 48])
    return PoseData(PoseTrainOptions(data=str(folder), model=model, workers=0, **options), 3)


def test_batches(write):
    data = make(write(7))
    assert [len(batch["image"]) for batch in data.train_dataloader()] == [3, 3]  # the last, incomplete one is left out
    assert data.steps(1) == 2
    assert data.class_names == ["person"]
    assert data.extra["keypoint_names"] == list(KEYPOINTS)
    assert data.extra["flip_pairs"][0] == [1, 2]
    assert data.extra["skeleton"] == [[0, 1]]
    batches = list(data.val_dataloader())
    assert sum(len(batch["image"]) for batch in batches) == 7
    assert batches[0]["keypoints"].shape[1:] == (17, 3)
    assert batches[0]["matrix"].shape[1:] == (2, 3)
    ids = [number for batch in batches for number in batch["image_id"].tolist()]
    assert ids == sorted(ids)


def test_other_keypoints_in_val_are_an_error(write):
    folder = write(1)
    path = folder / "annotations" / "person_keypoints_val.json"
    path.write_text(path.read_text().replace('"nose"', '"beak"'))
    with pytest.raises(DataError, match="beak"):
        make(folder)


def test_broken_images_are_found_by_decoding(write):
    folder = write(2)
    file = folder / "train" / "2.png"
    file.write_bytes(file.read_bytes()[:-200])
    make(folder)
    with pytest.raises(DataError, match=r"2\.png"):
        make(folder, check_data=True)
    data = make(folder, check_data=True, on_bad_image="skip")
    assert len(data.train) == 1
    assert "2.png" in data.notes[0]


def test_number_of_keypoints(write):
    folder = write(2)
    assert make(folder, keypoints=17).val.names == list(KEYPOINTS)
    with pytest.raises(DataError, match="keypoints is 5"):
        make(folder, keypoints=5)
