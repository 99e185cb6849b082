"""IoU, accuracies and boundary scores of labels of pixels."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from van.data.formats import IGNORED
from van.errors import DataError
from van.tasks.semantic.evaluation import SemanticEvaluator
from van.tasks.semantic.metrics import boundary_scores

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


# ------------------------------------------------------------------------------------------------ boundaries


def scene(seed, size=(90, 120), classes=4):
    """Labels of large smooth regions."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(classes, 6, 8))
    fine = np.stack([np.kron(one, np.ones((size[0] // 6, size[1] // 8))) for one in coarse])
    return gaussian_filter(fine, (0, 4, 4)).argmax(0).astype(np.uint8)


def test_boundary_score_is_that_of_the_definition():
    true, found = scene(1), scene(1)
    found = np.roll(found, (1, 1), (0, 1))
    found[20:30, 40:60] = 3
    true[:9] = IGNORED
    expected = {}
    masked = np.where(true == IGNORED, IGNORED, found)
    distance = 0.0075 * np.hypot(90, 120)
    for label in range(4):
        if not ((masked == label) | (true == label)).any():
            continue
        points = []
        for labels in (masked, true):
            inside = [
                (y, x)
                for y, x in np.argwhere(labels == label)
                if any(
                    0 <= y + dy < 90 and 0 <= x + dx < 120 and labels[y + dy, x + dx] not in (label, IGNORED)
                    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
                )
            ]
            points.append(np.array(inside, float).reshape(-1, 1, 2))
        apart = np.linalg.norm(points[0] - points[1].transpose(1, 0, 2), axis=2)
        precision, recall = (apart.min(1) <= distance).mean(), (apart.min(0) <= distance).mean()
        expected[label] = 2 * precision * recall / (precision + recall)
    scores = boundary_scores(found, true)
    assert scores == pytest.approx(expected, abs=1e-12)
    assert 0.2 < min(scores.values()) < 1


def test_boundary_scores_by_hand():
    half = np.zeros((100, 100), np.uint8)
    half[:, 50:] = 1
    assert boundary_scores(half, half) == {0: 1.0, 1: 1.0}
    shifted = np.roll(half, 1, axis=1)
    shifted[:, 0] = 0  # 1 pixel away, and 1.06 are allowed
    assert boundary_scores(shifted, half) == {0: 1.0, 1: 1.0}
    further = np.zeros((100, 100), np.uint8)
    further[:, 52:] = 1
    assert boundary_scores(further, half) == {0: 0.0, 1: 0.0}
    plain = np.zeros((100, 100), np.uint8)
    assert boundary_scores(plain, plain) == {0: 1.0}  # no boundary in either
    assert boundary_scores(plain, half) == {0: 0.0, 1: 0.0}
    hidden = half.copy()
    hidden[:, 45:55] = IGNORED  # the boundary lies where nothing counts
    assert boundary_scores(further, hidden) == {0: 1.0, 1: 1.0}
    assert boundary_scores(half, np.full((100, 100), IGNORED, np.uint8)) == {}


def test_boundary_scores_add_up_over_processes():
    pairs = [(scene(i), scene(i + 100 * (i % 2))) for i in range(6)]
    whole, *parts = (SemanticEvaluator("abcde", boundaries=True) for _ in range(3))
    for number, (found, true) in enumerate(pairs):
        for evaluator in (whole, parts[number % 2]):
            evaluator.update([torch.from_numpy(found)], [torch.from_numpy(true)])
    one, other = parts
    one.sums += other.sums  # as torchmetrics does between processes
    one.confusion += other.confusion
    assert one.compute() == pytest.approx(whole.compute(), abs=1e-12)
    assert 0 < whole.compute()["BF"] < 1
    images = [np.mean(list(boundary_scores(*pair).values())) for pair in pairs]
    assert whole.compute()["BF"] == pytest.approx(np.mean(images))
    rows = whole.per_class()
    assert rows[4]["BF"] is None
    assert all(0 <= row["BF"] <= 1 for row in rows[:4])
