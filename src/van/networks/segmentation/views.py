"""At which size a network sees an image, whole or in windows, at several scales and mirrored. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from van.errors import VanError

_WINDOW = (512, 512)
_STRIDE = 32  # of the backbone's last map


def check_pair(name: str, values: tuple[int, int] | None) -> None:
    """Raise VanError unless an option, where it is given, is two numbers of at least 1."""
    if values is not None and (len(values) != 2 or min(values) < 1):
        raise VanError(f"{name} is {values}, expected two numbers of at least 1.")


def fitted(height: int, width: int, fit: tuple[int, int] | None, scale: float = 1.0) -> tuple[int, int]:
    """Return the largest size with the proportions of an image whose short and long edges do not exceed two limits.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        fit: Limits in pixels of the short and the long edge, in any order; None takes the edges of the image.
        scale: Factor on the limits.
    """
    factor = min(min(fit) / min(height, width), max(fit) / max(height, width)) if fit else 1.0
    return max(1, round(height * factor * scale)), max(1, round(width * factor * scale))


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
        scales: Sizes at which each image or window is seen, such as 0.75 1.0 1.25, as factors on its size; the results
            are averaged.
        flip_test: See the mirror image too, and average.
        antialias: Smooth images that are scaled down; MMSegmentation does not.
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
    antialias: bool = True

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

    def size_for(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Return the height and width at which an image is seen at a scale."""
        high, wide = self.image_size or (0, 0)
        size = fitted(high, wide, None, scale) if high else fitted(height, width, self.fit, scale)
        return self.seen(*size)

    def seen(self, height: int, width: int) -> tuple[int, int]:
        """Return the size at which the network gets an image or window of a size."""
        return height, width


@dataclass
class SemanticView(View):  # noqa: D101
    __doc__ = f"""{(View.__doc__ or "").rstrip()}
        to_multiple: What the network gets where a side is no multiple of 32: pad the image at the bottom and on the
            right, resize it to the next multiples, or none: leave it as it is.
    """

    to_multiple: Literal["pad", "resize", "none"] = "pad"

    def check(self) -> None:
        """Refuse values that are out of range or do not go together; see View."""
        super().check()
        if self.to_multiple not in ("pad", "resize", "none"):
            raise VanError(f"to_multiple is {self.to_multiple!r}, expected pad, resize or none.")

    def seen(self, height: int, width: int) -> tuple[int, int]:
        """Return the size at which the network gets an image or window of a size: resize rounds it up."""
        if self.to_multiple != "resize":
            return height, width
        return -(-height // _STRIDE) * _STRIDE, -(-width // _STRIDE) * _STRIDE
