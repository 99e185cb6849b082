"""What goes wrong in detection: error types after TIDE, F1 by threshold, confusion matrix, worst images."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from van.engine.coco import ImageOverlaps

TYPES = {
    "cls": "right place, wrong class",
    "loc": "right class, badly placed",
    "both": "wrong class and badly placed",
    "dupe": "object found before",
    "bkg": "no object there",
    "miss": "object not found",
}
"""Error types of TIDE (Bolya et al., 2020, arXiv 2008.08115, section 2.2) and what they mean."""

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU from which boxes agree, and up to which there is nothing (the paper's)
GRID = np.linspace(0, 1, 1001)
"""Score thresholds that F1 is computed at."""

_RECALLS = np.linspace(0, 1, 101)  # COCO's


class DetectionErrors:
    """Detections and objects of a data set, each detection either correct at an IoU of 0.5 or of one error type.

    Args:
        images: Detections and objects of each image, with their overlaps.
        category_ids: Categories of the data, in the order of the rows and columns of what is returned.

    Attributes:
        labels: Class of each detection, shape (N,).
        scores: Its score, shape (N,).
        kinds: "correct" or its error type, shape (N,).
        objects: Number of objects of each class, shape (classes,).
    """

    def __init__(self, images: Iterable[ImageOverlaps], category_ids: Sequence[int]) -> None:
        self._place = {number: k for k, number in enumerate(category_ids)}
        self.images = list(images)
        self.objects = np.zeros(len(category_ids), dtype=int)
        self.missed: list[int] = []  # classes of the objects that no detection comes near
        labels, scores, kinds, repaired = [], [], [], []
        for image in self.images:
            one = _sorted_out(image)
            true = [self._place[int(number)] for number in image.true]
            np.add.at(self.objects, true, 1)
            self.missed += [true[g] for g in one.missed]
            for d, kind in one.kinds.items():
                labels.append(self._place[int(image.found[d])])
                scores.append(float(image.scores[d]))
                kinds.append(kind)
                # class that the detection is right for once its error is fixed; -1 where it is then left out
                repaired.append(true[one.repairs[d]] if d in one.repairs else -1)
        self.labels, self.scores = np.array(labels, dtype=int), np.array(scores, dtype=float)
        self.kinds, self._repaired = np.array(kinds, dtype="<U7"), np.array(repaired, dtype=int)

    def ap50(self, fixed: str = "") -> float:
        """Return AP at an IoU of 0.5, mean over the classes with objects, -1 without any.

        Args:
            fixed: Error type to fix before: `cls` and `loc` errors turn into correct detections, if the object has no
                better one, else they are left out like `both`, `dupe` and `bkg`; objects of `miss` are left out.
        """
        labels, correct, objects = self.labels.copy(), self.kinds == "correct", self.objects.copy()
        kept = np.ones(len(labels), dtype=bool)
        if fixed == "miss":
            np.subtract.at(objects, self.missed, 1)
        elif fixed:
            chosen = self.kinds == fixed
            kept = ~chosen | (self._repaired >= 0)
            labels = np.where(chosen & kept, self._repaired, labels)
            correct = correct | (chosen & kept)
        values = []
        for k in np.flatnonzero(self.objects):
            mine = kept & (labels == k)
            if objects[k] or mine.any():  # a class of which nothing is left has no AP
                values.append(float(_precisions(self.scores[mine], correct[mine], objects[k]).mean()))
        return float(np.mean(values)) if values else -1.0

    def types(self) -> list[dict[str, Any]]:
        """Return type, count and dAP50 of each error type: by how much AP50 rises if only those errors are fixed."""
        before = self.ap50()
        rows = []
        for kind in TYPES:
            count = len(self.missed) if kind == "miss" else int((self.kinds == kind).sum())
            rows.append({"type": kind, "count": count, "dAP50": round(max(0.0, self.ap50(kind) - before), 6)})
        return rows

    def precision(self) -> np.ndarray:
        """Return COCO's precision of each class at recalls 0, 0.01, ... 1; NaN without objects, (classes, 101)."""
        rows = np.full((len(self.objects), len(_RECALLS)), np.nan)
        for k in np.flatnonzero(self.objects):
            mine = self.labels == k
            rows[k] = _precisions(self.scores[mine], self.kinds[mine] == "correct", self.objects[k])
        return rows

    def f1(self) -> np.ndarray:
        """Return F1 of each class at the thresholds of GRID; NaN without objects, shape (classes, 1001)."""
        rows = np.full((len(self.objects), len(GRID)), np.nan)
        for k in np.flatnonzero(self.objects):
            mine = self.labels == k
            scores, right = np.sort(self.scores[mine]), np.sort(self.scores[mine & (self.kinds == "correct")])
            # detections with a score of the threshold or more
            kept, correct = (len(part) - np.searchsorted(part, GRID) for part in (scores, right))
            rows[k] = 2 * correct / (kept + self.objects[k])
        return rows

    def best(self) -> dict[str, float]:
        """Return the threshold with the highest F1, mean over the classes with objects, and that F1; {} without any."""
        if not self.objects.any():
            return {}
        mean = np.nanmean(self.f1(), axis=0)
        # the middle of equally good thresholds is the safest
        places = np.flatnonzero(mean >= mean.max() - 1e-12)
        run = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)[0]
        place = int(run[len(run) // 2])
        return {"threshold": round(float(GRID[place]), 3), "F1": round(float(mean[place]), 6)}

    def confusion(self, threshold: float) -> np.ndarray:
        """Count objects by true class (rows) and found class (columns), shape (classes + 1, classes + 1).

        Objects and detections are paired by IoU, the largest first, from 0.5 on, whatever their class. The last row has
        detections without an object, the last column objects without a detection.

        Args:
            threshold: Least score of the detections.
        """
        size = len(self.objects)
        matrix = np.zeros((size + 1, size + 1), dtype=int)
        for image in self.images:
            pairs = _paired(image, threshold)
            for d, g in pairs.items():
                column = self._place[int(image.found[d])]
                matrix[size if g is None else self._place[int(image.true[g])], column] += 1
            for g in set(range(len(image.true))) - set(pairs.values()):
                matrix[self._place[int(image.true[g])], size] += 1
        return matrix

    def worst(self, threshold: float) -> list[dict[str, Any]]:
        """Return image_id, objects, correct, wrong_class, missed and false of images with errors, the worst first.

        Args:
            threshold: Least score of the detections.
        """
        rows = []
        for image in self.images:
            pairs = _paired(image, threshold)
            hits = [(d, g) for d, g in pairs.items() if g is not None]
            correct = sum(image.found[d] == image.true[g] for d, g in hits)
            rows.append(
                {
                    "image_id": image.image_id, "objects": len(image.true), "correct": int(correct),
                    "wrong_class": len(hits) - int(correct), "missed": len(image.true) - len(hits),
                    "false": len(pairs) - len(hits),
                }
            )  # fmt: skip
        wrong = [row for row in rows if row["wrong_class"] + row["missed"] + row["false"]]
        return sorted(wrong, key=lambda row: -(row["wrong_class"] + row["missed"] + row["false"]))


class _SortedOut:
    """What the detections of one image are, by number; ignored ones are absent."""

    def __init__(self) -> None:
        self.kinds: dict[int, str] = {}
        self.repairs: dict[int, int] = {}  # object that a cls or loc error is right for once it is fixed
        self.missed: list[int] = []


def _sorted_out(image: ImageOverlaps) -> _SortedOut:
    """Tell correct detections from errors, in the order of the paper's implementation."""
    same = image.found[:, None] == image.true[None, :]
    own, other = image.ious * same, image.ious * ~same
    user: dict[int, int] = {}  # detection that an object is matched with
    one = _SortedOut()
    for d in range(len(image.found)):
        free = [g for g in range(len(image.true)) if g not in user and own[d, g] >= FOREGROUND]
        if free:
            user[max(free, key=lambda g: own[d, g])] = d
            one.kinds[d] = "correct"
    near: set[int] = set()
    for d in range(len(image.found)):
        if d in one.kinds or image.ignored[d]:
            continue
        best_own, best_other = own[d].max(initial=0), other[d].max(initial=0)
        target = None
        if BACKGROUND <= best_own < FOREGROUND:
            one.kinds[d], target = "loc", int(own[d].argmax())
        elif best_other >= FOREGROUND:
            one.kinds[d], target = "cls", int(other[d].argmax())
        elif best_own >= FOREGROUND:
            one.kinds[d] = "dupe"
        else:
            one.kinds[d] = "bkg" if max(best_own, best_other) <= BACKGROUND else "both"
        # detections come best first: the first one near an object takes it
        if target is not None and target not in user and target not in near:
            near.add(target)
            one.repairs[d] = target
    one.missed = [g for g in range(len(image.true)) if g not in user and g not in near]
    return one


def _precisions(scores: np.ndarray, correct: np.ndarray, objects: int) -> np.ndarray:
    """Return COCO's interpolated precision at 101 recalls, shape (101,)."""
    if not objects or not len(scores):
        return np.zeros(len(_RECALLS))
    right = np.cumsum(correct[np.argsort(-scores, kind="stable")])
    precision = right / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / objects, _RECALLS, side="left")
    return np.append(precision, 0.0)[places]


def _paired(image: ImageOverlaps, threshold: float) -> dict[int, int | None]:
    """Return the object of each detection above a threshold, None where it has none; ignored ones are left out."""
    ious = np.where(image.scores[:, None] >= threshold, image.ious, 0.0)
    pairs: dict[int, int | None] = {}
    taken: set[int] = set()
    for flat in np.argsort(-ious, axis=None, kind="stable"):
        d, g = divmod(int(flat), ious.shape[1])
        if ious[d, g] < FOREGROUND:
            break
        if d not in pairs and g not in taken:
            pairs[d] = g
            taken.add(g)
    for d in np.flatnonzero(image.scores >= threshold).tolist():
        if d not in pairs and not image.ignored[d]:
            pairs[d] = None
    return pairs
