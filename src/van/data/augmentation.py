"""Random changes of training images, as options. Importing this module loads no heavy library."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from van.errors import DataError

if TYPE_CHECKING:
    from torchvision.transforms import v2

_Number = TypeVar("_Number", int, float)


def _check_shares(options: object, *names: str) -> None:
    """Refuse values that are not from 0 to 1."""
    for name in names:
        if not 0 <= getattr(options, name) <= 1:
            raise DataError(f"augmentation.{name} is {getattr(options, name)}, expected a number from 0 to 1.")


def _check_least(options: object, least: float, *names: str) -> None:
    """Refuse values below a bound."""
    for name in names:
        if not getattr(options, name) >= least:
            raise DataError(f"augmentation.{name} is {getattr(options, name)}, expected {least:g} or more.")


def _pair(name: str, values: Sequence[_Number], rising: bool = False) -> tuple[_Number, _Number]:
    """Return two numbers above 0, after a look at them."""
    if len(values) != 2 or not all(value > 0 for value in values) or (rising and values[0] > values[1]):
        what = "two rising numbers" if rising else "two numbers"
        raise DataError(f"augmentation.{name} is {list(values)}, expected {what} above 0.")
    return values[0], values[1]


@dataclass
class ClassificationAugmentation:
    """Random changes of the training images, as timm names and applies them.

    Attributes:
        scale: Smallest and largest share of the image's area that a random crop keeps.
        ratio: Smallest and largest aspect ratio of a random crop.
        hflip: Probability of a horizontal flip.
        vflip: Probability of a vertical flip.
        color_jitter: Strength of random brightness, contrast and saturation; not used with auto_augment, as in timm.
        auto_augment: timm's policy string, such as rand-m9-mstd0.5-inc1.
        random_erasing: Probability of erasing a rectangle, which is filled with noise.
        mixup: Alpha of mixup, applied to whole batches; 0 for none.
        cutmix: Alpha of CutMix, alternating with mixup; 0 for none.
        interpolation: bilinear, bicubic, or random between them.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float = 0.4
    auto_augment: str | None = None
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    interpolation: str = "random"

    def transform(self, preprocessing: dict[str, Any]) -> Any:
        """Return timm's training transform to tensors of the preprocessing's size, mean and std.

        Raises:
            DataError: timm does not know the policy or interpolation, or a value is out of range.
        """
        from timm.data import auto_augment, create_transform

        _check_shares(self, "hflip", "vflip", "random_erasing")
        _check_least(self, 0, "color_jitter", "mixup", "cutmix")
        scale, ratio = _pair("scale", self.scale, rising=True), _pair("ratio", self.ratio, rising=True)
        auto_augment.NAME_TO_OP.update({name: _posterize for name in auto_augment.NAME_TO_OP if "Posterize" in name})
        try:
            return create_transform(
                input_size=preprocessing["input_size"],
                mean=preprocessing["mean"],
                std=preprocessing["std"],
                is_training=True,
                scale=scale,
                ratio=ratio,
                hflip=self.hflip,
                vflip=self.vflip,
                color_jitter=cast(Any, self.color_jitter or None),
                auto_augment=self.auto_augment,
                re_prob=self.random_erasing,
                re_mode="pixel",
                interpolation=self.interpolation,
            )
        except (AssertionError, KeyError, ValueError) as error:
            raise DataError(
                f"timm knows no auto_augment {self.auto_augment!r} with interpolation {self.interpolation!r} "
                f"({error!r}). Give a policy such as rand-m9-mstd0.5-inc1, and bilinear, bicubic or random."
            ) from error


def _posterize(image: Any, bits_to_keep: int, **_: Any) -> Any:
    """Keep the highest bits of each channel as timm does, down to none of them, which newer Pillows refuse."""
    from PIL import ImageOps

    if bits_to_keep >= 8:
        return image
    return (
        ImageOps.posterize(image, bits_to_keep) if bits_to_keep > 0 else image.point([0] * 256 * len(image.getbands()))
    )


@dataclass
class DetectionAugmentation:
    """Random changes of the training images, with boxes and masks in step.

    The short edge that the detector scales images to is an option of the detector, also where several are drawn from.

    Attributes:
        hflip: Probability of a horizontal flip.
        photometric: Probability of each change of brightness, contrast, saturation and hue.
        jitter: Smallest and largest scale of large-scale jitter (Ghiasi et al. 2021, arXiv 2012.07177), such as
            0.1 and 2.0; images are then cropped or padded to jitter_size. Null for none.
        jitter_size: Height and width in pixels that scale 1 fits an image into.
        min_box: Boxes whose sides are shorter after all this, in pixels, are left out.
    """

    hflip: float = 0.5
    photometric: float = 0.0
    jitter: tuple[float, float] | None = None
    jitter_size: tuple[int, int] = (1024, 1024)
    min_box: float = 1.0

    def transform(self) -> "v2.Transform":
        """Return the changes as one transform of image and target.

        Raises:
            DataError: a value is out of range.
        """
        from van.data.transforms import detection_transform

        _check_shares(self, "hflip", "photometric")
        _check_least(self, 0, "min_box")
        jitter = None if self.jitter is None else _pair("jitter", self.jitter, rising=True)
        return detection_transform(
            self.hflip, self.photometric, jitter, _pair("jitter_size", self.jitter_size), self.min_box
        )


