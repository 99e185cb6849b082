"""What a pose network finds on an image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from van.engine.result import BoxResult

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(kw_only=True)
class Poses(BoxResult):
    """The persons on one image, best first.

    Attributes:
        keypoints: x and y in pixels, and a score, shape (N, K, 3).
        scores: Score of each person: the box's score times the mean of the confident keypoints, shape (N,).
        boxes: Corners x1, y1, x2, y2 in pixels of the box that each was found in, shape (N, 4).
        box_scores: Score of that box, shape (N,).
        keypoint_names: Name of each keypoint.
        skeleton: Pairs of keypoints that are joined.
        keypoint_threshold: Keypoints with a lower score are not drawn.
        whole_image: Whether the whole image was taken as one person because nothing said where persons are.
    """

    keypoints: np.ndarray
    box_scores: np.ndarray = field(repr=False)
    keypoint_names: Sequence[str] = field(repr=False)
    skeleton: Sequence[tuple[int, int]] = field(repr=False)
    keypoint_threshold: float = 0.2
    whole_image: bool = False

    def confidences(self) -> np.ndarray:
        """Return the score of each box, shape (N,): a person's own score depends on the pose too."""
        return self.box_scores

    def to_dict(self) -> dict[str, Any]:
        """Return image, height, width and persons; see docs/results.md."""
        corners = self.boxes.astype(float)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        persons = [
            {
                "score": round(score, 5),
                "bbox": [round(value, 2) for value in box],
                "keypoints": {
                    name: [round(x, 2), round(y, 2), round(v, 4)]
                    for name, (x, y, v) in zip(self.keypoint_names, points, strict=True)
                },
            }
            for score, box, points in zip(self.scores.tolist(), boxes, self.keypoints.tolist(), strict=True)
        ]
        return {**super().to_dict(), "persons": self.numbered(persons)}

    @property
    def labels(self) -> np.ndarray:
        """Class index of each person, shape (N,); poses are those of one class."""
        return np.zeros(len(self), np.int64)

    def table(self) -> dict[str, list[Any]]:
        """Return image, score, the corners x1, y1, x2, y2, and NAME_x, NAME_y and NAME_score of each keypoint."""
        corners = dict(zip(("x1", "y1", "x2", "y2"), self.boxes.T.tolist(), strict=True))
        points = {
            f"{name}_{part}": self.keypoints[:, place, i].tolist()
            for place, name in enumerate(self.keypoint_names)
            for i, part in enumerate(("x", "y", "score"))
        }
        return {"image": [self.path] * len(self), "score": self.scores.tolist(), **corners, **points}

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The class in COCO's terms: id, name, keypoints and skeleton."""
        skeleton = [[a + 1, b + 1] for a, b in self.skeleton]
        about = {"keypoints": list(self.keypoint_names), "skeleton": skeleton}
        return [{"id": 1, "name": self.class_names[0], **about}]

    def to_coco(self, image_id: int = 1, first_id: int = 1) -> list[dict[str, Any]]:
        """Return the persons as annotations in COCO's format, with their scores; see categories.

        Keypoints outside the image, or with a score below keypoint_threshold, count as not labeled.

        Args:
            image_id: Id of the image.
            first_id: Id of the first annotation.
        """
        annotations = []
        for i, (score, box, points) in enumerate(zip(self.scores, self.boxes, self.keypoints, strict=True)):
            inside = ((points[:, :2] >= 0) & (points[:, :2] <= self.size[::-1])).all(1)
            seen = inside & (points[:, 2] >= self.keypoint_threshold)
            flat = np.where(seen[:, None], np.column_stack([points[:, :2], np.full(len(points), 2.0)]), 0.0)
            x0, y0, x1, y1 = (round(float(value), 2) for value in box)
            annotations.append(
                {
                    "id": first_id + i,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
                    "area": round((x1 - x0) * (y1 - y0), 2),
                    "iscrowd": 0,
                    "score": round(float(score), 5),
                    "keypoints": [round(float(value), 2) for value in flat.ravel()],
                    "num_keypoints": int(seen.sum()),
                }
            )
        return annotations

    def to_yolo(self) -> str:
        """Return the lines of YOLO's label file: class index, box, and x, y and visibility of each keypoint."""
        from van.data.labels.yolo import line_of

        image = {"height": self.size[0], "width": self.size[1]}
        return "".join(f"{line_of(0, one, image, 'keypoints')}\n" for one in self.to_coco())

    def summary(self) -> str:
        """Return the number of persons, and of how many nothing can be shown."""
        if not len(self):
            if self.best_score is None or self.best_score >= self.score_threshold:
                return "no persons"
            return f"no persons above {self.score_threshold:g} (best {self.best_score:.2f}); lower --score-threshold"
        best = self.keypoints[:, :, 2].max(axis=1, initial=0.0)
        failed = best[best < self.keypoint_threshold]
        text = f"{len(self)} person{'s' * (len(self) > 1)}"
        if self.whole_image:
            text += f": the whole image, as neither --detector nor --boxes is given, score {self.scores[0]:.2f}"
        if len(failed):
            who = f"{len(failed)} of them with " if len(self) > 1 else ""
            text += f", {who}no keypoint above {self.keypoint_threshold:g} (best {failed.max():.2f})"
        return text

    def draw(self) -> "Image":
        """Return the image with skeletons; the person's left is orange, the right blue."""
        from van.engine.drawing import draw_keypoints, draw_note, with_ids

        texts = with_ids([f"{self.class_names[0]} {score:.2f}" for score in self.scores], self.track_ids)
        picture = draw_keypoints(
            self.shown(), list(self.keypoints), self.keypoint_names, self.skeleton, texts, self.keypoint_threshold
        )
        seen = len(self) and self.keypoints[:, :, 2].max(initial=0.0) >= self.keypoint_threshold
        # where nothing is seen there is a note already
        return draw_note(picture, "the whole image was taken as one person") if self.whole_image and seen else picture
