"""How good a classifier is: accuracies, figures per class, confusion matrix."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import nn
from tqdm import tqdm

from van.errors import DataError


@dataclass
class ClassificationReport:
    """What a classifier answered on labelled images.

    Attributes:
        class_names: Name of each class number.
        labels: True class of each image, shape (N,).
        top: The most probable classes of each image, best first, shape (N, k), k = min(5, classes).
        confidence: Probability of the best class, shape (N,).
    """

    class_names: list[str]
    labels: np.ndarray
    top: np.ndarray
    confidence: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The best class of each image, shape (N,)."""
        return self.top[:, 0]

    @property
    def top1(self) -> float:
        """Share of images whose best class is right."""
        return float((self.predicted == self.labels).mean())

    @property
    def top5(self) -> float:
        """Share of images with the right class among the five best (all of them where there are fewer classes)."""
        return float((self.top == self.labels[:, None]).any(axis=1).mean())

    def confusion(self) -> np.ndarray:
        """Count images by true class (rows) and best class (columns), shape (classes, classes)."""
        return confusion_matrix(self.labels, self.predicted, labels=range(len(self.class_names)))

    def per_class(self) -> list[dict[str, Any]]:
        """Return name, images, precision, recall and F1 of each class; None where they are not defined."""
        numbers = range(len(self.class_names))
        precision, recall, f1, support = precision_recall_fscore_support(
            self.labels, self.predicted, labels=numbers, zero_division=cast(Any, np.nan)
        )
        columns = zip(self.class_names, support, precision, recall, f1, strict=True)  # type: ignore[arg-type]
        return [
            {
                "class": name,
                "images": int(count),
                **{
                    k: None if np.isnan(v) else round(float(v), 6)
                    for k, v in (("precision", p), ("recall", r), ("f1", f if count else np.nan))
                },
            }
            for name, count, p, r, f in columns
        ]

    def write(self, folder: Path) -> list[Path]:
        """Write evaluation.json and per_class.csv into an existing folder and return their paths."""
        rows = self.per_class()
        table = folder / "per_class.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        summary = folder / "evaluation.json"
        content = {"images": len(self.labels), "top1": self.top1, "top5": self.top5, "per_class": rows}
        summary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return [summary, table]


@torch.inference_mode()
def evaluate_classifier(
    model: nn.Module, batches: Iterable[Any], class_names: list[str], device: torch.device | str, progress: bool = True
) -> ClassificationReport:
    """Run a classifier over labelled batches.

    Args:
        model: Maps (B, C, H, W) to logits (B, classes); put into evaluation mode.
        batches: Pairs of images (B, C, H, W) and labels (B,), such as a DataLoader.
        class_names: Name of each class number.
        device: Where to compute.
        progress: Whether to show a progress bar.

    Raises:
        DataError: there are no batches.
    """
    model = model.to(device).eval()
    labels, top, confidence = [], [], []
    for images, target in tqdm(batches, desc="Evaluating", unit=" batches", disable=not progress):
        probabilities = model(images.to(device)).float().softmax(dim=1)
        best = probabilities.topk(min(5, probabilities.shape[1]), dim=1)
        labels.append(target.numpy())
        top.append(best.indices.cpu().numpy())
        confidence.append(best.values[:, 0].cpu().numpy())
    if not labels:
        raise DataError("There are no images to measure the model on. Check the data.")
    return ClassificationReport(class_names, np.concatenate(labels), np.concatenate(top), np.concatenate(confidence))
