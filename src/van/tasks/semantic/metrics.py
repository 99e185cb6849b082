"""How well class labels of pixels agree with the truth: intersection over union and accuracies."""

import numpy as np

from van.engine.metric import Metric

METRICS = (Metric("mIoU", "mIoU"), Metric("mAcc", "mean accuracy"), Metric("aAcc", "pixel accuracy"))


def class_values(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return IoU and accuracy of each class, -1 where they are not defined.

    Args:
        confusion: Pixels by true class (rows) and predicted class (columns), shape (K, K).
    """
    right, true, found = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    union = true + found - right
    ious = np.where(union > 0, right / np.maximum(union, 1), -1.0)
    return ious, np.where(true > 0, right / np.maximum(true, 1), -1.0)


def mean_values(confusion: np.ndarray) -> dict[str, float]:
    """Return mIoU, mAcc (mean accuracy of the classes) and aAcc (accuracy of all pixels) from 0 to 1.

    As in OpenMMLab, mIoU leaves out classes that occur neither in the truth nor in the predictions, and mAcc those that
    do not occur in the truth. -1 where there is nothing to measure.

    Args:
        confusion: Pixels by true class (rows) and predicted class (columns), shape (K, K).
    """
    total = int(confusion.sum())
    overall = float(np.trace(confusion) / total) if total else -1.0
    means = [
        float(defined.mean()) if len(defined := values[values >= 0]) else -1.0 for values in class_values(confusion)
    ]
    return {metric.key: value for metric, value in zip(METRICS, [*means, overall], strict=True)}
