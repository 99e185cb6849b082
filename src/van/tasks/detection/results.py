"""What a detector finds on an image."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from van.engine.result import BoxResult
from van.errors import VanError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(kw_only=True)
class Detections(BoxResult):
    """The objects on one image, best first.

    Attributes:
        labels: Class indices, shape (N,).
        masks: Which pixels belong to each object, bool, shape (N, H, W); None where the detector has no masks.
        category_ids: Id of each class in the data that the detector was trained on; None counts from 1.
    """

    labels: np.ndarray
    masks: np.ndarray | None = field(default=None, repr=False)
    category_ids: Sequence[int] | None = field(default=None, repr=False)

    @property
    def classes(self) -> list[str]:
        """Name of the class of each object."""
        return [self.class_names[int(label)] for label in self.labels]

    def above(self, threshold: float) -> "Detections":
        """Return those with at least this score."""
        return replace(self.chosen(self.scores >= threshold), score_threshold=threshold)

    def results(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Return them in COCO's results format.

        Args:
            image_id: Id of the image.
            category_ids: Id of each class.
        """
        boxes = self.boxes.astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        results: list[dict[str, Any]] = [
            {
                "image_id": int(image_id),
                "category_id": int(category_ids[label]),
                "bbox": [round(value, 2) for value in box],
                "score": round(score, 5),
            }
            for label, box, score in zip(self.labels.tolist(), boxes.tolist(), self.scores.tolist(), strict=True)
        ]
        if self.masks is not None:
            for result, code in zip(results, encode_masks(self.masks), strict=True):
                result["segmentation"] = code
        return results

    def to_dict(self) -> dict[str, Any]:
        """Return image, height, width and objects; see docs/results.md."""
        ids = self.category_ids or range(1, len(self.class_names) + 1)
        objects = [
            {"class": name, **{key: value for key, value in result.items() if key != "image_id"}}
            for name, result in zip(self.classes, self.results(0, ids), strict=True)
        ]
        return {**super().to_dict(), "objects": self.numbered(objects)}

    def table(self) -> dict[str, list[Any]]:
        """Return image, class, label, score and the corners x1, y1, x2, y2 of each object."""
        corners = dict(zip(("x1", "y1", "x2", "y2"), self.boxes.T.tolist(), strict=True))
        known = {"image": [self.path] * len(self), "class": self.classes, "label": self.labels.tolist()}
        return {**known, "score": self.scores.tolist(), **corners}

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The classes in COCO's terms: id and name."""
        ids = self.category_ids or range(1, len(self.class_names) + 1)
        return [{"id": int(number), "name": name} for number, name in zip(ids, self.class_names, strict=True)]

    def to_coco(self, image_id: int = 1, first_id: int = 1) -> list[dict[str, Any]]:
        """Return the objects as annotations in COCO's format, with their scores; see categories.

        Args:
            image_id: Id of the image.
            first_id: Id of the first annotation.
        """
        found = self.results(image_id, [category["id"] for category in self.categories])
        areas = self.masks.sum((1, 2)).tolist() if self.masks is not None else None
        return [
            {
                "id": first_id + i,
                **one,
                "area": float(areas[i]) if areas else round(one["bbox"][2] * one["bbox"][3], 2),
                "iscrowd": 0,
            }
            for i, one in enumerate(found)
        ]

    def to_yolo(self) -> str:
        """Return the lines of YOLO's label file: class index, and the box, or the outline where there are masks."""
        from van.data.labels.yolo import line_of

        image, need = {"height": self.size[0], "width": self.size[1]}, "boxes" if self.masks is None else "masks"
        pairs = zip(self.labels.tolist(), self.to_coco(), strict=True)
        return "".join(f"{line_of(label, one, image, need)}\n" for label, one in pairs)

    def summary(self) -> str:
        """Return the number of objects of each class; where there are none, how good the best one was."""
        names = self.classes
        if names:
            return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
        return self._nothing() + ("" if self._passed() else "; lower --score-threshold")

    def draw(self, size: int | None = None) -> "Image":
        """Return the image with boxes, masks, class names and scores.

        Args:
            size: Longer side in pixels; None keeps that of the image, but enlarges small ones.
        """
        from van.engine.drawing import draw_boxes, draw_note

        found = (self.boxes, self.labels, self.class_names, self.scores, self.masks)
        picture = draw_boxes(self.shown(), *found, size, self.track_ids)
        return picture if len(self) else draw_note(picture, self._nothing())

    def to_supervision(self) -> Any:
        """Return them as supervision.Detections, with the names under data["class_name"].

        Raises:
            VanError: the package supervision is not installed.
        """
        try:
            import supervision  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise VanError("to_supervision needs the package supervision: pip install supervision") from error
        ids = self.track_ids
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            mask=self.masks,
            confidence=self.scores.astype(np.float32),
            class_id=self.labels.astype(int),
            tracker_id=None if ids is None else ids.astype(int),
            data={"class_name": np.array(self.classes, dtype=str)},
        )

    def _passed(self) -> bool:
        """Whether the score of the best detection is high enough, or there was none at all."""
        return self.best_score is None or self.best_score >= self.score_threshold

    def _nothing(self) -> str:
        if self._passed():
            return "nothing found"
        return f"nothing above {self.score_threshold:g} (best {self.best_score:.2f})"


def encode_masks(masks: np.ndarray) -> list[dict[str, Any]]:
    """Return COCO's compressed RLE of each mask, in the form that JSON holds.

    Args:
        masks: Shape (N, H, W).
    """
    from van.data.coco import mask_functions

    if not len(masks):
        return []
    codes = mask_functions().encode(np.asfortranarray(masks.astype(np.uint8, copy=False).transpose(1, 2, 0)))
    return [
        {
            "size": [int(side) for side in code["size"]],
            "counts": code["counts"].decode() if isinstance(code["counts"], bytes) else code["counts"],
        }
        for code in codes
    ]
