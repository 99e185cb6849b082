import json

import numpy as np
import pytest
from PIL import Image

from van.tasks.pose.results import Poses


def one(score=0.5, values=(0.9, 0.1), **changes):
    options = {
        "class_names": ["person"], "size": (60, 80), "path": "in/a.png", "image": Image.new("RGB", (80, 60)),
        "keypoints": np.array([[[10.0, 20.0, values[0]], [30.0, 40.123, values[1]]]]),
        "scores": np.array([score]), "boxes": np.array([[5.0, 6.0, 45.0, 56.0]]),
            "box_scores": np.array([score]),
        "keypoint_names": ["nose", "left_eye"], "skeleton": [(0, 1)],
    }  # fmt: skip
    return Poses(**{**options, **changes})


def none(**changes):
    return one(
        keypoints=np.zeros((0, 2, 3)), scores=np.zeros(0), boxes=np.zeros((0, 4)), box_scores=np.zeros(0), **changes
    )


def test_dictionary():
    content = one().to_dict()
    keypoints = {"nose": [10.0, 20.0, 0.9], "left_eye": [30.0, 40.12, 0.1]}
    assert content["persons"] == [{"score": 0.5, "bbox": [5, 6, 40, 50], "keypoints": keypoints}]
    assert {k: v for k, v in content.items() if k != "persons"} == {"image": "in/a.png", "height": 60, "width": 80}
    assert none().to_dict()["persons"] == []


def test_summary():
    assert one().summary() == "1 person"
    assert "whole image" in one(whole_image=True).summary()
    failed = one(values=(0.05, 0.01)).summary()
    assert "0.2" in failed
    assert "0.05" in failed
    assert none().summary() == "no persons"
    nobody = none(score_threshold=0.3, best_score=0.12).summary()
    assert "0.12" in nobody
    assert "--score-threshold" in nobody


@pytest.mark.parametrize("changes", [{"values": (0.05, 0.01)}, {"whole_image": True}])
def test_drawing_says_what_is_not_seen(changes):
    plain, noted = one().draw(), one(**changes).draw()
    corner = (0, plain.height - 14, 150, plain.height)
    assert not np.asarray(plain.crop(corner)).any()
    assert np.asarray(noted.crop(corner)).any()


def test_nobody_is_said_on_the_picture():
    assert np.asarray(none().draw()).any()


def test_scores_are_never_negative_zero(weights):
    import van

    found = van.load(weights, flip_test=False)(Image.new("RGB", (40, 60)))
    assert "-0.0" not in json.dumps([person["score"] for person in found.to_dict()["persons"]])
