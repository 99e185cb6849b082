"""What a classifier says about an image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from van.engine.result import Result

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(kw_only=True)
class Classification(Result):
    """The most probable classes of one image, best first.

    Attributes:
        labels: Their numbers, shape (k,).
        probabilities: Their probabilities, 0 to 1, shape (k,).
    """

    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def classes(self) -> list[str]:
        """Their names."""
        return [self.class_names[int(label)] for label in self.labels]

    def to_dict(self) -> dict[str, Any]:
        """Return image, height, width, classes and probabilities."""
        probabilities = [round(float(p), 6) for p in self.probabilities]
        return {**super().to_dict(), "classes": self.classes, "probabilities": probabilities}

    def row(self) -> dict[str, Any]:
        """Return image and, for each rank, class_N and probability_N."""
        cells: dict[str, Any] = {"image": self.path}
        for rank, (name, probability) in enumerate(zip(self.classes, self.probabilities, strict=True), 1):
            cells |= {f"class_{rank}": name, f"probability_{rank}": round(float(probability), 6)}
        return cells

    def table(self) -> dict[str, list[Any]]:
        """Return image, rank (from 1), class and probability."""
        ranks = list(range(1, len(self.labels) + 1))
        return {
            "image": [self.path] * len(ranks),
            "rank": ranks,
            "class": self.classes,
            "probability": self.probabilities.tolist(),
        }

    def summary(self) -> str:
        """Return the classes with their probabilities."""
        pairs = zip(self.classes, self.probabilities, strict=True)
        return ", ".join(f"{name} {probability:.1%}" for name, probability in pairs)

    def draw(self) -> "Image":
        """Return the image with the classes and their probabilities beside it."""
        from van.engine.drawing import draw_ranking

        probabilities = self.probabilities.tolist()
        return draw_ranking(self.shown(), self.classes, probabilities, class_names=self.class_names)
