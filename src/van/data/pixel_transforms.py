"""Random changes of images and their maps of labels for training, made of torchvision's transforms v2."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from van.errors import DataError

IGNORED = 255
_Number = TypeVar("_Number", int, float)
_FILL: Any = {tv_tensors.Image: 127, tv_tensors.Mask: IGNORED}


def fitted(height: int, width: int, scale: tuple[int, int], ratio: float = 1.0) -> tuple[int, int]:
    """Return the size of an image whose short edge is at most scale[0] and whose long edge at most scale[1].

    Both are touched as far as the proportions allow, as OpenMMLab's Resize with keep_ratio does.

    Args:
        height: Of the image in pixels.
        width: Of the image in pixels.
        scale: Short and long edge in pixels.
        ratio: Factor of both.

    Returns:
        Height and width, at least 1.
    """
    factor = ratio * min(scale[0] / min(height, width), scale[1] / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _size(flat_inputs: list[Any]) -> tuple[int, int]:
    height, width = functional.get_size(next(x for x in flat_inputs if isinstance(x, tv_tensors.Image)))
    return height, width


class RandomScale(v2.Transform):
    """Scale image and labels by a random factor and keep their proportions; see `fitted`.

    Args:
        scale: Short and long edge in pixels that factor 1 fits an image into.
        ratio: Smallest and largest factor.
    """

    def __init__(self, scale: tuple[int, int], ratio: tuple[float, float]) -> None:
        super().__init__()
        self.scale = scale
        self.ratio = ratio

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor."""
        ratio = self.ratio[0] + float(torch.rand(())) * (self.ratio[1] - self.ratio[0])
        return {"size": fitted(*_size(flat_inputs), self.scale, ratio)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize; labels by the nearest pixel."""
        return self._call_kernel(functional.resize, inpt, params["size"], antialias=True)


class RandomCropOrPad(v2.Transform):
    """Cut a random window, and pad what is smaller on the right and below: images grey, labels with 255.

    Args:
        size: Height and width of the result.
        most: Largest share that one class may have of the pixels that count. After ten windows with more, or with a
            single class, the last is taken, as in OpenMMLab (cat_max_ratio); 1 takes the first window.
    """

    _TRIES = 10

    def __init__(self, size: tuple[int, int], most: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.most = most

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the window."""
        height, width = _size(flat_inputs)
        labels = next((x for x in flat_inputs if isinstance(x, tv_tensors.Mask)), None) if self.most < 1 else None
        window = (0, 0, min(height, self.size[0]), min(width, self.size[1]))
        for _ in range(self._TRIES):
            top = int(torch.randint(height - window[2] + 1, ()))
            left = int(torch.randint(width - window[3] + 1, ()))
            window = (top, left, *window[2:])
            if labels is None or self._mixed(labels.as_subclass(torch.Tensor), window):
                break
        return {"window": window}

    def _mixed(self, labels: torch.Tensor, window: tuple[int, int, int, int]) -> bool:
        top, left, height, width = window
        counts = torch.bincount(labels[..., top : top + height, left : left + width].flatten(), minlength=IGNORED + 1)
        counts[IGNORED] = 0
        return int((counts > 0).sum()) > 1 and bool(counts.max() < self.most * counts.sum())

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut and pad."""
        _, _, height, width = params["window"]
        inpt = self._call_kernel(functional.crop, inpt, *params["window"])
        space = [0, 0, self.size[1] - width, self.size[0] - height]
        if not any(space):
            return inpt
        fill = _FILL[tv_tensors.Mask if isinstance(inpt, tv_tensors.Mask) else tv_tensors.Image]
        return self._call_kernel(functional.pad, inpt, space, fill=fill)


def photometric(probability: float) -> list[v2.Transform]:
    """Return changes of brightness, contrast, saturation and hue, each with this probability and as strong as in SSD.

    torchvision's RandomPhotometricDistort exchanges colour channels as well, which segmentation does not.
    """
    changes = ({"brightness": 0.125}, {"contrast": 0.5}, {"saturation": 0.5}, {"hue": 0.05})
    return (
        [v2.RandomApply([v2.ColorJitter(**cast(Any, change))], probability) for change in changes]
        if probability
        else []
    )


def _check(augmentation: object, names: Sequence[str]) -> None:
    for name in names:
        if not 0 <= getattr(augmentation, name) <= 1:
            raise DataError(f"augmentation.{name} is {getattr(augmentation, name)}, expected a share from 0 to 1.")


def _pair(name: str, values: Sequence[_Number], rising: bool = False) -> tuple[_Number, _Number]:
    """Return two numbers of an augmentation that were checked; jsonargparse may give them as a list."""
    if len(values) != 2 or not all(value > 0 for value in values) or (rising and values[0] > values[1]):
        what = "two rising numbers" if rising else "two numbers"
        raise DataError(f"augmentation.{name} is {values}, expected {what} above 0.")
    return values[0], values[1]


@dataclass
class SemanticAugmentation:
    """Random changes of the training images and their labels.

    Attributes:
        scale: Short and long edge in pixels that factor 1 fits an image into.
        ratio: Smallest and largest factor by which this is scaled at random.
        crop: Height and width of the window that is cut; what is smaller is padded, with labels that do not count.
        most: Largest share of one class in the window; see RandomCropOrPad.
        hflip: Probability of a horizontal flip.
        photometric: Probability of each change of brightness, contrast, saturation and hue.
    """

    scale: tuple[int, int] = (512, 2048)
    ratio: tuple[float, float] = (0.5, 2.0)
    crop: tuple[int, int] = (512, 512)
    most: float = 0.75
    hflip: float = 0.5
    photometric: float = 0.5

    def transform(self) -> v2.Transform:
        """Return the changes as one transform of image and labels.

        Raises:
            DataError: a value is out of range.
        """
        _check(self, ("most", "hflip", "photometric"))
        return v2.Compose(
            [
                RandomScale(_pair("scale", self.scale, rising=True), _pair("ratio", self.ratio, rising=True)),
                RandomCropOrPad(_pair("crop", self.crop), self.most),
                v2.RandomHorizontalFlip(self.hflip),
                *photometric(self.photometric),
            ]
        )


@dataclass
class PanopticAugmentation:
    """Random changes of the training images and their segments: large-scale jitter (arXiv 2012.07177).

    Attributes:
        jitter: Smallest and largest factor of the scale; factor 1 fits an image into the size.
        size: Height and width of what is cut or padded to.
        hflip: Probability of a horizontal flip.
        photometric: Probability of each change of brightness, contrast, saturation and hue.
    """

    jitter: tuple[float, float] = (0.1, 2.0)
    size: tuple[int, int] = (1024, 1024)
    hflip: float = 0.5
    photometric: float = 0.0

    def transform(self) -> v2.Transform:
        """Return the changes as one transform of image and map of segments.

        Raises:
            DataError: a value is out of range.
        """
        _check(self, ("hflip", "photometric"))
        height, width = _pair("size", self.size)
        jitter = _pair("jitter", self.jitter, rising=True)
        return v2.Compose(
            [
                v2.RandomHorizontalFlip(self.hflip),
                # torchvision takes the second number for the height
                v2.ScaleJitter((width, height), jitter, antialias=True),
                RandomCropOrPad((height, width)),
                *photometric(self.photometric),
            ]
        )


@dataclass
class SaliencyAugmentation:
    """Random changes of the training images and their masks.

    Attributes:
        size: Height and width that images are brought to, whatever their proportions.
        margin: Pixels that are cut off in each direction, at random at one side or the other or both.
        hflip: Probability of a horizontal flip.
        photometric: Probability of each change of brightness, contrast, saturation and hue.
    """

    size: tuple[int, int] = (384, 384)
    margin: int = 12
    hflip: float = 0.5
    photometric: float = 0.0

    def transform(self) -> v2.Transform:
        """Return the changes as one transform of image and mask.

        Raises:
            DataError: a value is out of range.
        """
        _check(self, ("hflip", "photometric"))
        height, width = _pair("size", self.size)
        if self.margin < 0:
            raise DataError(f"augmentation.margin is {self.margin}, expected 0 or more pixels.")
        return v2.Compose(
            [
                v2.Resize((height + self.margin, width + self.margin), antialias=True),
                v2.RandomCrop((height, width)),
                v2.RandomHorizontalFlip(self.hflip),
                *photometric(self.photometric),
            ]
        )
