"""Label the pixels of images with trained weights: whole images or windows, several scales, mirrored, any size."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional

from van.data.images import ImageLike
from van.data.transforms import fitted
from van.errors import DataError, VanError, WeightsError
from van.heads.pixels import (
    SaliencyOptions,
    SegmenterOptions,
    build_saliency,
    build_segmenter,
    is_openmmlab,
    segmenter_from_openmmlab,
)
from van.inference.files import ImageFiles, one_or_several, results_in_order
from van.models.task_weights import TaskWeights, read_task_weights, task_of_weights

_TOGETHER = 4 * 1024 * 1024  # pixels of images that go through the network at once
_OPENMMLAB_SIZE = (512, 2048)  # what its published models fit images into
_AT_ONCE = 32 * 1024 * 1024  # scores that are enlarged to the size of the image at once
Scores = Callable[[torch.Tensor], torch.Tensor]
Result = TypeVar("Result")


@dataclass
class PixelInference:
    """How a network looks at an image to label its pixels.

    Attributes:
        size: Short and long edge in pixels that images are scaled to fit into, proportions kept; null leaves them as
            they are. Results always have the size of the image.
        keep_ratio: Whether proportions are kept; if not, size is height and width.
        mode: whole, or slide: a window slides over the image and results are averaged where windows overlap. That takes
            no more memory for large images than their result does.
        crop: Height and width of the window.
        stride: Pixels from one window to the next, down and to the right.
        scales: Each window, or the whole image, is looked at in these sizes and the results are averaged.
        flip: Also look at the mirror image.
    """

    size: tuple[int, int] | None = None
    keep_ratio: bool = True
    mode: Literal["whole", "slide"] = "whole"
    crop: tuple[int, int] = (512, 512)
    stride: tuple[int, int] = (341, 341)
    scales: list[float] = field(default_factory=lambda: [1.0])
    flip: bool = False

    def check(self) -> None:
        """Raise VanError where a value is out of range."""
        for name, values in (("size", self.size), ("crop", self.crop), ("stride", self.stride)):
            if values is not None and (len(values) != 2 or min(values) < 1):
                raise VanError(f"inference.{name} is {values}, expected two numbers of at least 1.")
        if self.stride[0] > self.crop[0] or self.stride[1] > self.crop[1]:
            raise VanError(
                f"inference.stride is {tuple(self.stride)} and crop {tuple(self.crop)}: windows would leave gaps. Give "
                "a stride of at most the crop."
            )
        if not self.scales or not min(self.scales) > 0:
            raise VanError(f"inference.scales is {self.scales}, expected numbers above 0, such as 1.")

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image is brought to first."""
        if self.size is None:
            return height, width
        first, second = self.size
        return fitted(height, width, (min(first, second), max(first, second))) if self.keep_ratio else (first, second)


