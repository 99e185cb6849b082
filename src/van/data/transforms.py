"""Random changes of images with their boxes, masks or labels, made of torchvision's transforms v2."""

from typing import Any, cast

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from van.data.targets import IGNORED

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


def detection_transform(
    hflip: float, distortion: float, jitter: tuple[float, float] | None, jitter_size: tuple[int, int], min_box: float
) -> v2.Transform:
    """Return the changes of van.data.augmentation.DetectionAugmentation; its options are the arguments."""
    steps: list[Any] = [v2.RandomHorizontalFlip(hflip)]
    if distortion:
        steps.append(v2.RandomPhotometricDistort(p=distortion))
    if jitter is not None:
        fill: Any = {tv_tensors.Image: 127, "others": 0}
        steps += [
            v2.ScaleJitter(jitter_size, jitter, antialias=True),
            v2.RandomCrop(jitter_size, pad_if_needed=True, fill=fill),
            BoxesOfMasks(),
        ]
    return v2.Compose([*steps, v2.SanitizeBoundingBoxes(min_size=min_box)])


class BoxesOfMasks(nn.Module):
    """Shrink boxes to what a crop has left of the masks."""

    def forward(self, image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the image and the target; objects without a pixel lose their box, for sanitizing to leave out."""
        if "masks" not in target or not len(target["masks"]):
            return image, target
        boxes = torch.zeros_like(target["boxes"])
        visible = target["masks"].flatten(1).bool().any(dim=1)
        if visible.any():
            boxes[visible] = masks_to_boxes(target["masks"][visible]).to(boxes) + torch.tensor([0.0, 0.0, 1.0, 1.0])
        return image, {**target, "boxes": cast(Any, tv_tensors.wrap)(boxes, like=target["boxes"])}
