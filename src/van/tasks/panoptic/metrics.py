"""Panoptic quality as COCO defines it (Kirillov et al. 2019, arXiv 1801.00868)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from van.engine.metric import Metric
from van.errors import DataError

METRICS = tuple(
    Metric(f"{name}{suffix}", f"{name}{group}")
    for suffix, group in (("", ""), ("_things", " of things"), ("_stuff", " of stuff"))
    for name in ("PQ", "SQ", "RQ")
)


def dense_segments(image: Mapping[str, Any], num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the segments of an image with numbers that follow each other.

    Args:
        image: segmentation (H, W), the id of the segment or 0, and segments, mappings with id, label and perhaps
            iscrowd.
        num_classes: Number of classes.

    Returns:
        For each pixel the place of its segment in the list, from 1, or 0, shape (H, W); label of each segment; whether
        it is a crowd region.

    Raises:
        DataError: a pixel has an id that no segment has, or a label is no class.
    """
    ids = np.asarray(image["segmentation"]).astype(np.int64)
    segments = image["segments"]
    labels = np.array([segment["label"] for segment in segments], np.int64)
    crowd = np.array([bool(segment.get("iscrowd")) for segment in segments], bool)
    if ((labels < 0) | (labels >= num_classes)).any():
        raise DataError(f"Segments have the labels {labels.tolist()}, expected 0 to {num_classes - 1}.")
    known = np.array([0] + [segment["id"] for segment in segments], np.int64)
    if np.array_equal(known, np.arange(len(known))):
        places, right = ids, (ids >= 0) & (ids < len(known))
    else:
        order = known.argsort(kind="stable")
        places = order[np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)]
        right = known[places] == ids
    if not right.all():
        raise DataError(f"There are pixels of segment {ids[~right][0]}, which is not among the segments.")
    return places, labels, crowd


def compared(output: Mapping[str, Any], target: Mapping[str, Any], num_classes: int) -> np.ndarray:
    """Match the segments of an image with the true ones.

    A predicted and a true segment of one class match if their intersection is more than half of their union, without
    the pixels that have no true segment. A predicted segment without a match does not count if more than half of it has
    no true segment or lies in crowd regions of its class. Crowd regions are never missed.

    Args:
        output: Predicted segments; see dense_segments.
        target: True segments.
        num_classes: Number of classes.

    Returns:
        For each class the sum of the IoU of matches, and the numbers of matches, false and missed segments: (K, 4).

    Raises:
        DataError: sizes differ, a pixel has an id that no segment has, or a label is no class.
    """
    found, labels, _ = dense_segments(output, num_classes)
    true, true_labels, crowd = dense_segments(target, num_classes)
    if found.shape != true.shape:
        raise DataError(f"Predicted segments have shape {found.shape}, true ones {true.shape}, expected the same.")
    rows, columns = len(true_labels) + 1, len(labels) + 1
    shared = np.bincount((true * columns + found).ravel(), minlength=rows * columns).reshape(rows, columns)
    areas, true_areas = shared.sum(0)[1:], shared.sum(1)[1:]
    nothing, shared = shared[0, 1:], shared[1:, 1:]  # pixels without a true segment; those of two segments

    union = true_areas[:, None] + areas - shared - nothing
    same = true_labels[:, None] == labels
    # at most one for each segment, as more than half is shared
    matches = same & ~crowd[:, None] & (2 * shared > union)
    pairs = np.nonzero(matches)
    excused = nothing + (shared * (same & crowd[:, None])).sum(0)
    false = ~matches.any(0) & (areas > 0) & (2 * excused <= areas)
    missed = ~matches.any(1) & (true_areas > 0) & ~crowd

    sums = np.zeros((num_classes, 4))
    np.add.at(sums[:, 0], true_labels[pairs[0]], shared[pairs] / union[pairs])
    np.add.at(sums[:, 1], true_labels[pairs[0]], 1)
    np.add.at(sums[:, 2], labels[false], 1)
    np.add.at(sums[:, 3], true_labels[missed], 1)
    return sums


def qualities(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return PQ, SQ and RQ of each class, (K, 3), from 0 to 1, and which classes occur in truth or predictions, (K,).

    Args:
        sums: Those of all images; see compared.
    """
    ious, right, false, missed = sums.T
    total = right + (false + missed) / 2
    occurs = total > 0
    total = np.where(occurs, total, 1)
    return np.stack([ious / total, ious / np.maximum(right, 1), right / total], axis=1), occurs


def mean_qualities(sums: np.ndarray, isthing: Sequence[bool] | np.ndarray) -> dict[str, float]:
    """Return PQ, SQ and RQ of all classes, then of things and of stuff; -1 where no such class occurs.

    Args:
        sums: Those of all images; see compared.
        isthing: Whether each class is countable.
    """
    each, occurs = qualities(sums)
    things = np.asarray(isthing, bool)
    values: list[float] = []
    for chosen in (occurs, occurs & things, occurs & ~things):
        values += each[chosen].mean(0).tolist() if chosen.any() else [-1.0] * 3
    return {metric.key: value for metric, value in zip(METRICS, values, strict=True)}
