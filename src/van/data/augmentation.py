"""How training images are changed at random: one set of options for command line, recipes and Python."""

from dataclasses import dataclass
from typing import Any, cast

from van.errors import DataError


@dataclass
class Augmentation:
    """Random changes of the training images, as timm names and applies them.

    Attributes:
        scale: Smallest and largest share of the image's area that a random crop keeps.
        ratio: Smallest and largest aspect ratio of a random crop.
        hflip: Probability of a horizontal flip.
        vflip: Probability of a vertical flip.
        color_jitter: Strength of random brightness, contrast and saturation; not used beside auto_augment, as in timm.
        auto_augment: timm's policy string, such as rand-m9-mstd0.5-inc1.
        random_erasing: Probability of erasing a rectangle, filled with noise.
        mixup: Alpha of mixup, applied to whole batches; 0 for none.
        cutmix: Alpha of CutMix, taking turns with mixup; 0 for none.
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

        self._check()
        auto_augment.NAME_TO_OP.update({name: _posterize for name in auto_augment.NAME_TO_OP if "Posterize" in name})
        try:
            return create_transform(
                input_size=preprocessing["input_size"],
                mean=preprocessing["mean"],
                std=preprocessing["std"],
                is_training=True,
                scale=self.scale,
                ratio=self.ratio,
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

    def _check(self) -> None:
        """Refuse numbers that timm takes without a word."""
        for name in ("hflip", "vflip", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"augmentation.{name} is {getattr(self, name)}, expected a probability from 0 to 1.")
        for name in ("color_jitter", "mixup", "cutmix"):
            if not getattr(self, name) >= 0:
                raise DataError(f"augmentation.{name} is {getattr(self, name)}, expected 0 or more.")
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise DataError(
                    f"augmentation.{name} is {low}, {high}, expected a smaller and a larger number above 0."
                )


def _posterize(image: Any, bits_to_keep: int, **_: Any) -> Any:
    """Keep the highest bits of each channel as timm does, down to none of them, which newer Pillows refuse."""
    from PIL import ImageOps

    if bits_to_keep >= 8:
        return image
    return (
        ImageOps.posterize(image, bits_to_keep) if bits_to_keep > 0 else image.point([0] * 256 * len(image.getbands()))
    )
