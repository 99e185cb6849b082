"""How good a classifier is that finds any number of classes: average precision, F1, and thresholds."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import precision_recall_curve
from torchmetrics.functional.classification import binary_average_precision

from van.engine.predictor import Predictor
from van.tasks.classification.evaluation import ERRORS, GatheredEvaluation
from van.tasks.classification.gathered import Gathered
from van.tasks.classification.metrics import MULTI_LABEL
from van.tasks.classification.targets import MultiLabel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = np.linspace(0, 1, 101)  # of recall, on curves


def average_precisions(probabilities: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Return the average precision of each class, (classes,); NaN of classes that are on no image.

    Args:
        probabilities: Of each image and class, (N, classes).
        truth: 1 where the class is there, else 0, (N, classes).
    """
    return np.array(
        [
            float(binary_average_precision(p, t.int())) if t.any() else np.nan
            for p, t in zip(probabilities.T, truth.T, strict=True)
        ]
    )


def f1_scores(found: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """Return F1 over all decisions together (micro), and of each class, NaN of classes that are on no image.

    Args:
        found: Whether each class was found on each image, bool (N, classes).
        truth: Whether it is there, bool (N, classes).
    """
    right, both = (found & truth).sum(axis=0), found.sum(axis=0) + truth.sum(axis=0)
    each = np.divide(2.0 * right, both, out=np.full(len(both), np.nan), where=truth.any(axis=0))
    return float(2 * right.sum() / max(1, both.sum())), each


def best_thresholds(probabilities: np.ndarray, truth: np.ndarray) -> list[float]:
    """Return the threshold of each class with the highest F1; 0.5 for classes that are on no image.

    A threshold lies in the middle between the last probability that counts and the next lower one.

    Args:
        probabilities: Of each image and class, (N, classes).
        truth: Whether it is there, bool (N, classes).
    """
    chosen = []
    for p, t in zip(probabilities.T, truth.T, strict=True):
        if not t.any():
            chosen.append(0.5)
            continue
        precision, recall, places = precision_recall_curve(t, p)
        sums = precision + recall
        f1 = np.divide(2 * precision * recall, sums, out=np.zeros(len(sums)), where=sums > 0)[:-1]
        best = len(f1) - 1 - int(f1[::-1].argmax())  # of equal ones the highest
        chosen.append(float((places[best] + (places[best - 1] if best else 0.0)) / 2))
    return chosen


class MultiLabelEvaluator(Gathered):
    """mAP and F1 over all processes.

    Args:
        num_classes: Number of classes.
        thresholds: Of each class, for F1; None takes 0.5.
    """

    metrics = MULTI_LABEL

    def __init__(self, num_classes: int, thresholds: list[float] | None = None) -> None:
        super().__init__(num_classes)
        self.thresholds = thresholds or [0.5] * num_classes

    def compute(self) -> dict[str, float]:
        """Return mAP and F1 by key; means are over the classes that are on any image."""
        probabilities, truth = self.arrays()
        micro, each = f1_scores(probabilities.numpy() >= np.array(self.thresholds), truth.numpy() > 0.5)
        precisions = average_precisions(probabilities, truth)
        there = ~np.isnan(precisions)
        means = [float(values[there].mean()) if there.any() else 0.0 for values in (precisions, each)]
        return dict(zip((metric.key for metric in MULTI_LABEL), (means[0], micro, means[1]), strict=True))


class MultiLabelEvaluation(GatheredEvaluation):
    """Average precision and F1 of each class, precision-recall curves and a sheet of predictions.

    Where the weights have no thresholds yet, those with the highest F1 on these images are taken, and go into the
    weight file.

    Attributes:
        probabilities: Of each image and class, (N, classes).
        truth: Whether the class is there, bool (N, classes).
        thresholds: Of each class.
    """

    columns = ("images", "AP", "precision", "recall", "f1", "threshold")

    def __init__(self, predictor: Predictor, split: Any, workers: int, target: MultiLabel) -> None:
        super().__init__(predictor, split, workers, MultiLabelEvaluator(len(target.names)), MULTI_LABEL, target)
        self.target: MultiLabel = target

    def compute(self) -> dict[str, float]:
        """Return mAP and F1 by key; see Evaluation."""
        self.probabilities, truth = (part.numpy() for part in self.evaluator.arrays())
        self.truth = truth > 0.5
        inference = self.predictor.inference
        if self.target.thresholds is None and inference.score_threshold is None:
            self.target.thresholds = best_thresholds(self.probabilities, self.truth)
            self.extra = self.target.extra()
        self.thresholds = self.evaluator.thresholds = self.target.used_thresholds(inference)
        self.found = self.probabilities >= np.array(self.thresholds)
        return super().compute()

    def per_class(self) -> list[dict[str, Any]]:
        """Return name, images, AP, precision, recall, F1 and threshold of each class; None where undefined."""
        precisions = average_precisions(*map(torch.from_numpy, (self.probabilities, self.truth)))
        f1 = f1_scores(self.found, self.truth)[1]
        rows = []
        for k, name in enumerate(self.target.names):
            right, found, there = (
                int(part.sum()) for part in (self.found[:, k] & self.truth[:, k], self.found[:, k], self.truth[:, k])
            )
            values = {
                "AP": precisions[k],
                "precision": right / found if found else np.nan,
                "recall": right / there if there else np.nan,
                "f1": f1[k],
                "threshold": self.thresholds[k],
            }
            rounded = {key: None if np.isnan(value) else round(float(value), 6) for key, value in values.items()}
            rows.append({"class": name, "images": there, **rounded})
        return rows

    def write(self, folder: Path) -> list[str]:
        """Write the most confident errors: classes that were found but are not there, or the other way round."""
        wrong = np.argwhere(self.found != self.truth)
        distance = np.abs(self.probabilities - np.array(self.thresholds))[self.found != self.truth]
        with (folder / "errors.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "class", "error", "probability"])
            for i, k in wrong[np.argsort(-distance, kind="stable")][:ERRORS].tolist():
                what = "found, but not there" if self.found[i, k] else "there, but not found"
                probability = round(float(self.probabilities[i, k]), 6)
                writer.writerow([self.split.name(i), self.target.names[k], what, probability])
        return ["errors.csv"]

    def plots(self, values: Mapping[str, float], title: str) -> "dict[str, Figure]":
        """Return precision-recall curves and a sheet of predictions."""
        from van.engine.plots import class_curves

        rows = np.full((len(self.target.names), len(_POINTS)), np.nan)
        for k in np.flatnonzero(self.truth.any(axis=0)).tolist():
            precision, recall, _ = precision_recall_curve(self.truth[:, k], self.probabilities[:, k])
            highest = np.maximum.accumulate(precision)  # at this recall or a higher one
            rows[k] = np.interp(_POINTS, recall[::-1], highest[::-1])
        line = f"{title}: {self.metrics[0].label} {self.metrics[0].text(values['mAP'])}"
        curves = class_curves(_POINTS, rows, self.target.names, line, ("recall", "precision"))
        return {"precision_recall": curves, "predictions": self._sheet(title)}

    def _sheet(self, title: str) -> "Figure":
        """Draw some of the images, those with the most errors first, with what was found and what is there."""
        errors = (self.found != self.truth).sum(axis=1)

        def named(row: np.ndarray) -> str:
            return ", ".join(self.target.names[k] for k in np.flatnonzero(row)) or "none"

        captions = {
            i: named(self.found[i]) + (f"\ntrue: {named(self.truth[i])}" if errors[i] else "")
            for i in self.shown(errors)
        }
        wrong = int((errors > 0).sum())
        return self.sheet(captions, errors > 0, f"{title}: {wrong} of {len(errors)} images have an error")