@dataclass
class PoseAugmentation:
    """Random changes of the training crops; the defaults are those of SimpleBaseline and HRNet.

    Attributes:
        scale: Standard deviation of the crop's size around 1, which stays within one such deviation.
        rotation: Standard deviation of the angle in degrees, which stays within two such deviations.
        rotated: Share of the crops that are rotated.
        hflip: Share of the crops that are mirrored.
        half_body: Share of the persons with more than 8 visible keypoints of whom the upper or lower half is cropped.
    """

    scale: float = 0.35
    rotation: float = 40.0
    rotated: float = 0.6
    hflip: float = 0.5
    half_body: float = 0.3

    def check(self) -> None:
        """Refuse values that are out of range.

        Raises:
            DataError: one is.
        """
        if not 0 <= self.scale < 1:
            raise DataError(f"augmentation.scale is {self.scale}, expected a number from 0 to below 1.")
        _check_least(self, 0, "rotation")
        _check_shares(self, "rotated", "hflip", "half_body")


@dataclass
class SemanticAugmentation:
    """Random changes of the training images and their labels.

    Attributes:
        scale: Short and long edge in pixels that factor 1 fits an image into.
        ratio: Smallest and largest random factor of that scale.
        crop: Height and width of the random crop; what is smaller is padded, with labels that are ignored.
        max_class_share: Largest share of one class in the crop (OpenMMLab's cat_max_ratio).
        hflip: Probability of a horizontal flip.
        photometric: Probability of each change of brightness, contrast, saturation and hue.
    """

    scale: tuple[int, int] = (512, 2048)
    ratio: tuple[float, float] = (0.5, 2.0)
    crop: tuple[int, int] = (512, 512)
    max_class_share: float = 0.75
    hflip: float = 0.5
    photometric: float = 0.5

    def transform(self) -> "v2.Transform":
        """Return the changes as one transform of image and labels.

        Raises:
            DataError: a value is out of range.
        """
        from torchvision.transforms import v2

        from van.data.transforms import RandomCropOrPad, RandomScale, photometric

        _check_shares(self, "max_class_share", "hflip", "photometric")
        return v2.Compose(
            [
                RandomScale(_pair("scale", self.scale, rising=True), _pair("ratio", self.ratio, rising=True)),
                RandomCropOrPad(_pair("crop", self.crop), self.max_class_share),
                v2.RandomHorizontalFlip(self.hflip),
                *photometric(self.photometric),
            ]
        )


@dataclass
class PanopticAugmentation:
    """Random changes of the training images and their segments: large-scale jitter (arXiv 2012.07177).

    Attributes:
        jitter: Smallest and largest factor of the scale; factor 1 fits an image into the size.
        size: Height and width that images are cropped or padded to.
        hflip: Probability of a horizontal flip.
        photometric: Probability of each change of brightness, contrast, saturation and hue.
    """

    jitter: tuple[float, float] = (0.1, 2.0)
    size: tuple[int, int] = (1024, 1024)
    hflip: float = 0.5
    photometric: float = 0.0

    def transform(self) -> "v2.Transform":
        """Return the changes as one transform of image and map of segments.

        Raises:
            DataError: a value is out of range.
        """
        from torchvision.transforms import v2

        from van.data.transforms import RandomCropOrPad, photometric

        _check_shares(self, "hflip", "photometric")
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
        size: Height and width that images are resized to, whatever their proportions.
        margin: Pixels cropped off in each direction, at random from one side, the other or both.
        hflip: Probability of a horizontal flip.
        photometric: Probability of each change of brightness, contrast, saturation and hue.
    """

    size: tuple[int, int] = (384, 384)
    margin: int = 12
    hflip: float = 0.5
    photometric: float = 0.0

    def transform(self) -> "v2.Transform":
        """Return the changes as one transform of image and mask.

        Raises:
            DataError: a value is out of range.
        """
        from torchvision.transforms import v2

        from van.data.transforms import photometric

        _check_shares(self, "hflip", "photometric")
        _check_least(self, 0, "margin")
        height, width = _pair("size", self.size)
        return v2.Compose(
            [
                v2.Resize((height + self.margin, width + self.margin), antialias=True),
                v2.RandomCrop((height, width)),
                v2.RandomHorizontalFlip(self.hflip),
                *photometric(self.photometric),
            ]
        )
