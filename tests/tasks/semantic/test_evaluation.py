"""IoU and accuracies of labels of pixels."""

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from van.errors import DataError
from van.tasks.semantic.evaluation import SemanticEvaluator

CLASSES = ["a", "b", "c", "d"]


def test_by_hand():
    evaluator = SemanticEvaluator(CLASSES)
    found = torch.tensor([[0, 0, 1, 1], [2, 0, 0, 0]])
    true = torch.tensor([[0, 1, 1, 1], [0, 0, 255, 255]], dtype=torch.uint8)
    evaluator.update([found], [true])
    # a: 2 of 3 right, one more found; b: 2 of 3; c: only found; d does not occur
    assert evaluator.compute() == pytest.approx({"mIoU": (2 / 4 + 2 / 3 + 0) / 3, "mAcc": 2 / 3, "aAcc": 4 / 6})
    rows = evaluator.per_class()
    assert rows[0] == {"class": "a", "pixels": 3, "IoU": 0.5, "accuracy": 0.666667}
    assert rows[2] == {"class": "c", "pixels": 0, "IoU": 0.0, "accuracy": None}
    assert rows[3] == {"class": "d", "pixels": 0, "IoU": None, "accuracy": None}


def test_images_of_any_size_add_up_to_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    found = torch.randint(0, 4, (6, 9, 7), generator=generator)
    true = torch.where(torch.rand(found.shape, generator=generator) < 0.5, found, found.flip(0)).to(torch.uint8)
    true[:, :2] = 255
    evaluator = SemanticEvaluator(CLASSES)
    evaluator.update(list(found[:4]), list(true[:4]))
    evaluator.update([found[4], found[5, :5]], [true[4], true[5, :5]])
    evaluator.update([found[5, 5:]], [true[5, 5:]])
    options = {"num_classes": 4, "ignore_index": 255}
    assert evaluator.compute() == pytest.approx(
        {
            "mIoU": float(multiclass_jaccard_index(found, true.long(), **options)),
            "mAcc": float(multiclass_accuracy(found, true.long(), average="macro", **options)),
            "aAcc": float(multiclass_accuracy(found, true.long(), average="micro", **options)),
        },
        abs=1e-6,
    )


def test_nothing_to_measure():
    evaluator = SemanticEvaluator(CLASSES)
    nothing, zeros = {"mIoU": -1.0, "mAcc": -1.0, "aAcc": -1.0}, torch.zeros(2, 2, dtype=torch.long)
    evaluator.update([zeros], [torch.full((2, 2), 255)])
    assert evaluator.compute() == nothing
    evaluator.update([zeros], [zeros])
    assert evaluator.compute()["mIoU"] == 1.0
    evaluator.reset()
    evaluator.update([torch.zeros(0, 2)], [torch.zeros(0, 2)])
    assert evaluator.compute() == nothing


def test_one_class():
    evaluator = SemanticEvaluator(["a"])
    evaluator.update([torch.zeros(2, 2, dtype=torch.long)], [torch.tensor([[0, 0], [0, 255]])])
    assert evaluator.per_class()[0]["pixels"] == 3
    assert evaluator.compute()["mIoU"] == 1.0


@pytest.mark.parametrize(
    ("found", "true", "message"),
    [
        (torch.zeros(2, 2), torch.full((2, 2), 4), "true labels from 4 to 4, expected 0 to 3 for 4 classes"),
        (torch.full((2, 2), 4), torch.zeros(2, 2), "predicted labels from 4"),
        (torch.full((2, 2), -1), torch.zeros(2, 2), "predicted labels from -1 to -1"),
        (torch.zeros(2, 2), torch.zeros(2, 3), r"shape \(2, 2\), true ones \(2, 3\)"),
    ],
)
def test_wrong_labels_are_refused(found, true, message):
    with pytest.raises(DataError, match=message):
        SemanticEvaluator(CLASSES).update([found.long()], [true.long()])
