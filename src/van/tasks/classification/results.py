"""What a classifier says about an image: the best classes, all classes that are there, or numbers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from van.engine.result import Result

if TYPE_CHECKING:
    from PIL.Image import Image

_DRAWN = 10  # classes beside a picture


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


@dataclass(kw_only=True)
class MultiLabelClassification(Classification):
    """The classes that are on one image, the most probable first; there may be none.

    Attributes:
        labels: Their numbers, shape (k,).
        probabilities: Their probabilities, 0 to 1, shape (k,).
    """

    def row(self) -> dict[str, Any]:
        """Return image, labels and probabilities, with | between those of the classes."""
        probabilities = (f"{float(p):.6g}" for p in self.probabilities)
        return {"image": self.path, "labels": "|".join(self.classes), "probabilities": "|".join(probabilities)}

    def summary(self) -> str:
        """Return the classes with their probabilities."""
        return super().summary() or "no class"

    def draw(self) -> "Image":
        """Return the image with the best classes and their probabilities beside it; pictures have one size."""
        from van.engine.drawing import draw_ranking

        probabilities, most = self.probabilities.tolist()[:_DRAWN], min(_DRAWN, len(self.class_names))
        return draw_ranking(self.shown(), self.classes[:_DRAWN], probabilities, None, self.class_names, most)


@dataclass(kw_only=True)
class Numbers(Result):
    """Numbers that were predicted for one image; class_names has their names.

    Attributes:
        values: The numbers, in the units of the training data, shape (k,).
    """

    values: np.ndarray

    def _named(self) -> dict[str, float]:
        return {name: float(f"{value:.6g}") for name, value in zip(self.class_names, self.values, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """Return image, height, width and the values by name."""
        return {**super().to_dict(), "values": self._named()}

    def row(self) -> dict[str, Any]:
        """Return image and a column for each number."""
        return {"image": self.path, **self._named()}

    def table(self) -> dict[str, list[Any]]:
        """Return image and a column for each number."""
        return {"image": [self.path], **{name: [value] for name, value in self._named().items()}}

    def summary(self) -> str:
        """Return the numbers with their names."""
        return ", ".join(f"{name} {value:.4g}" for name, value in self._named().items())

    def draw(self) -> "Image":
        """Return the image with the numbers beside it."""
        from van.engine.drawing import draw_values

        return draw_values(self.shown(), list(self.class_names), [f"{value:.4g}" for value in self.values])
