"""The segments of an image, and all of them in COCO's panoptic format."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from van.engine.result import FolderWriter, Result, file_stem

if TYPE_CHECKING:
    from PIL.Image import Image

    from van.data.panoptic import PanopticWriter


@dataclass(kw_only=True)
class Panoptic(Result):
    """The segments of an image: objects of countable classes (things), and one segment for each other class (stuff).

    Attributes:
        segmentation: The id of the segment of every pixel, 0 where there is none, shape (H, W), int32.
        segments: For each segment a dictionary with id, label, isthing and score.
        best_score: Highest score of all candidates; 0 where there was none.
        score_threshold: Candidates with a lower score were dropped.
    """

    segmentation: np.ndarray = field(repr=False)
    segments: list[dict[str, Any]]
    best_score: float
    score_threshold: float

    def to_dict(self) -> dict[str, Any]:
        """Return image, height, width and segments: class, id, label, isthing, score and area (pixels) of each."""
        areas = np.bincount(self.segmentation.ravel(), minlength=1 + max([s["id"] for s in self.segments] + [0]))
        segments = [
            {"class": self.class_names[segment["label"]], **segment, "area": int(areas[segment["id"]])}
            for segment in self.segments
        ]
        return {**super().to_dict(), "segments": segments}

    def table(self) -> dict[str, list[Any]]:
        """Return image, class, label, id, isthing, score and area of each segment."""
        segments = self.to_dict()["segments"]
        keys = ("class", "label", "id", "isthing", "score", "area")
        columns = {key: [segment[key] for segment in segments] for key in keys}
        return {"image": [self.path] * len(segments), **columns}

    def summary(self) -> str:
        """Return how many segments of each class there are."""
        names = [self.class_names[segment["label"]] for segment in self.segments]
        if names:
            return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
        if not self.best_score:
            return "no segments"
        best = f"(best {self.best_score:.2f})"
        if self.best_score > self.score_threshold:
            return f"no segment is left of those above {self.score_threshold:g} {best}; lower --overlap-threshold"
        return f"nothing above {self.score_threshold:g} {best}; lower --score-threshold"

    def maps(self) -> "dict[str, Image]":
        """Return panoptic, whose colors are the ids of the segments as in COCO's format (R + 256 G + 65536 B)."""
        from PIL import Image

        from van.data.panoptic import encode_ids

        return {"panoptic": Image.fromarray(encode_ids(self.segmentation))}

    def draw(self) -> "Image":
        """Return the image colored by segment, with the names of things and a legend."""
        from van.engine.drawing import draw_segments

        return draw_segments(self.shown(), self.segmentation, self.segments, self.class_names)


class PanopticFolderWriter(FolderWriter):
    """Writes records and pictures, and all segments of images in COCO's format: panoptic.json and panoptic/NAME.png.

    Args:
        folder: An existing folder.
        about: The predictor that makes the results.
        pictures: Whether to write pictures.
        resume: Continue after the records that are there.
    """

    def __init__(self, folder: Path, about: Any, pictures: bool = True, resume: bool = False) -> None:
        self._panoptic: PanopticWriter | None = None  # none for clips
        super().__init__(folder, about, pictures, resume)

    def close(self) -> None:
        """Close the records, and write panoptic.json."""
        super().close()
        if self._panoptic:
            self._panoptic.close()

    def _save(self, result: Any) -> dict[str, Any]:
        """Write picture and PNG. Images are numbered from 1 in the order of the records."""
        files = super()._save(result)
        png = self._add(result.path, result.segmentation, result.segments)
        return {**files, "panoptic": f"panoptic/{png.name}", "image_id": self.count}

    def _restore(self, record: dict[str, Any]) -> None:
        """Take note of a record, whose segments go into panoptic.json too."""
        from van.data.panoptic import read_ids

        super()._restore(record)
        self._add(record["image"], read_ids(self.folder / record["panoptic"]), record["segments"])

    def _add(self, image: str | None, segmentation: Any, segments: Any) -> Path:
        from van.data.panoptic import PanopticWriter, panoptic_categories

        if self._panoptic is None:
            about = self.about
            categories = panoptic_categories(about.class_names, about.extra["category_ids"], about.extra["isthing"])
            self._panoptic = PanopticWriter(self.folder / "panoptic.json", categories)
        # images by the names of their files, as in COCO; a URL has none
        name = Path(image or "image").name
        name = name if Path(name).stem == file_stem(image) else file_stem(image)
        return self._panoptic.add(self.count, name, segmentation, segments)
