"""How well labels of pixels agree with the truth: intersection over union and accuracies."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torchmetrics.functional.classification import multiclass_confusion_matrix

from van.errors import DataError

IGNORED = 255
FIGURES = ("mIoU", "mAcc", "aAcc")


def gathered(value: Any) -> list[Any]:
    """Return the values of all processes; every process has to ask. Without torch.distributed the value alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


class SemanticEvaluator:
    """Counts pixels by true and predicted label, batch by batch.

    Args:
        class_names: Names in the order of the labels.
        ignore_index: Label of pixels that do not count.
    """

    def __init__(self, class_names: Sequence[str], ignore_index: int = IGNORED) -> None:
        self.class_names = list(class_names)
        self.ignore_index = ignore_index
        self._counts: torch.Tensor | None = None

    def reset(self) -> None:
        """Forget everything."""
        self._counts = None

    def update(
        self, predictions: torch.Tensor | Sequence[torch.Tensor], targets: torch.Tensor | Sequence[torch.Tensor]
    ) -> None:
        """Add some images. Counting is done where the predictions are.

        Args:
            predictions: Labels (H, W), (B, H, W), or a sequence of such.
            targets: True labels of the same shapes.

        Raises:
            DataError: shapes differ, or a label is no class.
        """
        if not isinstance(predictions, torch.Tensor) or not isinstance(targets, torch.Tensor):
            for prediction, target in zip(predictions, targets, strict=True):
                self.update(torch.as_tensor(prediction), torch.as_tensor(target))
            return
        if predictions.shape != targets.shape:
            raise DataError(
                f"Predicted labels have the shape {tuple(predictions.shape)}, true ones {tuple(targets.shape)}."
            )
        number = len(self.class_names)
        found = predictions.as_subclass(torch.Tensor).flatten().long()
        true = targets.as_subclass(torch.Tensor).flatten().to(found)
        if not len(found):
            return
        for name, labels in (("predicted", found), ("true", true.where(true != self.ignore_index, 0))):
            least, most = int(labels.min()), int(labels.max())
            if not 0 <= least <= most < number:
                raise DataError(
                    f"There are {name} labels from {least} to {most}, expected 0 to {number - 1} for {number} classes."
                )
        # one class more for pixels that do not count: taking them out would last longer than counting
        true = true.where(true != self.ignore_index, number)
        counts = multiclass_confusion_matrix(found, true, number + 1, validate_args=False)[:number, :number]
        self._counts = counts if self._counts is None else self._counts.to(counts) + counts

    @property
    def confusion(self) -> np.ndarray:
        """Pixels (K, K) by true label, then predicted label; with several processes all of theirs, so all must ask."""
        number = len(self.class_names)
        own = np.zeros((number, number), np.int64) if self._counts is None else self._counts.cpu().numpy()
        return np.sum(gathered(own), axis=0)

    def compute(self) -> dict[str, float]:
        """Return mIoU, mAcc (mean of the classes' accuracies) and aAcc (share of all pixels) as shares of 1.

        As in OpenMMLab, classes that occur neither in the truth nor in the predictions have no part in mIoU, and those
        that do not occur in the truth none in mAcc. -1 where there is nothing to measure.
        """
        confusion = self.confusion
        ious, accuracies = _shares(confusion)
        total = int(confusion.sum())
        overall = np.trace(confusion) / total if total else -1.0
        means = [float(part.mean()) if len(part := values[values >= 0]) else -1.0 for values in (ious, accuracies)]
        return dict(zip(FIGURES, [*means, float(overall)], strict=True))

    def per_class(self) -> list[dict[str, Any]]:
        """Return name, number of pixels, IoU and accuracy of each class; None where they are not defined."""
        confusion = self.confusion
        rows = zip(self.class_names, confusion.sum(1).tolist(), *_shares(confusion), strict=True)
        return [
            {"class": name, "pixels": pixels, "IoU": _rounded(iou), "accuracy": _rounded(accuracy)}
            for name, pixels, iou, accuracy in rows
        ]


def _shares(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return IoU and accuracy of each class, -1 where they are not defined."""
    right, true, found = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    union = true + found - right
    ious = np.where(union > 0, right / np.maximum(union, 1), -1.0)
    return ious, np.where(true > 0, right / np.maximum(true, 1), -1.0)


def _rounded(value: float) -> float | None:
    return round(float(value), 6) if value >= 0 else None
