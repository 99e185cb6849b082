"""EDN (Wu et al. 2022, arXiv 2012.13093): salient object detection, on a VAN as in table 17 of the VAN paper.

Written from the description in the EDN paper: an extremely downsampled block above the backbone that sees the whole
image, a decoder of scale-correlated pyramid convolutions, and cross-entropy and Dice loss on every level. The widths
are ours: EDN sets them for VGG and ResNet, whose first map is finer than VAN's.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from van.errors import DataError
from van.models.backbone import Backbone
from van.networks.dense import DenseNetwork, conv_norm_relu, full_size, init_head
from van.networks.options import IGNORED, EDNOptions


class ScaleCorrelatedPyramidConv(nn.Module):
    """Scale-correlated pyramid convolution: dilated convolutions, each of which also sees the result of the previous.

    The input is reduced to the output's width and split into one group of channels per dilation. The result of the
    previous group is added to each group before its convolution; all results are concatenated, fused and added to the
    reduced input.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output, a multiple of the number of dilations.
        dilations: Dilation of each group.
    """

    def __init__(self, in_channels: int, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        width = channels // len(dilations)
        self.reduce = conv_norm_relu(in_channels, channels, 1)
        self.parts = nn.ModuleList(conv_norm_relu(width, width, dilation=dilation) for dilation in dilations)
        self.fuse = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H, W)."""
        x = self.reduce(x)
        results: list[torch.Tensor] = []
        for part, conv in zip(x.chunk(len(self.parts), 1), self.parts, strict=True):
            results.append(conv(part + results[-1] if results else part))
        return F.relu(x + self.fuse(torch.cat(results, 1)))


class ExtremelyDownsampledBlock(nn.Module):
    """Extremely downsampled block: halves the backbone's last map twice more, then applies channel attention.

    Args:
        in_channels: Channels of the backbone's last map.
        channels: Channels of both outputs.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(conv_norm_relu(in_channels, channels), conv_norm_relu(channels, channels))
        self.second = nn.Sequential(conv_norm_relu(channels, channels), conv_norm_relu(channels, channels))
        self.attention = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, in_channels, H, W) to maps of half and of a quarter of its size, rounded up."""
        half = self.first(F.max_pool2d(x, 2, ceil_mode=True))
        quarter = self.second(F.max_pool2d(half, 2, ceil_mode=True))
        return half, quarter * self.attention(quarter.mean((2, 3), keepdim=True)).sigmoid()


class EDN(DenseNetwork):
    """EDN: which pixels belong to salient objects.

    Args:
        backbone: With four feature maps.
        options: What the network is built from.
    """

    input_size = (3, 384, 384)
    alone = 128

    def __init__(self, backbone: Backbone, options: EDNOptions) -> None:
        super().__init__(backbone, options)
        channels, global_channels = options.channels, options.global_channels
        self.dice_weight = options.dice_weight
        self.downsampled = ExtremelyDownsampledBlock(backbone.channels[-1], global_channels)
        widths = [*backbone.channels, global_channels, global_channels]
        self.lateral = nn.ModuleList(conv_norm_relu(width, channels, 1) for width in widths)
        levels = len(widths)
        self.decoder = nn.ModuleList(
            ScaleCorrelatedPyramidConv(channels if i == levels - 1 else 2 * channels, channels, options.dilations)
            for i in range(levels)
        )
        self.classifiers = nn.ModuleList(nn.Conv2d(channels, 1, 1) for _ in range(levels))
        for module in (self.downsampled, self.lateral, self.decoder):
            init_head(module)
        init_head(self.classifiers, *self.classifiers)

    def forward(
        self, images: torch.Tensor, targets: torch.Tensor | None = None
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Find salient objects.

        Args:
            images: (B, 3, H, W), bytes or floats from 0 to 1.
            targets: In training (B, H, W) or (B, 1, H, W), boolean or floats from 0 to 1, 255 for ignored pixels.

        Returns:
            In training with targets, the losses by name, to be added: saliency of the finest level, supervision of the
            others; otherwise probabilities (B, 1, H, W).

        Raises:
            DataError: Images or targets have the wrong shape or type.
        """
        x = self.prepare(images)
        maps = self.backbone(x)
        maps = [*maps, *self.downsampled(maps[-1])]
        wanted = self.training and targets is not None
        levels: list[torch.Tensor] = []
        decoded: torch.Tensor | None = None
        for i in reversed(range(len(maps))):
            joined = self.lateral[i](maps[i])
            if decoded is not None:
                above = F.interpolate(decoded, size=joined.shape[-2:], mode="bilinear", align_corners=False)
                joined = torch.cat([joined, above], 1)
            decoded = self.decoder[i](joined)
            if wanted or i == 0:
                levels.append(full_size(self.classifiers[i](decoded), x.shape, images.shape))
        if targets is None or not wanted:
            return levels[-1].sigmoid()
        mask, counts = _saliency_target(targets, images)
        *others, finest = (saliency_loss(level, mask, counts, self.dice_weight) for level in levels)
        return {"saliency": finest, "supervision": torch.stack(others).sum()}


def _saliency_target(targets: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return masks (B, 1, H, W) from 0 to 1 and which of their pixels count."""
    shape = (len(images), *images.shape[-2:])
    mask = targets[:, 0] if targets.ndim == 4 and targets.shape[1] == 1 else targets
    if tuple(mask.shape) != shape or not (mask.is_floating_point() or mask.dtype == torch.bool):
        raise DataError(
            f"Targets are {targets.dtype} of shape {tuple(targets.shape)}, expected booleans or floats from 0 to 1 of "
            f"shape {shape}: divide bytes of 0 and 255 by 255."
        )
    mask = mask.float()[:, None]
    counts = mask != IGNORED
    return mask * counts, counts


def saliency_loss(
    logits: torch.Tensor, mask: torch.Tensor, counts: torch.Tensor, dice_weight: float = 1.0
) -> torch.Tensor:
    """Return binary cross-entropy plus Dice loss over the pixels that count; 0 where none does.

    Args:
        logits: (B, 1, H, W).
        mask: (B, 1, H, W) from 0 to 1.
        counts: (B, 1, H, W), boolean.
        dice_weight: Weight of the Dice loss, which is averaged over the images.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    entropy = (entropy * counts).sum() / counts.sum().clamp(min=1)
    found = logits.sigmoid() * counts
    overlap, total = (found * mask).flatten(1).sum(1), (found + mask).flatten(1).sum(1)
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return entropy + dice_weight * dice.mean()
