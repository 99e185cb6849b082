"""The classes of an image's pixels."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from van.engine.result import Result, file_stem

if TYPE_CHECKING:
    from PIL.Image import Image

_SHOWN = 6  # classes in a summary


@dataclass(kw_only=True)
class Segmentation(Result):
    """The class of every pixel of an image.

    Attributes:
        labels: Class indices, shape (H, W), uint8.
    """

    labels: np.ndarray = field(repr=False)

    @property
    def shares(self) -> dict[str, float]:
        """Share of all pixels, from 0 to 1, of each class that occurs, the largest first."""
        from van.engine.drawing import class_shares

        return {name: round(share, 6) for name, share in class_shares(self.labels, self.class_names).items()}

    def to_dict(self) -> dict[str, Any]:
        """Return image, height, width, labels (names of all classes) and shares; the labels of pixels are no part."""
        return {**super().to_dict(), "labels": list(self.class_names), "shares": self.shares}

    def table(self) -> dict[str, list[Any]]:
        """Return image, class and share of the pixels, the largest first."""
        shares = self.shares
        return {"image": [self.path] * len(shares), "class": list(shares), "share": list(shares.values())}

    def summary(self) -> str:
        """Return the classes that cover most with their shares of the pixels."""
        return ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(self.shares.items())[:_SHOWN])

    def maps(self) -> "dict[str, Image]":
        """Return classes, whose pixel values are the labels."""
        from van.engine.drawing import class_map

        return {"classes": class_map(self.labels, len(self.class_names))}

    def draw(self) -> "Image":
        """Return the image colored by class, with a legend."""
        from van.engine.drawing import draw_classes

        return draw_classes(self.shown(), self.labels, self.class_names)

    def save(self, folder: str | Path, name: str | None = None, picture: bool = True) -> dict[str, str]:
        """Write NAME.jpg, the picture, and NAME_classes.png, whose pixel values are the labels; see Result.save."""
        name = name or file_stem(self.path)
        files = super().save(folder, name, picture)
        self.maps()["classes"].save(Path(folder) / f"{name}_classes.png")
        return {**files, "classes": f"{name}_classes.png"}
