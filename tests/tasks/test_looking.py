"""Looking at data, for all tasks: pictures of it before training, and labels that a trained network contradicts."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import van
from van.data.coco import CocoFiles, CocoSplit
from van.engine import showing
from van.engine.registry import get_task
from van.engine.suspects import disagreement
from van.networks.detection.fcos import FCOSOptions
from van.tasks.classification.suspects import contradicted
from van.tasks.detection.options import DetectionInference
from van.tasks.detection.suspects import find_suspects


def test_pictures_of_every_task(task, options_of, tmp_path, monkeypatch):
    drawn = []
    kind = type(get_task(task))
    draw = kind.picture
    monkeypatch.setattr(
        kind, "picture", lambda self, data, sample, size: drawn.append(sample) or draw(self, data, sample, size)
    )
    options = {key: value for key, value in options_of(task, batch_size=2).items() if key != "task"}
    shown = van.show_data(task=task, samples=2, output=str(tmp_path / "shown"), **options)
    names = {"samples.png", "distributions.png"} | ({"places.png"} if task != "classification" else set())
    assert set(shown.files) == names == {path.name for path in shown.folder.iterdir()}
    for name in shown.files:
        assert np.asarray(Image.open(shown.folder / name).convert("L")).std() > 5
    # after each stored sample come those of training: the first one is that of the first batch
    found, parsed = showing.show_options(task, None, {**options, "output": str(tmp_path / "again")})
    batch = next(iter(found.data(parsed, 1).train_dataloader()))
    first = drawn[1]["image"] if isinstance(drawn[1], dict) else drawn[1][0]
    images = batch["image"] if isinstance(batch, dict) else batch[0]
    assert torch.equal(torch.as_tensor(first).as_subclass(torch.Tensor), images[0])


def test_batches_that_are_mixed_have_a_sheet(cli, data):
    status, out, err = cli(
        "show-data", data["classification"], "--samples", 1, "--batch-size", 6, "--augmentation.cutmix", 1,
        "--image-size", 32, 32, "--output", "shown",
    )  # fmt: skip
    assert (status, "batch.png" in out) == (0, True), out + err
    status, _, err = cli("show-data", data["classification"], "--output", "shown")
    assert (status, "is not empty" in err) == (1, True)
    status, _, err = cli("show-data", "nowhere", "--task", "detection")
    assert (status, "nowhere does not exist" in err) == (1, True)
    status, _, err = cli("show-data", data["classification"], "--samples", 0)
    assert (status, "samples is 0" in err) == (1, True)
    assert cli("show-data", data["classification"], "--sampels", 3)[0] == 2
    assert "--samples" in cli("show-data", "--help")[1]


def test_suspects_of_every_task(task, cli, run_of, data, tmp_path):
    arguments = ("check-data", data[task], "--weights", run_of(task).folder, "--output", "report")
    status, out, err = cli(*arguments)
    if task == "pose":
        assert (status, "cannot judge labels of the task pose" in err) == (1, True)
        return
    assert (status, "suspects: " in out) == (0, True), out + err
    rows = list(csv.DictReader((tmp_path / "report/suspects.csv").read_text().splitlines()))
    content = json.loads((tmp_path / "report/check.json").read_text())
    assert len(content["suspects"]) == len(rows)
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all("val" in row["image"] for row in rows)
    assert (tmp_path / "report/suspects.png").exists() == bool(rows)


def test_contradicted_classes():
    labels = np.array([0] * 5 + [1] * 5)
    probabilities = np.where(np.eye(2)[labels] == 1, 0.9, 0.1)
    probabilities[2] = [0.1, 0.9]  # surely the other class
    probabilities[7] = [0.55, 0.45]  # not sure enough
    found, classes = contradicted(probabilities, labels)
    assert (found.tolist(), classes.tolist()) == ([2], [1])


def test_disagreeing_pixels():
    given, found = np.array([[0, 0, 1, 255]]), np.array([[0, 1, 1, 0]])
    assert disagreement(given, found, ["a", "b"]) == {
        "score": 0.333333,
        "labeled": "a",
        "predicted": "b",
        "share": 0.333333,
    }
    assert disagreement(given, given, ["a", "b"])["score"] == 0


class Found(nn.Module):
    """A detector that finds what it is told."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs, self.options = outputs, FCOSOptions()

    def forward(self, images):
        return self.outputs


def test_suspects_of_a_detector(tmp_path):
    pytest.importorskip("faster_coco_eval")
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    boxes = {1: (1, [0, 0, 20, 20]), 2: (1, [40, 0, 20, 20]), 3: (1, [0, 40, 20, 20]), 4: (2, [40, 40, 20, 20])}
    annotations = [
        {"id": i, "image_id": 1, "category_id": c, "bbox": box, "area": 400, "iscrowd": 0}
        for i, (c, box) in boxes.items()
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    images = [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    split = CocoSplit(CocoFiles(tmp_path, tmp_path / "a.json"), "instances", content)
    output = {
        # two cats are found, the third is not, the dog is called a cat, and another cat has no label
        "boxes": torch.tensor(
            [[0, 0, 20, 20], [40, 0, 60, 20], [40, 40, 60, 60], [80, 60, 100, 80]], dtype=torch.float
        ),
        "labels": torch.tensor([0, 0, 0, 0]),
        "scores": torch.tensor([0.9, 0.8, 0.95, 0.85]),
    }
    predictor = type("Told", (), {"model": Found([output]), "device": "cpu", "batch_size": 1})()
    predictor.class_names, predictor.inference = ["cat", "dog"], DetectionInference()
    suspects = find_suspects(predictor, split, 0)
    told = [(row["what"], row["labeled"], row["predicted"], row["annotation"]) for row in suspects.rows]
    assert told == [("other class", "dog", "cat", 4), ("no label", "", "cat", ""), ("not found", "cat", "", 3)]
    assert suspects.rows[2]["score"] == pytest.approx(2 / 3, abs=1e-6)
    assert all(len(suspects.draw(row)) == 2 for row in suspects.rows)
