"""What all networks that label pixels share: images of any size in and out, layers, the semantic loss."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from van.errors import DataError
from van.models.backbone import Backbone

IGNORED = 255  # label of pixels that do not count
_STRIDE = 32  # of the backbone's last map: images are padded to multiples of it


class PixelModel(nn.Module):
    """A backbone and whatever labels pixels on it. Images of any size come in, results have the size of the image.

    Args:
        backbone: Its four maps are what heads work on.
        mean: Mean of each colour, images from 0 to 1; None takes the backbone's own.
        std: Standard deviation of each colour; None takes the backbone's own.

    Attributes:
        options: What it was built from, with everything that came with the weights filled in.
        input_size: (3, H, W) for counting, as the paper counts.
        alone: A single image must have a side larger than this in training: else BatchNorm has one value to normalise.
    """

    options: Any
    input_size: tuple[int, int, int] = (3, 512, 512)
    alone: float = _STRIDE
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, backbone: Backbone, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        for name, values in (("mean", mean or backbone.mean), ("std", std or backbone.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise images (B, 3, H, W), bytes or floats from 0 to 1, and pad them below and to the right.

        Returns:
            (B, 3, H', W'), both multiples of 32; the padding has the mean colour.

        Raises:
            DataError: these are no colour images, or a single small one in training.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
            raise DataError(f"Images have the shape {tuple(images.shape)}, expected (B, 3, H, W).")
        height, width = images.shape[-2:]
        if self.training and len(images) == 1 and max(height, width) <= self.alone:
            size = "or larger images" if self.alone < float("inf") else "whatever their size"
            raise DataError(
                f"A batch has one image of {height}x{width} pixels: {type(self).__name__} needs at least two images in "
                f"training, {size}, for its BatchNorm."
            )
        if not images.is_floating_point():
            images = images / 255
        images = (images - self.mean) / self.std
        return F.pad(images, (0, -width % _STRIDE, 0, -height % _STRIDE))


def full_size(maps: torch.Tensor, padded: torch.Size, size: Sequence[int]) -> torch.Tensor:
    """Bring maps (B, K, h, w) to the padded image, and cut the image out of it.

    Args:
        maps: What a head gave for the padded image.
        padded: Shape of the padded images, H' and W' last.
        size: Shape of the images, H and W last.

    Returns:
        (B, K, H, W) in float32.
    """
    maps = F.interpolate(maps.float(), size=padded[-2:], mode="bilinear", align_corners=False)
    return maps[..., : size[-2], : size[-1]]


def check_labels(labels: torch.Tensor, images: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return labels (B, H, W) as int64.

    Raises:
        DataError: the shape is not that of the images, or a label is no class and not 255.
    """
    expected = (len(images), *images.shape[-2:])
    if labels.is_floating_point() or tuple(labels.shape) != expected:
        raise DataError(
            f"Targets are {labels.dtype} of shape {tuple(labels.shape)}, expected integers of shape {expected}."
        )
    labels = labels.as_subclass(torch.Tensor).long()
    wrong = (labels != IGNORED) & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        raise DataError(
            f"A target has the label {int(labels[wrong][0])}, expected 0 to {num_classes - 1}, or {IGNORED} for pixels "
            "that do not count."
        )
    return labels


def semantic_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the pixels that count, and 0 where none does.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W), classes or 255.
    """
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def conv_norm_relu(in_channels: int, channels: int, kernel_size: int = 3, dilation: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels, channels, kernel_size, padding=kernel_size // 2 * dilation, dilation=dilation, bias=False
        ),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def init_head(head: nn.Module, *classifiers: nn.Module) -> None:
    """Initialise convolutions before a ReLU for it (He et al. 2015), and classifiers small, as OpenMMLab does."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in classifiers:
        nn.init.normal_(cast(torch.Tensor, module.weight), std=0.01)
        nn.init.zeros_(cast(torch.Tensor, module.bias))
