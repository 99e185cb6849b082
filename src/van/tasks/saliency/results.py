"""What is salient on an image."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from van.engine.result import Result, file_stem

if TYPE_CHECKING:
    from PIL.Image import Image

_SALIENT = 0.5


@dataclass(kw_only=True)
class Saliency(Result):
    """How salient every pixel of an image is.

    Attributes:
        saliency: From 0 to 1, shape (H, W), float32.
    """

    saliency: np.ndarray = field(repr=False)

    @property
    def share(self) -> float:
        """Share of the pixels, from 0 to 1, whose saliency is above 0.5."""
        return round(float((self.saliency > _SALIENT).mean()), 6)

    def to_dict(self) -> dict[str, Any]:
        """Return image, height, width and salient (share of the pixels above 0.5); the map is no part."""
        return {**super().to_dict(), "salient": self.share}

    def row(self) -> dict[str, Any]:
        """Return image and salient."""
        return {"image": self.path, "salient": self.share}

    def summary(self) -> str:
        """Return the share of the pixels that are salient."""
        return f"{100 * self.share:.1f} % salient"

    def maps(self) -> "dict[str, Image]":
        """Return map, the saliency from 0 to 255."""
        from van.engine.drawing import saliency_image

        return {"map": saliency_image(self.saliency)}

    def draw(self) -> "Image":
        """Return the image, its map and the image with everything else dimmed, side by side."""
        from van.engine.drawing import draw_saliency

        return draw_saliency(self.shown(), self.saliency)

    def save(self, folder: str | Path, name: str | None = None, picture: bool = True) -> dict[str, str]:
        """Write NAME.jpg, the picture, and NAME.png, the map from 0 to 255; see Result.save."""
        name = name or file_stem(self.path)
        files = super().save(folder, name, picture)
        self.maps()["map"].save(Path(folder) / f"{name}.png")
        return {**files, "map": f"{name}.png"}
