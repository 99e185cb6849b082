"""Error types of detections, F1, confusion and worst images, on a case that can be checked by hand."""

import numpy as np
import pytest

from van.engine.coco import ImageOverlaps
from van.tasks.detection.errors import DetectionErrors


def image(number, objects, found, ignored=()):
    """An image with categories of its objects and (category, score, IoU with each object) of its detections."""
    return ImageOverlaps(
        image_id=number,
        found=np.array([one[0] for one in found], dtype=int),
        scores=np.array([one[1] for one in found], dtype=float),
        true=np.array(objects, dtype=int),
        ious=np.array([one[2] for one in found], dtype=float).reshape(len(found), len(objects)),
        ignored=np.array([i in ignored for i in range(len(found))], dtype=bool),
    )


def made_up():
    """Category 3 has four objects, category 7 two, category 9 none."""
    return [
        image(
            1, [3, 3, 7],
            [
                (3, 0.9, (0.8, 0.0, 0.0)),  # correct
                (3, 0.8, (0.6, 0.0, 0.0)),  # dupe
                (3, 0.7, (0.0, 0.3, 0.0)),  # loc, repaired
                (3, 0.6, (0.0, 0.4, 0.0)),  # loc, but the object is taken by the one before
                (3, 0.5, (0.0, 0.0, 0.7)),  # cls, repaired
            ],
        ),
        image(
            2, [3, 3, 7],
            [
                (3, 0.95, (0.9, 0.0, 0.0)),  # correct
                (3, 0.4, (0.05, 0.0, 0.0)),  # bkg
                (3, 0.3, (0.0, 0.0, 0.3)),  # both
                (7, 0.2, (0.0, 0.0, 0.0)),  # in a crowd region
            ],
            ignored=(3,),
        ),
        image(3, [], []),
    ]  # fmt: skip


@pytest.fixture
def errors():
    return DetectionErrors(made_up(), [3, 7, 9])


def test_every_detection_has_one_kind(errors):
    kinds = ["correct", "dupe", "loc", "loc", "cls", "correct", "bkg", "both"]
    assert errors.kinds.tolist() == kinds
    assert errors.objects.tolist() == [4, 2, 0]
    assert sorted(errors.missed) == [0, 1]


def test_ap_rises_by_what_is_fixed(errors):
    # category 3: 0.95 and 0.9 right, so precision 1 up to recall 2/4, of 101 recalls those from 0 to 0.5; 7: nothing
    before = (51 / 101 + 0) / 2
    assert errors.ap50() == pytest.approx(before)
    gains = {row["type"]: (row["count"], row["dAP50"]) for row in errors.types()}
    # loc: the third right one stands behind the duplicate, so precision 3/4 from recall 0.51 to 0.75
    assert gains["loc"] == (2, pytest.approx(25 * 0.75 / 101 / 2, abs=1e-6))
    # cls: one of two objects of category 7 is found with precision 1
    assert gains["cls"] == (1, pytest.approx(51 / 101 / 2, abs=1e-6))
    # miss: category 3 has three objects left, of which two are found: recalls 0 to 0.66; 7 has one left, not found
    assert gains["miss"] == (2, pytest.approx((67 - 51) / 101 / 2, abs=1e-6))
    # they stand behind all that is right
    assert gains["dupe"] == gains["bkg"] == gains["both"] == (1, 0.0)


def test_false_detections_cost_nothing_only_behind_correct_ones():
    found = [(3, 0.9, (0.0,)), (3, 0.8, (0.7,))]
    rows = {row["type"]: row["dAP50"] for row in DetectionErrors([image(1, [3], found)], [3]).types()}
    assert rows == {"cls": 0, "loc": 0, "both": 0, "dupe": 0, "bkg": 0.5, "miss": 0}


def test_best_threshold(errors):
    # category 3 with its two correct ones only: 2*2/(2+4); category 7 has F1 0 everywhere
    best = errors.best()
    assert best["F1"] == pytest.approx(4 / 6 / 2, abs=1e-6)
    assert 0.8 < best["threshold"] <= 0.9
    row = errors.f1()
    assert row[0, 0] == pytest.approx(2 * 2 / (8 + 4))
    assert np.isnan(row[2]).all()


def test_confusion_with_background(errors):
    # from 0.45 on: two of category 3 right and one missed in each image; the cls error; dupe and two loc errors
    assert errors.confusion(0.45).tolist() == [[2, 0, 0, 2], [1, 0, 0, 1], [0, 0, 0, 0], [3, 0, 0, 0]]


def test_worst_images_first(errors):
    assert errors.worst(0.45) == [
        {"image_id": 1, "objects": 3, "correct": 1, "wrong_class": 1, "missed": 1, "false": 3},
        {"image_id": 2, "objects": 3, "correct": 1, "wrong_class": 0, "missed": 2, "false": 0},
    ]


def test_nothing_to_find():
    nothing = DetectionErrors([image(1, [], [(3, 0.9, ())])], [3])
    assert nothing.best() == {}
    assert nothing.ap50() == -1.0
    assert nothing.kinds.tolist() == ["bkg"]
