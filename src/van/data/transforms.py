"""Random changes to training images and their labels, built from timm's transforms and torchvision's v2."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from van.data.augmentation import (
    ClassificationAugmentation,
    DenseAugmentation,
    DetectionAugmentation,
    PanopticAugmentation,
    PoseAugmentation,
    SaliencyAugmentation,
    SemanticAugmentation,
)
from van.data.formats import IGNORED
from van.data.mixing import GREY, Hidden, LabelTargets, ObjectTargets, PointTargets
from van.errors import DataError

_BLUR_KERNEL, _BLUR_SIGMA = 13, (0.1, 2.0)  # pixels; three standard deviations to either side
_FILL: Any = {tv_tensors.Image: GREY, tv_tensors.Mask: IGNORED}


# ------------------------------------------------------------------------------------------------ steps


def fitted(height: int, width: int, scale: tuple[int, int], ratio: float = 1.0) -> tuple[int, int]:
    """Return the largest size with the same proportions that fits into a short and a long edge.

    This is what Resize with keep_ratio does in MMSegmentation.

    Args:
        height: Of the image in pixels.
        width: Of the image in pixels.
        scale: Short and long edge in pixels.
        ratio: Factor applied to both.

    Returns:
        Height and width, at least 1.
    """
    factor = ratio * min(scale[0] / min(height, width), scale[1] / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _size(flat_inputs: list[Any]) -> tuple[int, int]:
    height, width = functional.get_size(next(x for x in flat_inputs if isinstance(x, tv_tensors.Image)))
    return height, width


class RandomScale(v2.Transform):
    """Scale an image and its labels by a random factor, keeping the proportions; see `fitted`.

    Args:
        fit: Short and long edge in pixels that factor 1 fits an image into.
        scale_range: Smallest and largest factor.
        antialias: Smooth images that are scaled down.
    """

    def __init__(self, fit: tuple[int, int], scale_range: tuple[float, float], antialias: bool = True) -> None:
        super().__init__()
        self.fit = fit
        self.scale_range = scale_range
        self.antialias = antialias

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor."""
        low, high = self.scale_range
        return {"size": fitted(*_size(flat_inputs), self.fit, low + float(torch.rand(())) * (high - low))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize; labels with nearest-neighbor interpolation."""
        return self._call_kernel(functional.resize, inpt, params["size"], antialias=self.antialias)


class RandomShortEdge(v2.Transform):
    """Resize an image and its target to a short edge picked at random, keeping the proportions; see `fitted`.

    Args:
        sizes: Short edges in pixels.
        longest: Largest long edge in pixels.
    """

    def __init__(self, sizes: Sequence[int], longest: int) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.longest = longest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Pick the short edge."""
        short = self.sizes[int(torch.randint(len(self.sizes), ()))]
        return {"size": fitted(*_size(flat_inputs), (short, self.longest))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize without antialiasing, as detectors do in evaluation; masks with nearest-neighbor interpolation."""
        return self._call_kernel(functional.resize, inpt, params["size"], antialias=False)


class RandomRangeCrop(v2.Transform):
    """Crop a random window with a random height and width; smaller images keep their smaller side.

    Args:
        low: Smallest side in pixels.
        high: Largest side in pixels.
    """

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the window."""
        starts, sides = [], []
        for side in _size(flat_inputs):
            sides.append(int(torch.randint(min(side, self.low), min(side, self.high) + 1, ())))
            starts.append(int(torch.randint(side - sides[-1] + 1, ())))
        return {"window": (*starts, *sides)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop; boxes are cut at the window."""
        return self._call_kernel(functional.crop, inpt, *params["window"])


class RandomCropOrPad(v2.Transform):
    """Crop at random, and pad smaller images on the right and at the bottom: images with grey, labels with 255.

    Args:
        size: Height and width of the result.
        max_class_share: Largest fraction of the labeled pixels that one class may have. After ten crops that exceed it
            or show a single class, the last one is taken (cat_max_ratio in MMSegmentation). 1 takes the first crop.
    """

    _TRIES = 10

    def __init__(self, size: tuple[int, int], max_class_share: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.max_class_share = max_class_share

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the window."""
        height, width = _size(flat_inputs)
        check = self.max_class_share < 1
        labels = next((x for x in flat_inputs if isinstance(x, tv_tensors.Mask)), None) if check else None
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
        return int((counts > 0).sum()) > 1 and bool(counts.max() < self.max_class_share * counts.sum())

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop and pad."""
        _, _, height, width = params["window"]
        inpt = self._call_kernel(functional.crop, inpt, *params["window"])
        space = [0, 0, self.size[1] - width, self.size[0] - height]
        if not any(space):
            return inpt
        fill = _FILL[tv_tensors.Mask if isinstance(inpt, tv_tensors.Mask) else tv_tensors.Image]
        return self._call_kernel(functional.pad, inpt, space, fill=fill)


class RandomTrim(v2.Transform):
    """Trim opposite sides of an image and its mask by the same random number of pixels, and resize to the size before.

    Args:
        fraction: Of the height and width, the most that one side loses.
    """

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw what is trimmed."""
        height, width = _size(flat_inputs)
        top, left = (int(torch.randint(int(self.fraction * side) + 1, ())) for side in (height, width))
        return {"window": (top, left, height - 2 * top, width - 2 * left), "size": [height, width]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop and resize; masks with nearest-neighbor interpolation."""
        return self._call_kernel(functional.resized_crop, inpt, *params["window"], params["size"], antialias=True)


class _BoxesOfMasks(nn.Module):
    """Shrink boxes to what a crop has left of the masks."""

    def forward(self, image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the image and the target; objects without a pixel get an empty box, which sanitizing drops."""
        if "masks" not in target or not len(target["masks"]):
            return image, target
        boxes = torch.zeros_like(target["boxes"])
        visible = target["masks"].flatten(1).bool().any(dim=1)
        if visible.any():
            boxes[visible] = masks_to_boxes(target["masks"][visible]).to(boxes) + torch.tensor([0.0, 0.0, 1.0, 1.0])
        return image, {**target, "boxes": cast(Any, tv_tensors.wrap)(boxes, like=target["boxes"])}


class PhotometricDistortion(v2.Transform):
    """Change brightness, contrast, saturation and hue of an image as SSD does (Liu et al. 2016, arXiv 1512.02325).

    This is PhotoMetricDistortion in MMSegmentation; torchvision's RandomPhotometricDistort multiplies the brightness,
    keeps the mean when it changes the contrast, and permutes color channels. Contrast comes second or last.

    Args:
        probability: Probability of each of the four changes.
        brightness: Largest number added to all values or taken from them, which go from 0 to 255.
        contrast: Smallest and largest factor on all values.
        saturation: Smallest and largest factor on the saturation.
        hue: Largest rotation of the hue in either direction, where 180 is the whole circle.
    """

    def __init__(
        self,
        probability: float = 0.5,
        brightness: float = 32.0,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: float = 18.0,
    ) -> None:
        super().__init__()
        self.probability = probability
        self.ranges = {
            "brightness": (-brightness, brightness),
            "contrast": tuple(contrast),
            "saturation": tuple(saturation),
            "hue": (-hue, hue),
        }

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw which changes are made, how far they go, and their order."""
        names = ["brightness", "saturation", "hue"]
        names.insert(1 if torch.rand(()) < 0.5 else 3, "contrast")
        changes = {name: float(torch.empty(()).uniform_(*self.ranges[name])) for name in names}
        return {"changes": {name: by for name, by in changes.items() if torch.rand(()) < self.probability}}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change an image of bytes; labels stay as they are."""
        if not isinstance(inpt, tv_tensors.Image) or not params["changes"]:
            return inpt
        x = inpt.as_subclass(torch.Tensor).float()
        for name, by in params["changes"].items():
            x = getattr(self, f"_{name}")(x, by).clamp(0, 255)
        return cast(Any, tv_tensors.wrap)(x.round().to(torch.uint8), like=inpt)

    @staticmethod
    def _brightness(x: torch.Tensor, by: float) -> torch.Tensor:
        return x + by

    @staticmethod
    def _contrast(x: torch.Tensor, by: float) -> torch.Tensor:
        return x * by

    @staticmethod
    def _saturation(x: torch.Tensor, by: float) -> torch.Tensor:
        value, least = x.amax(-3, keepdim=True), x.amin(-3, keepdim=True)
        most = value / (value - least).clamp(min=1e-6)  # at which the saturation is 1
        return value - (value - x) * most.clamp(max=by)

    @staticmethod
    def _hue(x: torch.Tensor, by: float) -> torch.Tensor:
        return 255 * functional.adjust_hue(x / 255, by / 180)


def photometric(probability: float, **magnitudes: Any) -> list[v2.Transform]:
    """Return the changes of colors, none where their probability is 0; see PhotometricDistortion."""
    return [PhotometricDistortion(probability, **magnitudes)] if probability else []


class RandomErasing(nn.Module):
    """Cover a rectangle of an image with grey, and take what it hides from the target.

    Args:
        probability: Of doing so.
        targets: What the target is.
    """

    def __init__(self, probability: float, targets: type[Hidden]) -> None:
        super().__init__()
        self.probability, self.targets = probability, targets
        self.rectangle = v2.RandomErasing(value=GREY)

    def draw(self, image: torch.Tensor) -> torch.Tensor | None:
        """Return which pixels of an image (3, H, W) to cover, (H, W) bool; None for none."""
        if float(torch.rand(())) >= self.probability:
            return None
        hidden = torch.zeros(image.shape[-2:], dtype=torch.bool)
        found = self.rectangle.make_params([image])
        if found["v"] is not None:
            hidden[found["i"] : found["i"] + found["h"], found["j"] : found["j"] + found["w"]] = True
        return hidden

    def forward(self, image: Any, target: Any) -> tuple[Any, Any]:
        """Return the image and its target, changed or not."""
        hidden = self.draw(image)
        if hidden is None:
            return image, target
        return image.masked_fill(hidden, GREY), self.targets.hide(target, hidden)


def blurring(options: DenseAugmentation) -> list[v2.Transform]:
    """Return the random blur, none where its probability is 0."""
    blur = v2.GaussianBlur(_BLUR_KERNEL, _BLUR_SIGMA)
    return [v2.RandomApply([blur], options.blur)] if options.blur else []


def _erasing(options: DenseAugmentation, targets: type[Hidden]) -> list[nn.Module]:
    return [RandomErasing(options.random_erasing, targets)] if options.random_erasing else []


# ------------------------------------------------------------------------------------------------ tasks


def _pair(values: Any) -> tuple[Any, Any]:
    return values[0], values[1]  # configuration files give lists


def detection_transform(options: DetectionAugmentation, min_size: Sequence[int], max_size: int) -> v2.Transform:
    """Return a transform of an image and a target with boxes, labels and perhaps masks."""
    steps: list[Any] = [v2.RandomHorizontalFlip(options.hflip)]
    if options.photometric:
        steps.append(v2.RandomPhotometricDistort(p=options.photometric))
    if options.scale_range is not None:
        size = _pair(options.crop_size)
        steps += [
            v2.ScaleJitter(size, _pair(options.scale_range), antialias=True),
            v2.RandomCrop(size, pad_if_needed=True, fill=cast(Any, {tv_tensors.Image: GREY, "others": 0})),
            _BoxesOfMasks(),
        ]
    else:
        if options.random_crop:
            low, high = _pair(options.random_crop_range)
            before = [RandomShortEdge(options.random_crop_resize or (), max_size), RandomRangeCrop(low, high)]
            steps.append(v2.RandomApply(before, options.random_crop))
        steps.append(RandomShortEdge(min_size, max_size))
    steps += [*blurring(options), *_erasing(options, ObjectTargets)]
    return v2.Compose([*steps, v2.SanitizeBoundingBoxes(min_size=options.min_box_size)])


def semantic_transform(options: SemanticAugmentation) -> v2.Transform:
    """Return a transform of an image and its labels."""
    return v2.Compose(
        [
            RandomScale(_pair(options.fit), _pair(options.scale_range), options.antialias),
            RandomCropOrPad(_pair(options.crop_size), options.max_class_share),
            v2.RandomHorizontalFlip(options.hflip),
            *photometric(
                options.photometric,
                brightness=options.brightness,
                contrast=_pair(options.contrast),
                saturation=_pair(options.saturation),
                hue=options.hue,
            ),
            *blurring(options),
            *_erasing(options, LabelTargets),
        ]
    )


def panoptic_transform(options: PanopticAugmentation) -> v2.Transform:
    """Return a transform of an image and its map of segments."""
    height, width = _pair(options.crop_size)
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(options.hflip),
            # torchvision takes the second number for the height
            v2.ScaleJitter((width, height), _pair(options.scale_range), antialias=True),
            RandomCropOrPad((height, width)),
            *photometric(options.photometric),
            *blurring(options),
            *_erasing(options, LabelTargets),
        ]
    )


def saliency_transform(options: SaliencyAugmentation, size: tuple[int, int]) -> v2.Transform:
    """Return a transform of an image and its mask, whose results have this height and width."""
    return v2.Compose(
        [
            v2.Resize(_pair(size), antialias=True),
            v2.RandomApply([RandomTrim(options.crop)], 0.5),
            v2.RandomHorizontalFlip(options.hflip),
            v2.RandomVerticalFlip(options.vflip),
            *photometric(options.photometric),
            *blurring(options),
            *_erasing(options, LabelTargets),
        ]
    )


def crop_transform(options: PoseAugmentation) -> Callable[[Any, Any], Any] | None:
    """Return a transform of the pixels of a crop and its keypoints (K, 3), which stay where they are; None for none."""
    steps = [*photometric(options.photometric), *blurring(options), *_erasing(options, PointTargets)]
    return _PixelChanges(steps) if steps else None


class _PixelChanges(nn.Module):
    """Changes of an image (3, H, W) that pass its keypoints on, which torchvision would take for an image."""

    def __init__(self, steps: Sequence[Any]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, image: torch.Tensor, keypoints: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image and the keypoints."""
        changed: Any = tv_tensors.Image(image)
        for step in self.steps:
            changed, keypoints = step(changed, keypoints)
        return changed.as_subclass(torch.Tensor), keypoints


def timm_transform(options: ClassificationAugmentation, preprocessing: dict[str, Any]) -> Any:
    """Return timm's training transform, from a PIL image to a tensor.

    Args:
        options: The random changes.
        preprocessing: timm's data configuration: input_size (C, H, W), mean and std.

    Raises:
        DataError: timm has no such policy or interpolation.
    """
    from timm.data import auto_augment, create_transform

    auto_augment.NAME_TO_OP.update({name: _posterize for name in auto_augment.NAME_TO_OP if "Posterize" in name})
    try:
        return create_transform(
            input_size=preprocessing["input_size"],
            mean=preprocessing["mean"],
            std=preprocessing["std"],
            is_training=True,
            scale=options.scale,
            ratio=options.ratio,
            hflip=options.hflip,
            vflip=options.vflip,
            color_jitter=cast(Any, options.jitter or None),
            auto_augment=options.auto_augment,
            re_prob=0.0 if options.erase_mixed else options.random_erasing,
            re_mode="pixel",
            interpolation=options.interpolation,
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise DataError(
            f"timm has no augmentation.auto_augment {options.auto_augment!r} with augmentation.interpolation "
            f"{options.interpolation!r} ({error!r}). Use a policy such as rand-m9-mstd0.5-inc1, and bilinear, bicubic "
            "or random."
        ) from error


def _posterize(image: Any, bits_to_keep: int, **_: Any) -> Any:
    """Keep the highest bits of each channel as timm does, down to none at all, which newer Pillows refuse."""
    from PIL import ImageOps

    if bits_to_keep >= 8:
        return image
    return (
        ImageOps.posterize(image, bits_to_keep) if bits_to_keep > 0 else image.point([0] * 256 * len(image.getbands()))
    )
