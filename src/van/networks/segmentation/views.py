"""At which size a network sees an image, whole or in windows, at several scales and mirrored. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from van.errors import VanError

_WINDOW = (512, 512)


def check_pair(name: str, values: tuple[int, int] | None) -> None:
    """Raise VanError unless an option, where it is given, is two numbers of at least 1."""
    if values is not None and (len(values) != 2 or min(values) < 1):
        raise VanError(f"{name} is {values}, expected two numbers of at least 1.")


def fitted(height: int, width: int, fit: tuple[int, int] | None) -> tuple[int, int]:
    """Return the largest size with the proportions of an image whose short and long edges do not exceed two limits.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        fit: Limits in pixels of the short and the long edge, in any order; None returns the size of the image.
    """
    if fit is None:
        return height, width
    factor = min(min(fit) / min(height, width), max(fit) / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


@dataclass
class View:
    """How a network sees an image.

    Attributes:
        fit: Short and long edge in pixels that images are scaled to fit into, proportions kept. Results always have the
            size of the image.
        image_size: Height and width that images are scaled to whatever their proportions, instead of fit.
        slide: Slide a window over the image and average where windows overlap. Large images then need little memory.
        crop: Height and width of the window; by default 512 x 512.
        stride: Pixels from one window to the next, down and to the right; by default two thirds of crop.
        scales: Sizes at which each image or window is seen, such as 0.75 1.0 1.25; the results are averaged.
        flip_test: See the mirror image too, and average.
    """

    # an option and those that it replaces where it comes later
    exclusive: ClassVar[Mapping[str, tuple[str, ...]]] = {"fit": ("image_size",), "image_size": ("fit",)}

    fit: tuple[int, int] | None = None
    image_size: tuple[int, int] | None = None
    slide: bool = False
    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: list[float] = field(default_factory=lambda: [1.0])
    flip_test: bool = False

    def check(self) -> None:
        """Refuse values that are out of range or do not go together.

        Raises:
            VanError: there is one.
        """
        for name in ("fit", "image_size", "crop", "stride"):
            check_pair(name, getattr(self, name))
        if self.fit and self.image_size:
            raise VanError(f"fit is {self.fit} and image_size {self.image_size}, expected one of them. Leave out one.")
        for name in ("crop", "stride"):
            if (value := getattr(self, name)) and not self.slide:
                raise VanError(f"{name} is {value}, which only sliding windows use. Set slide, or leave it out.")
        crop, stride = self.window
        if stride[0] > crop[0] or stride[1] > crop[1]:
            raise VanError(
                f"stride is {tuple(stride)} and crop {tuple(crop)}: windows would leave gaps. Give a stride of at most "
                "the crop."
            )
        if not self.scales or not min(self.scales) > 0:
            raise VanError(f"scales is {self.scales}, expected numbers above 0, such as 1.")

    def changed(self, changes: Mapping[str, Any]) -> Any:
        """Return the view with other values; a crop or stride turns sliding on, and a size replaces the other one."""
        values = dict(changes)
        if values.get("crop") or values.get("stride"):
            values.setdefault("slide", True)
        if values.get("crop"):
            values.setdefault("stride", None)
        if values.get("slide") is False:
            values = {"crop": None, "stride": None, **values}
        for name, others in self.exclusive.items():
            if values.get(name):
                values = {**dict.fromkeys(others), **values}
        return replace(self, **values)

    @property
    def window(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Crop and stride."""
        height, width = self.crop or _WINDOW
        return (height, width), self.stride or (max(1, 2 * height // 3), max(1, 2 * width // 3))

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image is scaled to first."""
        return self.image_size or fitted(height, width, self.fit)