@dataclass
class PanopticInference:
    """How a network looks at an image to find its segments.

    Attributes:
        size: Short and long edge in pixels that images are scaled to fit into, proportions kept; null leaves them as
            they are, which takes much memory for large ones. Results always have the size of the image.
        object_threshold: Queries that are less certain of their class are left out.
        overlap_threshold: A mask of which a smaller share than this is left by others is left out.
    """

    size: tuple[int, int] | None = (800, 1333)
    object_threshold: float = 0.8
    overlap_threshold: float = 0.8

    def check(self) -> None:
        """Raise VanError where a value is out of range."""
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise VanError(f"inference.size is {self.size}, expected two numbers of at least 1.")
        for name in ("object_threshold", "overlap_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise VanError(f"inference.{name} is {getattr(self, name)}, expected a number from 0 to 1.")


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows begin along one side; the last one ends with the image."""
    count = max(0, -(-(length - window) // stride)) + 1
    return [min(i * stride, length - window) for i in range(count)]


def _resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    if tuple(size) == (1, 1):  # torch cannot shrink bytes to one pixel
        images = functional.to_dtype(images, torch.float32, scale=True)
    return functional.resize(images, list(size), antialias=True)


def _averaged(scores: Scores, window: torch.Tensor, options: PixelInference) -> torch.Tensor:
    """Return the scores (B, K, h, w) of windows (B, 3, h, w), the mean of all scales and mirror images."""
    height, width = window.shape[-2:]
    total: torch.Tensor | None = None
    for scale in options.scales:
        scaled = _resized(window, (max(1, round(height * scale)), max(1, round(width * scale))))
        for mirrored in (False, True) if options.flip else (False,):
            found = scores(scaled.flip(-1)).flip(-1) if mirrored else scores(scaled)
            found = found.float()
            if found.shape[-2:] != window.shape[-2:]:
                found = F.interpolate(found, size=(height, width), mode="bilinear", align_corners=False)
            total = found if total is None else total + found
    count = len(options.scales) * (2 if options.flip else 1)
    return cast(torch.Tensor, total) / count if count > 1 else cast(torch.Tensor, total)


def full_maps(
    scores: Scores, images: torch.Tensor, options: PixelInference, finish: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Look at images as the options say.

    No more scores are kept than those of one window and of the places where later windows overlap what has been seen;
    where images are scaled first, those of the scaled image.

    Args:
        scores: Maps images (B, 3, h, w) of any size to scores (B, K, h, w).
        images: (B, 3, H, W), bytes or floats from 0 to 1.
        options: See there.
        finish: Makes results (B, h, w) of mean scores (B, K, h, w), pixel by pixel.

    Returns:
        Results (B, H, W).

    Raises:
        VanError: an option is out of range.
    """
    options.check()
    height, width = images.shape[-2:]
    high, wide = options.size_for(height, width)
    images = _resized(images, (high, wide))
    crop = (min(options.crop[0], high), min(options.crop[1], wide)) if options.mode == "slide" else (high, wide)
    tops, lefts = _starts(high, crop[0], options.stride[0]), _starts(wide, crop[1], options.stride[1])
    # windows cut the image into cells, each of which is covered by the same windows everywhere
    rows = list(pairwise(sorted({*tops, *(top + crop[0] for top in tops)})))
    columns = list(pairwise(sorted({*lefts, *(left + crop[1] for left in lefts)})))
    scaled = (high, wide) != (height, width)
    whole: torch.Tensor | None = None
    waiting: dict[tuple[int, int], torch.Tensor] = {}
    for top in tops:
        for left in lefts:
            found = _averaged(scores, images[..., top : top + crop[0], left : left + crop[1]], options)
            for y0, y1 in ((a, b) for a, b in rows if top <= a and b <= top + crop[0]):
                for x0, x1 in ((a, b) for a, b in columns if left <= a and b <= left + crop[1]):
                    part = found[..., y0 - top : y1 - top, x0 - left : x1 - left]
                    total = waiting[y0, x0] + part if (y0, x0) in waiting else part.clone()
                    over = [[s for s in starts if s <= at < s + side] for starts, at, side in (
                        (tops, y0, crop[0]), (lefts, x0, crop[1]))]  # fmt: skip
                    if (top, left) != (over[0][-1], over[1][-1]):
                        waiting[y0, x0] = total
                        continue
                    waiting.pop((y0, x0), None)
                    total = total / (len(over[0]) * len(over[1]))
                    result = total if scaled else finish(total)
                    if whole is None:
                        whole = result.new_empty(*result.shape[:-2], high, wide)
                    whole[..., y0:y1, x0:x1] = result
    done = cast(torch.Tensor, whole)
    return _enlarged(done, (height, width), finish) if scaled else done


def _enlarged(
    scores: torch.Tensor, size: tuple[int, int], finish: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Bring scores (B, K, h, w) to a size by bilinear interpolation, some rows at a time, and finish them."""
    height, width = size
    rows = max(1, _AT_ONCE // (scores.shape[0] * scores.shape[1] * width))
    if rows >= height:
        return finish(F.interpolate(scores, size=size, mode="bilinear", align_corners=False))
    x = (torch.arange(width, device=scores.device) + 0.5) * 2 / width - 1
    parts = []
    for top in range(0, height, rows):
        y = (torch.arange(top, min(top + rows, height), device=scores.device) + 0.5) * 2 / height - 1
        places = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, width)], -1)
        places = places.expand(len(scores), -1, -1, -1)
        # the same as interpolate, but for a part of the result
        parts.append(finish(F.grid_sample(scores, places, mode="bilinear", padding_mode="border", align_corners=False)))
    return torch.cat(parts, dim=-2)


def _batches(images: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield images (3, H, W) in order as batches of neighbours that have one size and are not too large together."""
    start = 0
    for i in range(1, len(images) + 1):
        shape = images[start].shape
        full = (i - start + 1) * shape[-1] * shape[-2] > _TOGETHER
        if i == len(images) or full or images[i].shape != shape:
            yield torch.stack([image.as_subclass(torch.Tensor) for image in images[start:i]])
            start = i


def _labels(scores: torch.Tensor) -> torch.Tensor:
    return scores.argmax(1).to(torch.uint8)


def label_maps(model: Any, images: Sequence[torch.Tensor], options: PixelInference) -> list[torch.Tensor]:
    """Return the class of every pixel.

    Args:
        model: Its probabilities maps images (B, 3, H, W) to (B, K, H, W), K up to 255.
        images: (3, H, W) each, of any sizes, bytes or floats from 0 to 1.
        options: How to look at them.

    Returns:
        Labels (H, W), uint8, of each image.
    """
    return [labels for batch in _batches(images) for labels in full_maps(model.probabilities, batch, options, _labels)]


def saliency_maps(model: Any, images: Sequence[torch.Tensor], options: PixelInference) -> list[torch.Tensor]:
    """Return how much every pixel stands out.

    Args:
        model: Maps images (B, 3, H, W) to probabilities (B, 1, H, W).
        images: (3, H, W) each, of any sizes, bytes or floats from 0 to 1.
        options: How to look at them.

    Returns:
        Numbers from 0 to 1, (H, W), float32, of each image.
    """
    maps = (full_maps(model, batch, options, lambda scores: scores[:, 0]) for batch in _batches(images))
    return [one.clamp(0, 1) for batch in maps for one in batch]


def panoptic_maps(
    model: Any, images: Sequence[torch.Tensor], options: PanopticInference, things: Collection[int]
) -> list[dict[str, Any]]:
    """Return the segments of images.

    Args:
        model: A Mask2Former.
        images: (3, H, W) each, of any sizes, bytes or floats from 0 to 1.
        options: How to look at them.
        things: Labels of countable classes.

    Returns:
        For each image segmentation (H, W), int32, 0 where there is no segment, and segments: dicts with id, label,
        isthing and score.
    """
    options.check()
    results = []
    for batch in _batches(images):
        size = (batch.shape[-2], batch.shape[-1])
        scaled = PixelInference(size=options.size).size_for(*size)
        outputs = model(_resized(batch, scaled))
        thresholds = (options.object_threshold, options.overlap_threshold)
        for found in model.panoptic(outputs, things, *thresholds):
            numbers = found["segmentation"]
            if tuple(numbers.shape) != size:
                enlarged = F.interpolate(numbers[None, None].float(), size=size, mode="nearest-exact")
                numbers = enlarged[0, 0].to(torch.int32)
            seen = set(numbers.unique().tolist())
            segments = [segment for segment in found["segments"] if segment["id"] in seen]
            results.append({"segmentation": numbers, "segments": segments})
    return results


# ------------------------------------------------------------------------------------------------------- predictors


class PixelPredictor(Generic[Result]):
    """A trained network that labels pixels, with everything that its weight file says; see the subclasses.

    Args:
        weights: File that `van train` wrote, or a run folder with one.
        device: Where to compute; None takes a GPU if there is one.
        batch_size: Images per batch.
        **changes: Options of the inference that differ from those of the run, by their names.

    Attributes:
        model: The network, in evaluation mode.
        class_names: Names in the order of the labels.
        inference: How images are looked at.

    Raises:
        WeightsError: the file cannot be read, is for another task, or does not fit.
        VanError: the device does not exist, or a number is out of range.
    """

    task: ClassVar[str]
    inference: Any

    def __init__(
        self, weights: str | Path | TaskWeights, device: str | None = None, batch_size: int = 4, **changes: Any
    ) -> None:
        if batch_size < 1:
            raise VanError(f"batch_size is {batch_size}, expected at least 1.")
        read = weights if isinstance(weights, TaskWeights) else self._read(weights)
        if read.task != self.task:
            raise WeightsError(f"{weights} is for the task {read.task!r}, expected {self.task}.")
        self.class_names = list(read.class_names)
        self.batch_size = batch_size
        try:
            model = self._build(read)
        except (TypeError, KeyError) as error:
            raise WeightsError(f"The options in {weights} are not those of this version ({error}).") from error
        self.inference = replace(self.inference, **changes)
        self.inference.check()
        try:
            model.load_state_dict(read.tensors)
        except RuntimeError as error:
            raise WeightsError(f"The weights do not fit the network that they name: {error}") from error
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self.model: Any = model.to(self.device).eval()
        except (RuntimeError, AssertionError) as error:
            raise VanError(f"The device {device!r} cannot be used here: {error}") from error

    def _read(self, weights: str | Path) -> TaskWeights:
        return read_task_weights(weights)

    def _build(self, read: TaskWeights) -> torch.nn.Module:
        """Set what the file says and return the network without its weights."""
        raise NotImplementedError

    def maps(self, images: Sequence[torch.Tensor]) -> list[Any]:
        """Return the results of images (3, H, W) as tensors on the device."""
        raise NotImplementedError

    def _result(self, found: Any) -> Result:
        raise NotImplementedError

    def stream(self, images: Sequence[ImageLike], workers: int = 0) -> Iterator[Result | DataError]:
        """Yield the result of each image in order, or the error where one cannot be decoded.

        Args:
            images: As in calling the predictor.
            workers: Processes that decode; 0 decodes in this one.
        """
        return results_in_order(self._results, ImageFiles(images, functional.pil_to_tensor), self.batch_size, workers)

    @torch.inference_mode()
    def _results(self, images: Sequence[torch.Tensor]) -> list[Result]:
        return [self._result(found) for found in self.maps([image.to(self.device) for image in images])]

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Any:
        """Label the pixels of one image or several.

        Args:
            images: A path, bytes, an open file, a PIL image, an array (H, W[, C]) or tensor (C, H, W), or a sequence of
                these; an array or tensor with one more dimension is a batch. Not resized, not normalised.

        Returns:
            The result for one image, a list of them for several.

        Raises:
            DataError: an image cannot be decoded or is not of a known form.
        """
        return one_or_several(images, self.stream)


class SemanticPredictor(PixelPredictor[np.ndarray]):
    """Semantic segmentation; results are labels (H, W), uint8. For the arguments see PixelPredictor.

    A segmentation checkpoint of OpenMMLab is taken as well. Images are then looked at as its published models were
    measured, and classes that the file does not name are called by their numbers.
    """

    task = "semantic"
    inference: PixelInference

    def _read(self, weights: str | Path) -> TaskWeights:
        if task_of_weights(weights) != "classification" or not is_openmmlab(weights):
            return super()._read(weights)
        model, names = segmenter_from_openmmlab(weights)
        names = names or [str(label) for label in range(model.num_classes)]
        extra = {"inference": {"size": _OPENMMLAB_SIZE}}
        return TaskWeights(self.task, asdict(model.options), names, model.state_dict(), extra)

    def _build(self, read: TaskWeights) -> torch.nn.Module:
        self.inference = PixelInference(**read.extra["inference"])
        return build_segmenter(SegmenterOptions(**read.model), len(self.class_names))

    def maps(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return labels (H, W) of images (3, H, W)."""
        return label_maps(self.model, images, self.inference)

    def _result(self, found: torch.Tensor) -> np.ndarray:
        return found.cpu().numpy()


class SaliencyPredictor(PixelPredictor[np.ndarray]):
    """Saliency; results are numbers from 0 to 1, (H, W), float32. For the arguments see PixelPredictor."""

    task = "saliency"
    inference: PixelInference

    def _build(self, read: TaskWeights) -> torch.nn.Module:
        self.inference = PixelInference(**read.extra["inference"])
        return build_saliency(SaliencyOptions(**read.model))

    def maps(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return saliency (H, W) of images (3, H, W)."""
        return saliency_maps(self.model, images, self.inference)

    def _result(self, found: torch.Tensor) -> np.ndarray:
        return found.cpu().numpy()


@dataclass
class Segments:
    """The segments of an image.

    Attributes:
        segmentation: The number of the segment, 0 where there is none: (H, W), int32.
        segments: For each a dictionary with id (that number), label, isthing, and score if it was predicted.
    """

    segmentation: np.ndarray
    segments: list[dict[str, Any]]


class PanopticPredictor(PixelPredictor[Segments]):
    """Panoptic segmentation. For the arguments see PixelPredictor.

    Attributes:
        category_ids: Category id of each label in the data that it was trained on.
        isthing: Whether each class is countable.
    """

    task = "panoptic"
    inference: PanopticInference

    def _build(self, read: TaskWeights) -> torch.nn.Module:
        self.inference = PanopticInference(**read.extra["inference"])
        self.category_ids: list[int] = read.extra["category_ids"]
        self.isthing: list[bool] = read.extra["isthing"]
        self.things = {label for label, thing in enumerate(self.isthing) if thing}
        return build_segmenter(SegmenterOptions(**read.model), len(self.class_names))

    def maps(self, images: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
        """Return segmentation and segments of images (3, H, W)."""
        return panoptic_maps(self.model, images, self.inference, self.things)

    def _result(self, found: dict[str, Any]) -> Segments:
        return Segments(found["segmentation"].cpu().numpy(), found["segments"])


PREDICTORS: dict[str, type[PixelPredictor[Any]]] = {
    cls.task: cls for cls in (SemanticPredictor, PanopticPredictor, SaliencyPredictor)
}
