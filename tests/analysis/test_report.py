import csv
import json

import numpy as np
import pytest
import torch
from torch import nn

from van.analysis.classification import ClassificationReport, evaluate_classifier
from van.errors import DataError

NAMES = ["cat", "dog", "fox", "größer"]


@pytest.fixture
def report():
    """Six images; nothing is a größer, nothing is taken for a dog."""
    top = np.array([[0, 2, 1], [0, 1, 2], [2, 1, 0], [2, 0, 1], [2, 0, 1], [3, 2, 0]])
    return ClassificationReport(NAMES, np.array([0, 1, 1, 2, 2, 2]), top, np.full(6, 0.5))


def test_accuracies(report):
    assert report.predicted.tolist() == [0, 0, 2, 2, 2, 3]
    assert report.top1 == pytest.approx(3 / 6)
    assert report.top5 == 1.0  # the second image has its class in second place, as the third and the last have
    report.top = report.top[:, :1]
    assert report.top5 == report.top1


def test_confusion(report):
    assert report.confusion().tolist() == [[1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 2, 1], [0, 0, 0, 0]]


def test_per_class_by_hand(report):
    cat, dog, fox, greater = report.per_class()
    assert cat == {"class": "cat", "images": 1, "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3, abs=1e-6)}
    # never predicted: no precision; nothing of it found: recall and F1 are 0
    assert dog == {"class": "dog", "images": 2, "precision": None, "recall": 0.0, "f1": 0.0}
    assert fox["precision"] == fox["recall"] == fox["f1"] == pytest.approx(2 / 3, abs=1e-6)
    # no images: no recall and no F1
    assert greater == {"class": "größer", "images": 0, "precision": 0.0, "recall": None, "f1": None}


def test_files(report, tmp_path):
    summary, table = report.write(tmp_path)
    assert (summary.name, table.name) == ("evaluation.json", "per_class.csv")
    content = json.loads(
        summary.read_text(encoding="utf-8"), parse_constant=lambda word: pytest.fail(f"{word} in JSON")
    )
    assert (content["images"], content["top1"], content["top5"]) == (6, 0.5, 1.0)
    assert content["per_class"] == report.per_class()
    assert "größer" in summary.read_text(encoding="utf-8")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == NAMES
    assert rows[1] == {"class": "dog", "images": "2", "precision": "", "recall": "0.0", "f1": "0.0"}


class Rows(nn.Module):
    """Gives the logits that the image holds."""

    def forward(self, images):
        assert not self.training
        return images.flatten(1)


@pytest.mark.parametrize("classes", [2, 5, 8])
def test_evaluate_classifier(classes, capsys):
    torch.manual_seed(0)
    logits, labels = torch.randn(10, classes), torch.randint(classes, (10,))
    batches = [(logits[i : i + 4, None, None], labels[i : i + 4]) for i in (0, 4, 8)]
    report = evaluate_classifier(Rows().train(), batches, [str(i) for i in range(classes)], "cpu", progress=False)
    assert capsys.readouterr().err == ""
    assert report.labels.tolist() == labels.tolist()
    assert report.top.tolist() == logits.argsort(dim=1, descending=True)[:, :5].tolist()
    assert report.confidence == pytest.approx(logits.softmax(dim=1).max(dim=1).values.numpy())
    assert report.top1 == pytest.approx((logits.argmax(dim=1) == labels).float().mean().item())


def test_progress_bar(capsys):
    evaluate_classifier(Rows(), [(torch.zeros(1, 2, 1, 1), torch.tensor([0]))], ["a", "b"], "cpu")
    assert "Evaluating" in capsys.readouterr().err


def test_one_image_of_one_class():
    batches = [(torch.tensor([[[[1.0]], [[2.0]]]]), torch.tensor([1]))]
    report = evaluate_classifier(Rows(), batches, ["a", "b"], "cpu", progress=False)
    assert (report.top1, report.top5) == (1.0, 1.0)
    assert report.per_class()[0] == {"class": "a", "images": 0, "precision": None, "recall": None, "f1": None}


def test_nothing_to_evaluate():
    with pytest.raises(DataError, match="There are no images to measure the model on"):
        evaluate_classifier(Rows(), [], ["a", "b"], "cpu", progress=False)
