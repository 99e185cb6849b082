"""Training on every label format: the shapes written in it are the same objects, and a run learns from them."""

import numpy as np
import pytest
from tests.data.label_writers import write

import van
from van.data.coco import decode_masks
from van.data.labels import find_labels, open_labels
from van.data.semantic import find_semantic_splits

FORMATS = {
    "boxes": ("COCO", "YOLO", "Pascal VOC", "LabelMe", "CVAT", "Label Studio", "Open Images"),
    "masks": ("COCO", "YOLO", "Pascal VOC", "LabelMe", "CVAT", "Label Studio"),
    "keypoints": ("COCO", "YOLO", "LabelMe", "CVAT", "Label Studio"),
}
TASKS = {"boxes": "detection", "masks": "instances", "keypoints": "pose"}
CASES = [(need, name) for need, names in FORMATS.items() for name in names]


@pytest.fixture(scope="module")
def written(data, tmp_path_factory):
    """The shapes in a format, written once: written(need, name)."""
    pytest.importorskip("faster_coco_eval")
    made = {}

    def folder(need, name):
        if (need, name) not in made:
            made[need, name] = write(data["detection"], tmp_path_factory.mktemp("labels") / "data", name, need)
        return made[need, name]

    return folder


# those that van writes are compared in tests/data/test_labels.py
@pytest.mark.parametrize(("need", "name"), [c for c in CASES if c[1] not in ("COCO", "YOLO", "Pascal VOC")])
def test_objects_are_those_of_coco(written, data, need, name):
    folder = written(need, name)
    assert find_labels(folder, need).format == name
    truth, read = open_labels(data["detection"], need), open_labels(folder, need)
    assert list(read) == ["train", "val"]
    for split, old in truth.items():
        new = read[split]
        assert not new.problems
        if need == "keypoints":
            assert sorted(new.keypoint_names) == sorted(old.keypoint_names)
            order = [new.keypoint_names.index(point) for point in old.keypoint_names]
        places = {new.image_path(image).name: image["id"] for image in new.images}
        for image in old.images:
            mine = [a for a in old.annotations(image["id"]) if not a["iscrowd"]]
            # LabelMe has no files without objects, Open Images no lines
            theirs = new.annotations(places[image["file_name"]]) if image["file_name"] in places else []
            theirs = [a for a in theirs if not a["iscrowd"]]
            assert len(mine) == len(theirs)
            for a, b in zip(mine, theirs, strict=True):
                assert old.class_names[old.labels[a["category_id"]]] == new.class_names[new.labels[b["category_id"]]]
                if need == "keypoints":
                    points = np.array(b["keypoints"]).reshape(-1, 3)[order]
                    wanted = np.array(a["keypoints"]).reshape(-1, 3)
                    if name == "Label Studio":  # its points are all visible
                        wanted[:, 2] = np.where(wanted[:, 2] > 0, 2, 0)
                    assert np.where(points[:, 2:] > 0, points, 0) == pytest.approx(wanted, abs=0.01)
                elif need == "masks":  # rounded to pixels where there are holes
                    height, width = image["height"], image["width"]
                    one, two = (decode_masks([x["segmentation"]], height, width)[0] for x in (a, b))
                    assert (one != two).sum() <= 0.02 * one.sum()
                else:
                    assert b["bbox"] == pytest.approx(a["bbox"], abs=0.02)


# COCO is what all other tests train on
QUICK = (("boxes", "Pascal VOC"), ("masks", "YOLO"), ("masks", "LabelMe"), ("keypoints", "CVAT"))
QUICK += (("keypoints", "YOLO"), ("keypoints", "Label Studio"))


@pytest.mark.parametrize(
    ("need", "name"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow, id=" ".join(case))
        for case in CASES
        if case[1] != "COCO"
    ],
)
def test_run_learns_from_each_format(cli, written, options_of, tmp_path, need, name):
    folder = written(need, name)
    options = options_of(TASKS[need], data=str(folder), epochs=1, limit_batches=1, output=str(tmp_path / "run"))
    run = van.train(**options, logger=[])
    assert np.isfinite(list(run.metrics.values())).all()
    names = open_labels(folder, need)["train"].class_names
    assert run.predictor().class_names == names
    status, out, err = cli("check-data", folder, "--task", TASKS[need])
    assert (status, "no problems" in out) == (0, True), out + err


@pytest.mark.parametrize(
    "name", [pytest.param("YOLO", marks=pytest.mark.slow), pytest.param("Pascal VOC", marks=pytest.mark.slow), "CVAT"]
)
def test_semantic_run_learns_from_objects_with_masks(written, options_of, tmp_path, name):
    folder = written("masks", name)
    run = van.train(**options_of("semantic", data=str(folder), epochs=1, limit_batches=1, output=str(tmp_path / "run")))
    assert run.predictor().class_names == find_semantic_splits(folder)["train"].class_names
