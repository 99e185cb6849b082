"""Random changes that join several images and their targets: mosaic, mixup, copy-paste; and what hides parts of them.

All random numbers come from torch's generator, which the loader seeds for each sample; see `van.data.loaders`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.ops import box_area, masks_to_boxes
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from van.data.formats import IGNORED

_NEAREST = InterpolationMode.NEAREST_EXACT

GREY = 127  # what fills empty parts of images

LEAST_VISIBLE = 0.1
"""Objects of which a smaller share of the area is left are dropped."""

_SMALLEST = 8  # pixels of a side of images that are joined
_SCALES = (0.5, 1.5)  # of what copy-paste pastes
_MIXUP_ALPHA = 32.0  # of the beta distribution: shares are near one half

Size = tuple[int, int]
Sample = tuple[Any, Any]
"""An image, tv_tensors.Image (3, H, W), and its target."""


class Window(NamedTuple):
    """A part of an image: top, left, height and width in pixels."""

    top: int
    left: int
    height: int
    width: int


class Hidden(Protocol):
    """How targets of one kind change where a part of their image is hidden."""

    @staticmethod
    def hide(target: Any, hidden: torch.Tensor) -> Any:
        """Return the target of an image of which something hides a part, (H, W) bool."""


class Targets(ABC):
    """How targets of one kind are cut, joined and hidden."""

    @staticmethod
    @abstractmethod
    def cut(target: Any, size: Size, window: Window) -> Any:
        """Return the target of an image that is resized and cropped to a window inside it.

        Args:
            target: Of the image.
            size: Height and width that it is resized to.
            window: What is left of that.
        """

    @staticmethod
    @abstractmethod
    def join(targets: Sequence[Any], places: Sequence[tuple[int, int]], size: Size) -> Any:
        """Return the target of an image that others were pasted into; the later ones hide the earlier ones.

        Args:
            targets: Of the pasted images; what is about the file is kept of the first.
            places: Top and left of each.
            size: Height and width of the image.
        """

    @staticmethod
    @abstractmethod
    def hide(target: Any, hidden: torch.Tensor) -> Any:
        """Return the target of an image of which something hides a part, (H, W) bool."""


class ObjectTargets(Targets):
    """Dictionaries with boxes, labels and perhaps masks; see van.data.coco.CocoDetectionDataset.

    Boxes are clipped; where there are masks, those of objects that are cut or hidden shrink to what is visible.
    """

    @staticmethod
    def cut(target: dict[str, Any], size: Size, window: Window) -> dict[str, Any]:
        """Resize and crop; see Targets."""
        resized: Any = functional.resize(target["boxes"], list(size))
        boxes = functional.crop(resized, *window)
        left = box_area(boxes.as_subclass(torch.Tensor)) / box_area(resized.as_subclass(torch.Tensor))
        cut = {**target, "boxes": boxes}
        if "masks" in target:
            whole = _scaled(target["masks"], size)
            cut["masks"] = functional.crop(whole, *window)
            boxes[left < 0.9999] = _tight(cut["masks"][left < 0.9999]).to(boxes)  # rounding
            left = _counts(cut["masks"]) / _counts(whole).clamp(min=1)
        return _chosen(cut, left >= LEAST_VISIBLE)

    @staticmethod
    def join(targets: Sequence[dict[str, Any]], places: Sequence[tuple[int, int]], size: Size) -> dict[str, Any]:
        """Put objects side by side; see Targets. What pasted objects hide is `hide`'s to say."""
        joined = dict(targets[0])
        boxes = [
            t["boxes"].as_subclass(torch.Tensor) + torch.tensor([x, y, x, y]) for t, (y, x) in _zip(targets, places)
        ]
        joined["boxes"] = tv_tensors.BoundingBoxes(torch.cat(boxes), format="XYXY", canvas_size=size)  # type: ignore[call-overload]
        joined["labels"] = torch.cat([target["labels"] for target in targets])
        if "masks" in joined:
            masks = torch.zeros(len(joined["labels"]), *size, dtype=joined["masks"].dtype)
            first = 0
            for target, (top, left) in _zip(targets, places):
                count, height, width = target["masks"].shape
                masks[first : first + count, top : top + height, left : left + width] = target["masks"]
                first += count
            joined["masks"] = tv_tensors.Mask(masks)
        return joined

    @staticmethod
    def hide(target: dict[str, Any], hidden: torch.Tensor) -> dict[str, Any]:
        """Take hidden pixels from masks and boxes; see Targets. Without masks all of a box counts as the object."""
        boxes = target["boxes"].clone()
        left = torch.ones(len(boxes))
        if "masks" in target:
            masks = target["masks"].as_subclass(torch.Tensor)
            seen = masks * ~hidden
            counts = _counts(masks).clamp(min=1)
            left = _counts(seen) / counts
            boxes[left < 1] = _tight(seen[left < 1]).to(boxes)
            target = {**target, "masks": cast(Any, tv_tensors.wrap)(seen, like=target["masks"])}
        else:
            for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
                top, start = math.floor(y1), math.floor(x1)
                seen = ~hidden[top : math.ceil(y2), start : math.ceil(x2)]
                left[i] = seen.float().mean()
                if 0 < left[i] < 1:
                    low_x, low_y, high_x, high_y = _tight(seen[None])[0].tolist()
                    box = [max(x1, start + low_x), max(y1, top + low_y), min(x2, start + high_x), min(y2, top + high_y)]
                    boxes[i] = torch.tensor(box).to(boxes)
        return _chosen({**target, "boxes": boxes}, left >= LEAST_VISIBLE)

    @staticmethod
    def lift(target: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
        """Return a random part of the objects, at least one where there are any, and their pixels (H, W)."""
        chosen = _some(len(target["labels"]))
        return _chosen(target, chosen), target["masks"].as_subclass(torch.Tensor)[chosen].bool().any(0)


class LabelTargets(Targets):
    """Labels of pixels (H, W), 255 for ignored ones."""

    @staticmethod
    def cut(target: Any, size: Size, window: Window) -> Any:
        """Resize and crop; see Targets."""
        return functional.crop(_scaled(target, size), *window)

    @staticmethod
    def join(targets: Sequence[Any], places: Sequence[tuple[int, int]], size: Size) -> Any:
        """Put labels side by side; see Targets."""
        joined = torch.full(size, IGNORED, dtype=targets[0].dtype)
        for labels, (top, left) in _zip(targets, places):
            joined[top : top + labels.shape[0], left : left + labels.shape[1]] = labels
        return tv_tensors.Mask(joined)

    @staticmethod
    def hide(target: Any, hidden: torch.Tensor) -> Any:
        """Ignore hidden pixels; see Targets."""
        return cast(Any, tv_tensors.wrap)(target.as_subclass(torch.Tensor).masked_fill(hidden, IGNORED), like=target)


class PointTargets:
    """Keypoints (K, 3): x, y and visibility, in pixels of a crop, counted from the middle of the first one."""

    @staticmethod
    def hide(target: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Mark visible keypoints that are hidden as labeled but not visible (1 in COCO's format)."""
        columns, rows = target[:, :2].round().long().T
        inside = (rows >= 0) & (columns >= 0) & (rows < hidden.shape[0]) & (columns < hidden.shape[1])
        covered = inside & hidden[rows.clamp(0, hidden.shape[0] - 1), columns.clamp(0, hidden.shape[1] - 1)]
        changed = target.clone()
        changed[covered, 2] = target[covered, 2].clamp(max=1)
        return changed


class SegmentTargets(Targets):
    """Dictionaries with segmentation (H, W) and segments; see van.data.panoptic.PanopticDataset."""

    @staticmethod
    def cut(target: dict[str, Any], size: Size, window: Window) -> dict[str, Any]:
        """Resize and crop; see Targets."""
        whole = _scaled(target["segmentation"], size)
        return _without_remains(target, whole, functional.crop(whole, *window))

    @staticmethod
    def join(targets: Sequence[dict[str, Any]], places: Sequence[tuple[int, int]], size: Size) -> dict[str, Any]:
        """Number the segments anew; stuff of one class stays one segment. See Targets."""
        joined = torch.zeros(size, dtype=torch.int32)
        segments: list[dict[str, Any]] = []
        stuff: dict[int, int] = {}
        for target, (top, left) in _zip(targets, places):
            new = torch.zeros(1 + max((segment["id"] for segment in target["segments"]), default=0), dtype=torch.int32)
            for segment in target["segments"]:
                known = None if segment["isthing"] or segment["iscrowd"] else stuff.get(segment["label"])
                if known is None:
                    known = len(segments) + 1
                    segments.append({**segment, "id": known})
                    if not (segment["isthing"] or segment["iscrowd"]):
                        stuff[segment["label"]] = known
                new[segment["id"]] = known
            numbers = new[target["segmentation"].as_subclass(torch.Tensor).long()]
            part = joined[top : top + numbers.shape[0], left : left + numbers.shape[1]]
            part[numbers > 0] = numbers[numbers > 0]
        return {**targets[0], "segmentation": tv_tensors.Mask(joined), "segments": segments}

    @staticmethod
    def hide(target: dict[str, Any], hidden: torch.Tensor) -> dict[str, Any]:
        """Take hidden pixels from their segments; see Targets."""
        whole = target["segmentation"].as_subclass(torch.Tensor)
        return _without_remains(target, whole, tv_tensors.Mask(whole.masked_fill(hidden, 0)))

    @staticmethod
    def lift(target: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
        """Return a random part of the countable objects, crowds left out, and their pixels (H, W)."""
        things = [segment for segment in target["segments"] if segment["isthing"] and not segment["iscrowd"]]
        chosen = [segment for segment, kept in zip(things, _some(len(things)).tolist(), strict=True) if kept]
        numbers = target["segmentation"].as_subclass(torch.Tensor)
        pixels = torch.isin(numbers, torch.tensor([segment["id"] for segment in chosen], dtype=numbers.dtype))
        segmentation = tv_tensors.Mask(numbers * pixels)
        return {**target, "segmentation": segmentation, "segments": chosen}, pixels


def _zip(targets: Sequence[Any], places: Sequence[tuple[int, int]]) -> Any:
    return zip(targets, places, strict=True)


def _scaled(maps: Any, size: Size) -> Any:
    """Return masks or labels (..., H, W) at another size; torchvision's `resize` shifts them by up to half a pixel."""
    values = maps.as_subclass(torch.Tensor)
    if not values.numel():
        return tv_tensors.Mask(values.new_zeros(*values.shape[:-2], *size))
    if values.ndim == 2:
        return tv_tensors.Mask(functional.resize_image(values[None], list(size), _NEAREST)[0])
    return tv_tensors.Mask(functional.resize_image(values, list(size), _NEAREST))


def _counts(masks: torch.Tensor) -> torch.Tensor:
    """Return the number of pixels of each mask (N, H, W)."""
    return masks.as_subclass(torch.Tensor).flatten(1).count_nonzero(1).float()


def _tight(masks: torch.Tensor) -> torch.Tensor:
    """Return the boxes of masks (N, H, W); zeros for those without a pixel."""
    masks = masks.as_subclass(torch.Tensor).bool()
    boxes = torch.zeros(len(masks), 4)
    seen = masks.flatten(1).any(1) if len(masks) else torch.zeros(0, dtype=torch.bool)
    if seen.any():
        boxes[seen] = masks_to_boxes(masks[seen]).float() + torch.tensor([0.0, 0.0, 1.0, 1.0])
    return boxes


def _chosen(target: dict[str, Any], which: torch.Tensor) -> dict[str, Any]:
    """Return some of the objects, by a mask (N,)."""
    parts = {key: target[key] for key in ("boxes", "labels", "masks") if key in target}
    return {**target, **{key: cast(Any, tv_tensors.wrap)(part[which], like=part) for key, part in parts.items()}}


def _some(count: int) -> torch.Tensor:
    """Return a random choice (N,), each with probability one half and at least one where there are any."""
    chosen = torch.rand(count) < 0.5
    if count:
        chosen[torch.randint(count, ())] = True
    return chosen


def _without_remains(target: dict[str, Any], whole: torch.Tensor, left: torch.Tensor) -> dict[str, Any]:
    """Return a target with what is left of its map of segments, without countable objects of which too little is."""
    last = max((segment["id"] for segment in target["segments"]), default=0)
    before, after = (
        torch.bincount(one.as_subclass(torch.Tensor).flatten(), minlength=last + 1) for one in (whole, left)
    )
    gone = [s for s in target["segments"] if s["isthing"] and after[s["id"]] < LEAST_VISIBLE * before[s["id"]]]
    numbers = left.as_subclass(torch.Tensor)
    numbers = numbers * ~torch.isin(numbers, torch.tensor([s["id"] for s in gone], dtype=numbers.dtype))
    kept = [segment for segment in target["segments"] if segment not in gone]
    return {**target, "segmentation": tv_tensors.Mask(numbers), "segments": kept}


class Mixing:
    """Joins images at random; see the options of augmentation with the same names.

    Args:
        targets: How their targets are cut and joined.
        mosaic: Probability of joining four images.
        copy_paste: Probability of pasting objects of another image; targets need to lift them.
        mixup: Probability of blending an image with another one.
    """

    def __init__(
        self, targets: type[Targets], mosaic: float = 0.0, copy_paste: float = 0.0, mixup: float = 0.0
    ) -> None:
        self.targets = cast(Any, targets)
        self.chances = {"mosaic": mosaic, "copy_paste": copy_paste, "mixup": mixup}  # in the order they are made

    def __call__(self, sample: Sample, draw: Callable[[], Sample]) -> Sample:
        """Change a sample, or leave it as it is.

        Args:
            sample: An image and its target.
            draw: Returns another sample at random.
        """
        for name, chance in self.chances.items():
            if chance and float(torch.rand(())) < chance:
                sample = getattr(self, name)(sample, draw)
        return sample

    def mosaic(self, sample: Sample, draw: Callable[[], Sample]) -> Sample:
        """Join an image and three others to one of the size of the first."""
        height, width = sample[0].shape[-2:]
        if min(height, width) < _SMALLEST:
            return sample
        bounds = []  # of the upper and lower, the left and right parts
        for side in (height, width):
            meet = round(side * (0.25 + 0.5 * float(torch.rand(()))))
            bounds.append(((0, meet), (meet, side)))
        places, parts = [], []
        for number in torch.randperm(4).tolist():  # the first image comes anywhere
            (top, bottom), (left, right) = bounds[0][number // 2], bounds[1][number % 2]
            places.append((top, left))
            parts.append(self._filling(draw() if parts else sample, (bottom - top, right - left)))
        canvas = sample[0].new_empty(3, height, width)
        for (image, _), (top, left) in _zip(parts, places):
            canvas[:, top : top + image.shape[1], left : left + image.shape[2]] = image
        target = self.targets.join([target for _, target in parts], places, (height, width))
        return tv_tensors.Image(canvas), target

    def copy_paste(self, sample: Sample, draw: Callable[[], Sample]) -> Sample:
        """Paste some of the objects of another image."""
        height, width = sample[0].shape[-2:]
        other, target = draw()
        if float(torch.rand(())) < 0.5:
            other, target = _flipped(other, target)
        low, high = _SCALES
        factor = min(height / other.shape[1], width / other.shape[2]) * (low + (high - low) * float(torch.rand(())))
        size = (max(1, round(other.shape[1] * factor)), max(1, round(other.shape[2] * factor)))
        tall, wide = min(size[0], height), min(size[1], width)
        window = Window(_below(size[0] - tall), _below(size[1] - wide), tall, wide)
        top, left = _below(height - tall), _below(width - wide)
        target, pixels = self.targets.lift(self.targets.cut(target, size, window))
        hidden = torch.zeros(height, width, dtype=torch.bool)
        hidden[top : top + tall, left : left + wide] = pixels
        image = sample[0].clone()
        image[:, hidden] = _cut(other, size, window)[:, pixels]
        targets = [self.targets.hide(sample[1], hidden), target]
        return image, self.targets.join(targets, [(0, 0), (top, left)], (height, width))

    def mixup(self, sample: Sample, draw: Callable[[], Sample]) -> Sample:
        """Blend an image with another one, which is fitted into its size."""
        height, width = sample[0].shape[-2:]
        other, target = draw()
        factor = min(height / other.shape[1], width / other.shape[2])
        size = (max(1, round(other.shape[1] * factor)), max(1, round(other.shape[2] * factor)))
        window = Window(0, 0, min(size[0], height), min(size[1], width))
        parts = torch.distributions.Gamma(_MIXUP_ALPHA, 1.0).sample((2,))
        share = float(parts[0] / parts.sum())
        blended = torch.full((3, height, width), float(GREY))
        blended[:, : window.height, : window.width] = _cut(other, size, window)
        blended = share * sample[0].as_subclass(torch.Tensor) + (1 - share) * blended
        target = self.targets.join([sample[1], self.targets.cut(target, size, window)], [(0, 0)] * 2, (height, width))
        return tv_tensors.Image(blended.round().to(torch.uint8)), target

    def _filling(self, sample: Sample, size: Size) -> Sample:
        """Return a random window of this size, of an image scaled to between once and twice what fills it."""
        image, target = sample
        factor = max(size[0] / image.shape[1], size[1] / image.shape[2]) * (1 + float(torch.rand(())))
        scaled = (max(size[0], round(image.shape[1] * factor)), max(size[1], round(image.shape[2] * factor)))
        window = Window(_below(scaled[0] - size[0]), _below(scaled[1] - size[1]), *size)
        return _cut(image, scaled, window), self.targets.cut(target, scaled, window)


def _below(most: int) -> int:
    """Return a random number from 0 to this one."""
    return int(torch.randint(most + 1, ()))


def _cut(image: Any, size: Size, window: Window) -> torch.Tensor:
    """Return a window of a resized image."""
    return functional.crop(functional.resize(image, list(size), antialias=True), *window).as_subclass(torch.Tensor)


def _flipped(image: Any, target: Any) -> Sample:
    """Flip an image and all of its target that has a place."""
    if isinstance(target, dict):
        places = {key: value for key, value in target.items() if isinstance(value, tv_tensors.TVTensor)}
        return functional.horizontal_flip(image), target | {k: functional.horizontal_flip(v) for k, v in places.items()}
    return functional.horizontal_flip(image), functional.horizontal_flip(target)


class Augmented(Dataset):
    """Training samples with random changes: those that join several images, then those of one.

    Args:
        samples: Pairs of an image and its target, unchanged. Further images are drawn from them too.
        transform: Takes and returns an image and its target, like torchvision's transforms v2.
        mixing: Joins images; None for nothing.
    """

    def __init__(self, samples: Any, transform: Callable[[Any, Any], Any], mixing: Mixing | None = None) -> None:
        self.samples, self.transform, self.mixing = samples, transform, mixing

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """Return a changed sample; its random numbers are torch's."""
        sample = self.samples[index]
        if self.mixing is not None:
            sample = self.mixing(sample, lambda: self.samples[_below(len(self) - 1)])
        return self.transform(*sample)
