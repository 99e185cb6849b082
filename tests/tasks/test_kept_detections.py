"""Options of prediction that say how much is returned; they have the same names in all tasks that find objects."""

import json

import numpy as np
import pytest
import torch

import van
from van.errors import VanError

SEVERAL = ["detection", "instances", "panoptic", "pose"]
CLASSES = SEVERAL[:3]


@pytest.fixture
def image(data):
    return str(sorted((data["detection"] / "val").glob("*.jpg"))[0])


def segments_found(network, images, isthing, options):
    """Stripes of five segments of four classes, the last one stuff."""
    assert isthing[:3] == [True] * 3
    labels = [0, 1, 1, 2, isthing.index(False)]
    segments = [
        {"id": i + 1, "label": label, "isthing": isthing[label], "score": 0.5 + i / 20}
        for i, label in enumerate(labels)
    ]
    rows = [torch.arange(image.shape[1]) * 6 // image.shape[1] for image in images]
    maps = [row[:, None].expand(image.shape[1:]).int() for row, image in zip(rows, images, strict=True)]
    return [{"segmentation": one, "segments": segments, "best_score": 0.7} for one in maps]


@pytest.fixture
def open_all(run_of, image, tmp_path, monkeypatch):
    """A predictor that returns everything that it finds: open_all(task, **options)."""
    pytest.importorskip("faster_coco_eval")
    pytest.importorskip("transformers")

    def make(task, **options):
        common = {"score_threshold": 0.0}
        if task == "pose":
            boxes = [{"class": "person", "score": 0.5 + k / 20, "bbox": [3 * k, 2 * k, 20, 22]} for k in range(6)]
            (tmp_path / "boxes.jsonl").write_text(json.dumps({"image": image, "objects": boxes}) + "\n")
            common |= {"boxes": str(tmp_path / "boxes.jsonl"), "oks_threshold": 1.0}
        if task == "panoptic":  # a network that has learned so little finds nothing
            monkeypatch.setattr("van.tasks.panoptic.evaluation.find_segments", segments_found)
        return van.load(run_of(task).folder, **common, **options)

    return make


def scores_of(result):
    if hasattr(result, "segments"):
        return [segment["score"] for segment in result.segments if segment["isthing"]]
    return sorted(result.scores.tolist(), reverse=True)


@pytest.mark.parametrize("task", SEVERAL)
def test_the_best_are_kept(task, open_all, image):
    everything = sorted(scores_of(open_all(task)(image)), reverse=True)
    assert everything
    few = open_all(task, max_detections=1)(image)
    assert scores_of(few) == pytest.approx(everything[:1], abs=1e-6)
    with pytest.raises(VanError, match="max_detections is 0"):
        open_all(task, max_detections=0)


@pytest.mark.parametrize("task", CLASSES)
def test_only_these_classes_are_kept(task, open_all, image):
    everything = open_all(task)(image)
    labels = [s["label"] for s in everything.segments] if task == "panoptic" else everything.labels.tolist()
    name = everything.class_names[labels[0]]
    some = open_all(task, classes=[name])(image)
    kept = [s["label"] for s in some.segments] if task == "panoptic" else some.labels.tolist()
    assert set(kept) == {labels[0]}
    assert kept.count(labels[0]) >= labels.count(labels[0])
    with pytest.raises(VanError, match=r"classes has 'persn', expected some of .*Did you mean person"):
        open_all(task, classes=["persn"])
    with pytest.raises(VanError, match="classes is empty"):
        open_all(task, classes=[])


def test_pixels_of_segments_that_are_left_out_are_in_none(open_all, image):
    everything = open_all("panoptic")(image)
    segment = everything.segments[0]
    some = open_all("panoptic", classes=[everything.class_names[segment["label"]]])(image)
    assert set(np.unique(some.segmentation)) - {0} <= {s["id"] for s in some.segments}
    assert (some.segmentation == segment["id"]).sum() == (everything.segmentation == segment["id"]).sum()
    assert len(some.to_dict()["segments"]) == len(some.segments)
    nothing = open_all("panoptic", classes=[everything.class_names[3]])(image)
    assert nothing.summary() == "no segments"
    assert not nothing.segmentation.any()


def test_the_suppression_of_boxes_is_the_detectors(run_of):
    pytest.importorskip("faster_coco_eval")
    detector = str(run_of("detection").folder)
    predictor = van.load(run_of("pose").folder, detector=detector, iou=0.3)
    assert predictor.state["detector"].model.options.nms_threshold == 0.3
    with pytest.raises(VanError, match=r"iou is 0\.3, but there is no detector"):
        van.load(run_of("pose").folder, iou=0.3)
    with pytest.raises(VanError, match=r"iou is 1\.5"):
        van.load(run_of("pose").folder, detector=detector, iou=1.5)
