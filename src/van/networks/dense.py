"""What all networks that predict per pixel share: images of any size in and out, layers, initialization."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from van.errors import DataError
from van.models.backbone import Backbone
from van.networks.options import NetworkOptions

_STRIDE = 32  # of the backbone's last map: images are padded to multiples of it


class DenseNetwork(nn.Module):
    """A backbone and what predicts something for each pixel. Images have any size, and results the size of the image.

    Args:
        backbone: Its four feature maps are what the heads work on.
        options: What the network is built from, with mean and std.

    Attributes:
        options: Those options.
        input_size: (3, H, W) to count with, as the paper does.
        alone: In training, a batch of one image needs a side longer than this many pixels: otherwise some BatchNorm
            sees a single value.
        core_outputs: Names of what core returns.
        core_batched: Whether core takes several images at once.
    """

    input_size: tuple[int, int, int] = (3, 512, 512)
    alone: float = _STRIDE
    core_outputs: ClassVar[tuple[str, ...]] = ("logits",)
    core_batched: ClassVar[bool] = True
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: Backbone, options: NetworkOptions) -> None:
        super().__init__()
        self.backbone = backbone
        self.options = options
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(options, name)).view(1, 3, 1, 1), persistent=False)

    def core(self, images: torch.Tensor) -> Any:
        """Return what the layers with weights make of prepared images; inference engines take the place of this method.

        Args:
            images: (B, 3, H, W), normalized, and padded to multiples of 32.

        Returns:
            A tensor, or a tuple of several, as core_outputs names them.
        """
        raise NotImplementedError

    def prepare(self, images: torch.Tensor, pad: bool = True) -> torch.Tensor:
        """Normalize images (B, 3, H, W), bytes or floats from 0 to 1, and pad them at the bottom and on the right.

        Args:
            images: The images.
            pad: Whether they are padded.

        Returns:
            (B, 3, H', W'), both multiples of 32 where they are padded; the padding has the mean color.

        Raises:
            DataError: These are not color images, or a single small image in training.
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise DataError(f"Images have shape {tuple(images.shape)}, expected (B, 3, H, W).")
        height, width = images.shape[-2:]
        if self.training and len(images) == 1 and max(height, width) <= self.alone:
            raise DataError(
                f"A training batch is one image of {height}x{width} pixels, too little for the BatchNorm layers of "
                f"{type(self).__name__}. Raise the batch size{' or the crop size' if self.alone < math.inf else ''}."
            )
        if not images.is_floating_point():
            images = images.to(torch.promote_types(self.mean.dtype, torch.get_default_dtype())) / 255
        images = (images - self.mean) / self.std
        if not pad:
            return images
        # not -width % 32: torch.compile cannot take the remainder of a negative dynamic size
        right, bottom = ((side + _STRIDE - 1) // _STRIDE * _STRIDE - side for side in (width, height))
        return F.pad(images, (0, right, 0, bottom))


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of a number over all processes that train together; losses are divided by such counts."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def full_precision(values: torch.Tensor) -> torch.Tensor:
    """Return values in float32 at least: float64 stays, what autocast halved is widened."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def full_size(maps: torch.Tensor, padded: torch.Size, size: Sequence[int]) -> torch.Tensor:
    """Scale maps (B, K, h, w) to the padded images and crop the images out of them.

    Args:
        maps: Output of a head for the padded images.
        padded: Shape of the padded images, H' and W' last.
        size: Shape of the images, H and W last.

    Returns:
        (B, K, H, W), in float32 at least.
    """
    maps = F.interpolate(full_precision(maps), size=padded[-2:], mode="bilinear", align_corners=False)
    return maps[..., : size[-2], : size[-1]]


def conv_norm_relu(
    in_channels: int, channels: int, kernel_size: int = 3, dilation: int = 1, bias: bool = False
) -> nn.Sequential:
    """Return a convolution that keeps the size, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels, channels, kernel_size, padding=kernel_size // 2 * dilation, dilation=dilation, bias=bias
        ),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def init_head(head: nn.Module, *classifiers: nn.Module) -> None:
    """Initialize as OpenMMLab does: convolutions for the ReLU after them (He et al. 2015), classifiers near zero."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in classifiers:
        nn.init.normal_(cast(torch.Tensor, module.weight), std=0.01)
        nn.init.zeros_(cast(torch.Tensor, module.bias))
