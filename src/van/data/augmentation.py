"""Options of the random changes to training images: one dataclass per task, free of torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from van.errors import DataError

if TYPE_CHECKING:
    from torchvision.transforms import v2

    from van.data.mixing import Mixing, Targets
    from van.data.pose import RandomRegion


def _check(
    augmentation: object, *names: str, low: float = 0.0, high: float = 1.0, above: bool = False, pair: str = ""
) -> None:
    """Check that options lie in a range.

    Args:
        augmentation: The options.
        names: The options to check.
        low: Smallest value allowed.
        high: Largest value allowed.
        above: Whether low itself is excluded.
        pair: What two values mean, such as "height and width"; empty for single numbers. Pairs that are a "range" must
            not decrease.

    Raises:
        DataError: a value is out of range.
    """
    for name in names:
        value: Any = getattr(augmentation, name)
        values: list[float] = list(value) if pair else [value]
        inside = all((v > low if above else v >= low) and v <= high for v in values)
        if inside and (not pair or len(values) == 2) and (pair != "range" or values[0] <= values[1]):
            continue
        limits = f"above {low:g}" if above else f"from {low:g}"
        limits += f" to {high:g}" if high < math.inf else "" if above else " up"
        what = {"": "a number", "range": "two increasing numbers"}.get(pair, f"two numbers ({pair})")
        raise DataError(f"augmentation.{name} is {value}, expected {what} {limits}.")


@dataclass(kw_only=True)
class DenseAugmentation:
    """Random changes of pixels that all dense tasks have.

    Attributes:
        blur: Probability of a Gaussian blur with a standard deviation from 0.1 to 2 pixels.
        random_erasing: Probability of covering a rectangle of 2 to 33 % of the image with grey (Zhong et al. 2020,
            arXiv 1708.04896). Labels of pixels under it are ignored, masks and boxes shrink to what is visible, objects
            with less than a tenth of their area left are dropped, and keypoints count as labeled but not visible.
    """

    # what other tasks have, and why it is refused here
    refused: ClassVar[Mapping[str, str]] = {}

    blur: float = 0.0
    random_erasing: float = 0.0


@dataclass(kw_only=True)
class MosaicAugmentation(DenseAugmentation):
    """Random changes that join several images, which are drawn from the training images.

    Attributes:
        mosaic: Probability of joining four images to one of the same size (Bochkovskiy et al. 2020, arXiv 2004.10934).
            They meet at a random point of its middle half; each fills its part with a random window. Boxes are clipped,
            and objects with less than a tenth of their area left are dropped.
        unmixed_epochs: Length of the end of training without the changes that join images: the last so many epochs.
    """

    mosaic: float = 0.0
    unmixed_epochs: int = 0

    mixes: ClassVar[tuple[str, ...]] = ("mosaic",)

    def mixing(self, targets: "type[Targets]") -> "Mixing | None":
        """Return what joins several images to one, before all other changes; None for nothing.

        Args:
            targets: How the targets of these images are cut and joined; see van.data.mixing.

        Raises:
            DataError: a value is out of range.
        """
        _check(self, *self.mixes)
        _check(self, "unmixed_epochs", high=math.inf)
        chances = {name: getattr(self, name) for name in self.mixes}
        if not any(chances.values()):
            if self.unmixed_epochs:
                raise DataError(
                    f"augmentation.unmixed_epochs is {self.unmixed_epochs}, which has no effect without "
                    f"{' or '.join(self.mixes)}. Leave it out."
                )
            return None
        from van.data.mixing import Mixing

        return Mixing(targets, **chances)


@dataclass
class ClassificationAugmentation:
    """Random changes to the training images, named and applied as in timm.

    Attributes:
        scale: Smallest and largest fraction of the image's area that a random crop keeps.
        ratio: Smallest and largest aspect ratio of a random crop.
        hflip: Probability of a horizontal flip.
        vflip: Probability of a vertical flip.
        color_jitter: Strength of random brightness, contrast and saturation; null means 0.4, or none where auto_augment
            takes its place.
        auto_augment: timm's policy string, such as rand-m9-mstd0.5-inc1; null for none.
        random_erasing: Probability of erasing a rectangle and filling it with noise.
        erase_mixed: Erase after mixup and CutMix, as timm's loader does, instead of before.
        mixup: Alpha of mixup, applied to whole batches; 0 for none.
        cutmix: Alpha of CutMix, which alternates with mixup; 0 for none.
        interpolation: bilinear, bicubic, or random to alternate between them.
    """

    refused: ClassVar[Mapping[str, str]] = {
        "mosaic": "a label is of a whole image. mixup and cutmix mix images of classes",
        "copy_paste": "images of classes have no objects with masks. cutmix pastes parts of images",
    }

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float | None = None
    auto_augment: str | None = None
    random_erasing: float = 0.0
    erase_mixed: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    interpolation: str = "random"

    def transform(self, preprocessing: dict[str, Any]) -> Any:
        """Return timm's training transform, from a PIL image to a tensor.

        Args:
            preprocessing: timm's data configuration: input_size (C, H, W), mean and std.

        Raises:
            DataError: timm has no such policy or interpolation, or a value is out of range.
        """
        _check(self, "hflip", "vflip", "random_erasing")
        _check(self, "mixup", "cutmix", high=math.inf)
        _check(self, "scale", "ratio", high=math.inf, above=True, pair="range")
        if self.erase_mixed and not self.random_erasing:
            raise DataError("augmentation.erase_mixed is set, but random_erasing is 0. Set it too, or leave out both.")
        if self.color_jitter is not None:
            _check(self, "color_jitter", high=math.inf)
            if self._replaces_color_jitter:
                raise DataError(
                    f"augmentation.color_jitter is {self.color_jitter}, but auto_augment {self.auto_augment} takes its "
                    "place. Leave one of them out."
                )
        from van.data.transforms import timm_transform

        return timm_transform(self, preprocessing)

    @property
    def _replaces_color_jitter(self) -> bool:
        """Whether auto_augment takes the place of color jitter: in timm all policies do but 3-Augment."""
        return bool(self.auto_augment) and "3a" not in str(self.auto_augment)

    @property
    def jitter(self) -> float:
        """Strength of the color jitter that is applied."""
        default = 0.0 if self._replaces_color_jitter else 0.4
        return default if self.color_jitter is None else self.color_jitter


@dataclass
class DetectionAugmentation(MosaicAugmentation):
    """Random changes to the training images; boxes and masks change with them.

    In the end images are resized to a short edge picked at random from the detector's min_size, unless large-scale
    jitter gives them their size.

    Attributes:
        hflip: Probability of a horizontal flip.
        photometric: Probability of each change of brightness, contrast, saturation and hue.
        random_crop: Probability of cropping an image before it is resized, as DETR and Swin Transformer do: it is
            resized to a short edge picked from random_crop_resize and cropped to a height and a width drawn from
            random_crop_range.
        random_crop_resize: Short edges in pixels, such as 400, 500 and 600; needed for random_crop only.
        random_crop_range: Smallest and largest side of that crop in pixels, such as 384 and 600; needed for random_crop
            only.
        scale_range: Smallest and largest factor of large-scale jitter (Ghiasi et al. 2021, arXiv 2012.07177), such as
            0.1 and 2.0; factor 1 fits an image into crop_size. Null for none.
        crop_size: Height and width in pixels that images are cropped or padded to after large-scale jitter, to train at
            this size; needed for scale_range only.
        min_box_size: Boxes with a side shorter than this, in pixels, are dropped afterwards.
        mixup: Probability of blending an image with another one, each with its objects (Zhang et al. 2019, arXiv
            1902.04103). The share of each is drawn from a beta distribution, most often near one half.
    """

    refused: ClassVar[Mapping[str, str]] = {"copy_paste": "it needs the masks of the objects. Train the task instances"}
    mixes: ClassVar[tuple[str, ...]] = ("mosaic", "mixup")

    hflip: float = 0.5
    photometric: float = 0.0
    random_crop: float = 0.0
    random_crop_resize: list[int] | None = None
    random_crop_range: tuple[int, int] | None = None
    scale_range: tuple[float, float] | None = None
    crop_size: tuple[int, int] | None = None
    min_box_size: float = 1.0
    mixup: float = field(default=0.0, kw_only=True)

    def transform(self, min_size: Sequence[int], max_size: int) -> "v2.Transform":
        """Return the changes as one transform of an image and its target.

        Args:
            min_size: Short edges in pixels of the detector, of which one is picked at random.
            max_size: Largest long edge in pixels.

        Raises:
            DataError: a value is out of range, or options do not go together.
        """
        _check(self, "hflip", "photometric", "random_crop", "blur", "random_erasing")
        _check(self, "min_box_size", high=math.inf)
        if (self.scale_range is None) != (self.crop_size is None):
            raise DataError(
                f"augmentation.scale_range is {self.scale_range} and augmentation.crop_size {self.crop_size}, but "
                "large-scale jitter needs both. Give both or neither."
            )
        cropping = [self.random_crop_resize is not None, self.random_crop_range is not None]
        if cropping != [self.random_crop > 0] * 2:
            raise DataError(
                f"augmentation.random_crop is {self.random_crop}, random_crop_resize {self.random_crop_resize} and "
                f"random_crop_range {self.random_crop_range}, expected all three or none of them."
            )
        if self.random_crop:
            _check(self, "random_crop_range", low=1, high=math.inf, pair="range")
            if not self.random_crop_resize or min(self.random_crop_resize) < 1:
                raise DataError(
                    f"augmentation.random_crop_resize is {self.random_crop_resize}, expected short edges from 1 up."
                )
        if self.scale_range is not None:
            _check(self, "scale_range", high=math.inf, above=True, pair="range")
            _check(self, "crop_size", low=1, high=math.inf, pair="height and width")
            if self.random_crop or len(min_size) > 1:
                raise DataError(
                    f"augmentation.scale_range is {self.scale_range}, which gives images the size {self.crop_size} to "
                    "train at. Leave out augmentation.random_crop, and give one model.min_size, for evaluation."
                )
        from van.data.transforms import detection_transform

        return detection_transform(self, min_size, max_size)


@dataclass
class InstancesAugmentation(DetectionAugmentation):
    """Random changes to the training images of objects with masks; see DetectionAugmentation.

    Attributes:
        copy_paste: Probability of pasting a random part of the objects of another image, at a random scale and place
            (Ghiasi et al. 2021, arXiv 2012.07177). What they hide is taken from masks and boxes, and objects with less
            than a tenth of their area left are dropped.
    """

    refused: ClassVar[Mapping[str, str]] = {}
    mixes: ClassVar[tuple[str, ...]] = ("mosaic", "copy_paste", "mixup")

    copy_paste: float = field(default=0.0, kw_only=True)


@dataclass
class PoseAugmentation(DenseAugmentation):
    """Random changes to the training crops; the defaults are those of SimpleBaseline and HRNet.

    Attributes:
        shift: Largest shift of the crop's center in widths and heights of the crop; needed for shift_probability only.
        shift_probability: Probability of a shift.
        scale: Standard deviation of the crop's size around 1; sizes are clipped to one standard deviation.
        rotation: Standard deviation of the rotation in degrees; angles are clipped to two standard deviations.
        rotation_probability: Probability of a rotation.
        hflip: Probability of a horizontal flip.
        half_body: Probability of cropping to the upper or lower half of a person with more than 8 visible keypoints.
        upper_half: Probability that it is the upper half, where both have three visible keypoints. The published code
            compares a normal instead of a uniform number with 0.5, which is 0.69.
        photometric: Probability of each change of brightness, contrast, saturation and hue.
    """

    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("mosaic", "mixup", "copy_paste"), "a crop is trained with the keypoints of one person alone"
    )

    shift: float = 0.0
    shift_probability: float = 0.0
    scale: float = 0.35
    rotation: float = 40.0
    rotation_probability: float = 0.6
    hflip: float = 0.5
    half_body: float = 0.3
    upper_half: float = 0.69
    photometric: float = 0.0

    def transform(self, names: Sequence[str], size: tuple[int, int]) -> "RandomRegion":
        """Return what draws the region to crop.

        Args:
            names: Names of the keypoints.
            size: Height and width of the crops.

        Raises:
            DataError: a value is out of range, or options do not go together.
        """
        _check(self, "shift_probability", "rotation_probability", "hflip", "half_body", "upper_half")
        _check(self, "photometric", "blur", "random_erasing")
        _check(self, "rotation", "shift", high=math.inf)
        _check(self, "scale")
        if self.scale == 1:
            raise DataError("augmentation.scale is 1.0, expected a number below 1: crops would have no area.")
        if (self.shift > 0) != (self.shift_probability > 0):
            raise DataError(
                f"augmentation.shift is {self.shift} and augmentation.shift_probability {self.shift_probability}, but "
                "a shift needs both. Give both or neither."
            )
        from van.data.pose import RandomRegion

        return RandomRegion(self, names, size)


@dataclass
class SemanticAugmentation(MosaicAugmentation):
    """Random changes to the training images and their labels.

    Attributes:
        fit: Short and long edge in pixels that factor 1 fits an image into.
        scale_range: Smallest and largest factor of the random scale.
        crop_size: Height and width of the random crop; smaller images are padded, with labels that are ignored.
        max_class_share: Largest fraction of the crop's labeled pixels that one class may have; crops that exceed it are
            drawn again, up to ten times (cat_max_ratio in MMSegmentation). 1 takes the first crop.
        hflip: Probability of a horizontal flip.
        photometric: Probability of each change of brightness, contrast, saturation and hue
            (PhotoMetricDistortion in MMSegmentation).
        brightness: Largest number added to all color values or taken from them, which go from 0 to 255.
        contrast: Smallest and largest factor on all color values.
        saturation: Smallest and largest factor on the saturation.
        hue: Largest rotation of the hue in either direction, where 180 is the whole circle.
        antialias: Smooth images that are scaled down; MMSegmentation does not.
    """

    refused: ClassVar[Mapping[str, str]] = {
        "mixup": "a pixel of two blended images has no single class",
        "copy_paste": "labels of pixels do not tell objects apart. The tasks instances and panoptic have it",
    }

    fit: tuple[int, int] = (512, 2048)
    scale_range: tuple[float, float] = (0.5, 2.0)
    crop_size: tuple[int, int] = (512, 512)
    max_class_share: float = 0.75
    hflip: float = 0.5
    photometric: float = 0.5
    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0
    antialias: bool = True

    def transform(self) -> "v2.Transform":
        """Return the changes as one transform of an image and its labels.

        Raises:
            DataError: a value is out of range.
        """
        _check(self, "max_class_share", "hflip", "photometric", "blur", "random_erasing")
        _check(self, "brightness", high=255)
        _check(self, "hue", high=90)
        _check(self, "contrast", "saturation", high=math.inf, pair="range")
        _check(self, "fit", low=1, high=math.inf, pair="range")
        _check(self, "scale_range", high=math.inf, above=True, pair="range")
        _check(self, "crop_size", low=1, high=math.inf, pair="height and width")
        from van.data.transforms import semantic_transform

        return semantic_transform(self)


@dataclass
class PanopticAugmentation(MosaicAugmentation):
    """Random changes to the training images and their segments: large-scale jitter (arXiv 2012.07177).

    Attributes:
        scale_range: Smallest and largest factor of the random scale; factor 1 fits an image into crop_size.
        crop_size: Height and width that images are cropped or padded to.
        hflip: Probability of a horizontal flip.
        photometric: Probability of each change of brightness, contrast, saturation and hue.
        copy_paste: Probability of pasting a random part of the countable objects of another image, at a random scale
            and place; objects that they hide all but a tenth of are dropped.
    """

    refused: ClassVar[Mapping[str, str]] = {"mixup": "a pixel of two blended images has no single segment"}
    mixes: ClassVar[tuple[str, ...]] = ("mosaic", "copy_paste")

    scale_range: tuple[float, float] = (0.1, 2.0)
    crop_size: tuple[int, int] = (1024, 1024)
    hflip: float = 0.5
    photometric: float = 0.0
    copy_paste: float = field(default=0.0, kw_only=True)

    def transform(self) -> "v2.Transform":
        """Return the changes as one transform of an image and its map of segments.

        Raises:
            DataError: a value is out of range.
        """
        _check(self, "hflip", "photometric", "blur", "random_erasing")
        _check(self, "scale_range", high=math.inf, above=True, pair="range")
        _check(self, "crop_size", low=1, high=math.inf, pair="height and width")
        from van.data.transforms import panoptic_transform

        return panoptic_transform(self)


@dataclass
class SaliencyAugmentation(DenseAugmentation):
    """Random changes to the training images and their masks.

    Attributes:
        image_sizes: Heights and widths that training images are resized to, whatever their proportions. An epoch
            passes over all images at each of them, one after the other.
        crop: Half of the images lose up to this fraction of their height at the top and as much at the bottom, the same
            of their width on both sides, and are resized back.
        hflip: Probability of a horizontal flip.
        vflip: Probability of a vertical flip.
        photometric: Probability of each change of brightness, contrast, saturation and hue.
    """

    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("mosaic", "mixup", "copy_paste"), "what stands out depends on the whole image"
    )

    image_sizes: list[tuple[int, int]] = field(default_factory=lambda: [(320, 320), (352, 352), (384, 384)])
    crop: float = 1 / 32
    hflip: float = 0.5
    vflip: float = 0.0
    photometric: float = 0.0

    def transform(self) -> "list[v2.Transform]":
        """Return the changes as transforms of an image and its mask, one for each of image_sizes.

        Raises:
            DataError: a value is out of range.
        """
        _check(self, "hflip", "vflip", "photometric", "blur", "random_erasing")
        _check(self, "crop", high=0.4)
        if not self.image_sizes or any(len(size) != 2 or min(size) < 1 for size in self.image_sizes):
            raise DataError(
                f"augmentation.image_sizes is {self.image_sizes}, expected one or more pairs of a height and a width, "
                "such as [[384, 384]]."
            )
        from van.data.transforms import saliency_transform

        return [saliency_transform(self, size) for size in self.image_sizes]
