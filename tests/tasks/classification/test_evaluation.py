import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import multiclass_calibration_error

from van.errors import DataError
from van.tasks.classification.evaluation import ClassificationEvaluation, calibration, fit_temperature, likelihood
from van.tasks.classification.options import ClassificationInference

NAMES = ["cat", "dog", "fox", "größer"]
# six images; nothing is a größer, nothing is taken for a dog
LABELS = [0, 1, 1, 2, 2, 2]
BEST = [[0, 2, 1], [0, 1, 2], [2, 1, 0], [2, 0, 1], [2, 0, 1], [3, 2, 0]]


class Labeled(list):
    """Batches of (images, labels), as a split whose images are all black."""

    class_names = NAMES

    def load(self, index):
        return Image.new("RGB", (4, 4))

    def name(self, index):
        return f"image {index}"


def evaluation_of(batches, names=NAMES):
    """The evaluation of a classifier whose logits are the images."""
    split = Labeled(batches)
    split.class_names = names
    predictor = SimpleNamespace(
        model=lambda images: images,
        device="cpu",
        class_names=names,
        inference=ClassificationInference(),
        state={},
    )
    evaluation = ClassificationEvaluation(predictor, split, 0)
    evaluation.batches = lambda: split
    return evaluation


def ranked(best):
    """Logits with these classes first."""
    logits = torch.zeros(len(best), len(NAMES))
    for row, classes in zip(logits, best, strict=True):
        for place, label in enumerate(classes):
            row[label] = 4 - place
    return logits


@pytest.fixture
def measured(tmp_path):
    logits, labels = ranked(BEST), torch.tensor(LABELS)
    evaluation = evaluation_of([(logits[:4], labels[:4]), (logits[4:], labels[4:])])
    return evaluation, evaluation.run(tmp_path, "title", quiet=True)


def test_accuracy_and_confusion(measured):
    evaluation, values = measured
    assert values["top1"] == pytest.approx(3 / 6)
    assert evaluation.confusion().tolist() == [[1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 2, 1], [0, 0, 0, 0]]


def test_per_class_by_hand(measured):
    cat, dog, fox, greater = measured[0].per_class()
    assert cat == {"class": "cat", "images": 1, "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3, abs=1e-6)}
    # never predicted: no precision; nothing of it found: recall and F1 are 0
    assert dog == {"class": "dog", "images": 2, "precision": None, "recall": 0.0, "f1": 0.0}
    assert fox["precision"] == fox["recall"] == fox["f1"] == pytest.approx(2 / 3, abs=1e-6)
    # no images: no recall and no F1
    assert greater == {"class": "größer", "images": 0, "precision": 0.0, "recall": None, "f1": None}


def test_files(measured, tmp_path):
    evaluation, _ = measured
    text = (tmp_path / "evaluation.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))
    assert (content["images"], content["top1"]) == (6, 0.5)
    assert content["per_class"] == evaluation.per_class()
    assert "größer" in text
    with (tmp_path / "per_class.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == NAMES
    assert rows[1] == {"class": "dog", "images": "2", "precision": "", "recall": "0.0", "f1": "0.0"}
    assert all((tmp_path / f"{name}.png").is_file() for name in ("confusion_matrix", "predictions"))


@pytest.mark.parametrize("classes", [2, 5, 8])
def test_batches_are_counted_together(classes, tmp_path):
    torch.manual_seed(0)
    logits, labels = torch.randn(10, classes), torch.randint(classes, (10,))
    evaluation = evaluation_of(
        [(logits[i : i + 4], labels[i : i + 4]) for i in (0, 4, 8)], list(map(str, range(classes)))
    )
    values = evaluation.run(tmp_path, "title", quiet=True)
    assert evaluation.labels.tolist() == labels.tolist()
    assert evaluation.top.tolist() == logits.argsort(dim=1, descending=True)[:, :5].tolist()
    assert evaluation.confidence == pytest.approx(logits.softmax(dim=1).max(dim=1).values.numpy())
    assert values["top1"] == pytest.approx((logits.argmax(dim=1) == labels).float().mean().item())
    assert ("top5" in values) == (classes > 5)  # of five classes, one of the first five is always right


def test_nothing_to_evaluate(tmp_path):
    with pytest.raises(DataError, match="no images"):
        evaluation_of([]).run(tmp_path, "title", quiet=True)


def test_calibration_by_hand():
    # two bins: 0.5 belongs to the first one
    confidence, right = np.array([0.4, 0.5, 0.8, 1.0]), np.array([True, False, True, True])
    error, bins = calibration(confidence, right, bins=2)
    assert error == pytest.approx((abs(0.9 - 1) + abs(1.8 - 2)) / 4)
    assert bins == pytest.approx(np.array([[2, 0.45, 0.5], [2, 0.9, 1.0]]))


def test_calibration_is_that_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    probabilities = (3 * torch.randn(200, 4, generator=generator)).softmax(1)
    target = torch.randint(0, 4, (200,), generator=generator)
    best = probabilities.max(1)
    error, bins = calibration(best.values.numpy(), (best.indices == target).numpy())
    expected = multiclass_calibration_error(probabilities, target, 4, n_bins=15, norm="l1")
    assert error == pytest.approx(float(expected), abs=1e-6)
    assert bins[:, 0].sum() == 200


def test_most_confident_errors_first(measured, tmp_path):
    evaluation, _ = measured
    with (tmp_path / "errors.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted((row["image"], row["true"], row["predicted"]) for row in rows) == [
        ("image 1", "dog", "cat"), ("image 2", "dog", "fox"), ("image 5", "fox", "größer"),
    ]  # fmt: skip
    probabilities = [float(row["probability"]) for row in rows]
    assert probabilities == sorted(probabilities, reverse=True)
    assert json.loads((tmp_path / "evaluation.json").read_text())["ECE"] == pytest.approx(evaluation.calibration()[0])


def test_the_temperature_is_the_one_that_labels_were_drawn_with():
    torch.manual_seed(0)
    logits = 2 * torch.randn(20000, 10)
    labels = torch.multinomial((logits / 2.5).softmax(1), 1)[:, 0]
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(2.5, rel=0.03)
    assert likelihood(logits, labels, temperature) <= min(likelihood(logits, labels, t) for t in (1.0, 2.3, 2.7))
    confidence = [(logits / t).softmax(1).amax(1).numpy() for t in (1.0, temperature)]
    right = (logits.argmax(1) == labels).numpy()
    before, after = (calibration(one, right)[0] for one in confidence)
    assert before > 0.2
    assert after < 0.02
