"""How training images are changed at random: one set of options for command line, recipes and Python."""

from dataclasses import dataclass
from typing import Any

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
        from timm.data import create_transform

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
                color_jitter=self.color_jitter or None,
                auto_augment=self.auto_augment,
                re_prob=self.random_erasing,
                re_mode="pixel",
                interpolation=self.interpolation,
            )
        except (AssertionError, KeyError, ValueError) as error:
            raise DataError(f"The augmentation {self} is not one that timm knows ({error!r}).") from error
