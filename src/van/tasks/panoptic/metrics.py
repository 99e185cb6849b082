"""Panoptic quality as COCO defines it (Kirillov et al. 2019, arXiv 1801.00868)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from van.analysis.semantic_measures import gathered
from van.errors import DataError

FIGURES = tuple(f"{name}{part}" for part in ("", "_things", "_stuff") for name in ("PQ", "SQ", "RQ"))


class PanopticEvaluator:
    """Matches segments with the true ones, image by image.

    A predicted and a true segment of one class match if their intersection is more than half of their union, without
    the pixels that have no true segment. A predicted segment that is left does not count if more than half of it has
    no true segment or lies in crowd regions of its class. Crowd regions are never missed.

    Args:
        class_names: Names in the order of the labels.
        things: Labels of countable classes; the others are stuff.
    """

    def __init__(self, class_names: Sequence[str], things: Sequence[int] | set[int]) -> None:
        self.class_names = list(class_names)
        self.isthing = np.isin(np.arange(len(self.class_names)), list(things))
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._sums = np.zeros((len(self.class_names), 4))  # IoU of matches, matches, false, missed

    def update(self, outputs: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add some images.

        Args:
            outputs: For each image segmentation (H, W), the number of the segment or 0, and segments, mappings with id
                (that number) and label.
            targets: The same of the true segments, with iscrowd where they are crowd regions.

        Raises:
            DataError: sizes differ, a pixel has a number that no segment has, or a label is no class.
        """
        for output, target in zip(outputs, targets, strict=True):
            self._add(*self._dense(output), *self._dense(target))

    def _dense(self, image: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the map of places in the list of segments, from 1, the label of each, and whether it is a crowd."""
        given = image["segmentation"]
        ids = np.asarray(given.cpu() if isinstance(given, torch.Tensor) else given).astype(np.int64)
        segments = image["segments"]
        labels = np.array([segment["label"] for segment in segments], np.int64)
        crowd = np.array([bool(segment.get("iscrowd")) for segment in segments], bool)
        if ((labels < 0) | (labels >= len(self.class_names))).any():
            raise DataError(f"Segments have the labels {labels.tolist()}, expected 0 to {len(self.class_names) - 1}.")
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

    def _add(
        self,
        found: np.ndarray,
        labels: np.ndarray,
        _: np.ndarray,
        true: np.ndarray,
        true_labels: np.ndarray,
        crowd: np.ndarray,
    ) -> None:
        if found.shape != true.shape:
            raise DataError(f"Predicted segments have the size {found.shape}, true ones {true.shape}.")
        rows, columns = len(true_labels) + 1, len(labels) + 1
        shared = np.bincount((true * columns + found).ravel(), minlength=rows * columns).reshape(rows, columns)
        areas, true_areas = shared.sum(0)[1:], shared.sum(1)[1:]
        nothing, shared = shared[0, 1:], shared[1:, 1:]  # pixels without a true segment; those of two segments

        union = true_areas[:, None] + areas - shared - nothing
        same = true_labels[:, None] == labels
        # at most one for each segment, as more than half is shared
        matches = same & ~crowd[:, None] & (2 * shared > union)
        pairs = np.nonzero(matches)
        ious, right, wrong, lost = self._sums.T  # views
        np.add.at(ious, true_labels[pairs[0]], shared[pairs] / union[pairs])
        np.add.at(right, true_labels[pairs[0]], 1)

        excused = nothing + (shared * (same & crowd[:, None])).sum(0)
        false = ~matches.any(0) & (areas > 0) & (2 * excused <= areas)
        missed = ~matches.any(1) & (true_areas > 0) & ~crowd
        np.add.at(wrong, labels[false], 1)
        np.add.at(lost, true_labels[missed], 1)

    def _gathered(self) -> np.ndarray:
        return np.sum(gathered(self._sums), axis=0)

    def compute(self) -> dict[str, float]:
        """Return PQ, SQ and RQ of all classes, then with _things and with _stuff behind their names.

        Shares of 1, means of the classes that occur in truth or predictions; -1 where none does.
        """
        sums = self._gathered()
        qualities, occurs = _qualities(sums)
        values: list[float] = []
        for chosen in (occurs, occurs & self.isthing, occurs & ~self.isthing):
            values += qualities[chosen].mean(0).tolist() if chosen.any() else [-1.0] * 3
        return dict(zip(FIGURES, values, strict=True))

    def per_class(self) -> list[dict[str, Any]]:
        """Return name, isthing, number of true segments, PQ, SQ and RQ of each class; None where there is nothing."""
        sums = self._gathered()
        qualities, occurs = _qualities(sums)
        rows = []
        for i, name in enumerate(self.class_names):
            figures = [round(value, 6) if occurs[i] else None for value in qualities[i].tolist()]
            row = {"class": name, "isthing": bool(self.isthing[i]), "segments": int(sums[i, 1] + sums[i, 3])}
            rows.append(row | dict(zip(("PQ", "SQ", "RQ"), figures, strict=True)))
        return rows


def _qualities(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return PQ, SQ, RQ (K, 3) and which classes occur (K,)."""
    ious, right, false, missed = sums.T
    total = right + (false + missed) / 2
    occurs = total > 0
    total = np.where(occurs, total, 1)
    return np.stack([ious / total, ious / np.maximum(right, 1), right / total], axis=1), occurs
