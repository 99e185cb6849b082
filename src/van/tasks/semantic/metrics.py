"""How well class labels of pixels agree with the truth: intersection over union, accuracies, boundaries."""

import math

import numpy as np

from van.data.formats import IGNORED
from van.engine.metric import Metric

METRICS = (Metric("mIoU", "mIoU"), Metric("mAcc", "mean accuracy"), Metric("aAcc", "pixel accuracy"))


BOUNDARY = Metric("BF", "boundary F1")

TOLERANCE = 0.0075
"""Share of the image's diagonal by which boundaries may be apart (Csurka et al. 2013)."""


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


def boundary_scores(found: np.ndarray, true: np.ndarray) -> dict[int, float]:
    """Return the boundary F1 score of each class that an image has in the truth or in the predictions.

    That is BF of Csurka, Larlus and Perronnin, *What is a good evaluation measure for semantic segmentation?*, BMVC
    2013: of precision, the share of the predicted boundary that is within a distance of the true one, and recall, the
    same with both exchanged. The distance is 0.75 % of the image's diagonal. A boundary is what pixels of a class have
    a neighbor of another class above, below or beside them; those at ignored pixels and at the edge of the image do not
    count. Where a class has no boundary in either it scores 1, where it has one in only one of them 0.

    Args:
        found: Predicted labels, shape (H, W).
        true: True labels, shape (H, W); 255 for ignored pixels, which are ignored in the predictions too.
    """
    from scipy.spatial import KDTree

    most = TOLERANCE * math.hypot(*true.shape)
    found = np.where(true == IGNORED, IGNORED, found)
    maps = [np.where(_is_boundary(labels), labels, IGNORED) for labels in (found, true)]
    scores = {}
    for label in np.union1d(found, true).tolist():
        if label == IGNORED:
            continue
        ones, others = (np.argwhere(one == label) for one in maps)
        if not len(ones) or not len(others):
            scores[label] = float(len(ones) == len(others))
            continue
        trees = KDTree(ones), KDTree(others)
        near = [
            np.isfinite(tree.query(points, distance_upper_bound=np.nextafter(most, np.inf))[0]).mean()
            for tree, points in zip(trees, (others, ones), strict=True)
        ]
        scores[label] = float(2 * near[0] * near[1] / max(near[0] + near[1], 1e-12))
    return scores


def _is_boundary(labels: np.ndarray) -> np.ndarray:
    """Return which pixels of labels (H, W) have a neighbor of another class; 255 is none."""
    edge = np.zeros(labels.shape, bool)
    for ones, others in (
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ):
        differ = (labels[ones] != labels[others]) & (labels[ones] != IGNORED) & (labels[others] != IGNORED)
        edge[ones] |= differ
        edge[others] |= differ
    return edge
