"""EDN (Wu et al. 2022, arXiv 2012.13093): salient object detection, on a VAN as in table 17 of the VAN paper.

An extremely downsampled block above the backbone sees the whole image; a decoder of scale-correlated pyramid
convolutions joins its maps with those of the backbone; cross-entropy and Dice loss supervise five of the six levels.
The head is the published one for P2T-Small, whose maps have the strides and channels of VAN-B1 and VAN-B2.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from van.errors import DataError
from van.models.backbone import Backbone
from van.networks.dense import DenseNetwork, conv_norm_relu, full_size
from van.networks.options import IGNORED, EDNOptions, NetworkOptions

# Of every level, the finest first: dilations of the pyramid convolutions, and width of their parts in 64ths of its own
_DILATIONS = ((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 3, 4), (1, 2, 3, 4), (1, 1, 1, 1), (1, 1, 1, 1))
_PARTS = (32, 24, 24, 24, 24, 24)
_SUPERVISED = 5
_SMOOTH = 1e-5  # keeps the Dice loss of empty masks finite


class ScaleCorrelatedPyramidConv(nn.Module):
    """Scale-correlated pyramid convolution: dilated convolutions, each of which also sees the result of the previous.

    The input is expanded to one part per dilation. The result of the previous part is added to each part before its
    convolution; all results are concatenated, brought back to the input's width and added to the input.

    Args:
        channels: Channels of input and output.
        width: Channels of a part.
        dilations: Dilation of each part.
    """

    def __init__(self, channels: int, width: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.expand = conv_norm_relu(channels, width * len(dilations), 1)
        self.parts = nn.ModuleList(conv_norm_relu(width, width, dilation=dilation) for dilation in dilations)
        self.fuse = nn.Sequential(nn.Conv2d(width * len(dilations), channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, H, W) to the same shape."""
        results: list[torch.Tensor] = []
        for part, conv in zip(self.expand(x).chunk(len(self.parts), 1), self.parts, strict=True):
            results.append(conv(part + results[-1] if results else part))
        return F.relu(x + self.fuse(torch.cat(results, 1)))


class ExtremelyDownsampledBlock(nn.Module):
    """Extremely downsampled block: halves the backbone's last map twice more, then weighs the channels of both results.

    Args:
        in_channels: Channels of the backbone's last map.
        channels: Channels of both outputs.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        inputs = (in_channels, channels)
        self.first, self.second = (
            nn.Sequential(conv_norm_relu(width, channels, bias=True), conv_norm_relu(channels, channels, bias=True))
            for width in inputs
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, in_channels, H, W) to maps of half and of a quarter of its size, rounded down to 1 at least."""
        half = self.first(_halved(x))
        quarter = self.second(_halved(half))
        attention = quarter.mean((2, 3), keepdim=True).sigmoid()
        return half * attention, quarter * attention


def _halved(x: torch.Tensor) -> torch.Tensor:
    height, width = x.shape[-2:]
    return F.max_pool2d(x, (min(height, 2), min(width, 2)))


class SaliencyNetwork(DenseNetwork):
    """Which pixels belong to salient objects, found at several levels of which the finest one is the result.

    Args:
        backbone: With four feature maps.
        options: What the network is built from.
        dice_weight: Weight of the Dice loss relative to the cross-entropy.

    Attributes:
        classifiers: Of the levels that are supervised, the finest first.
    """

    input_size = (3, 384, 384)
    classifiers: nn.ModuleList

    def __init__(self, backbone: Backbone, options: NetworkOptions, dice_weight: float) -> None:
        super().__init__(backbone, options)
        self.dice_weight = dice_weight

    def decode(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the decoded maps of all levels, the finest first, for the maps of the backbone."""
        raise NotImplementedError

    def core(self, images: torch.Tensor) -> torch.Tensor:
        """Map prepared images (B, 3, H, W) to logits (B, 1, h, w) of the finest level."""
        return self.classifiers[0](self.decode(self.backbone(images))[0])

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
        if not self.training or targets is None:
            return full_size(self.core(x), x.shape, images.shape).sigmoid()
        logits = [
            full_size(classifier(level), x.shape, images.shape)
            for classifier, level in zip(self.classifiers, self.decode(self.backbone(x)), strict=False)
        ]
        mask, counts = _saliency_target(targets, images)
        finest, *others = (saliency_loss(level, mask, counts, self.dice_weight) for level in logits)
        return {"saliency": finest, "supervision": torch.stack(others).sum()}


class EDN(SaliencyNetwork):
    """EDN: which pixels belong to salient objects.

    Args:
        backbone: With four feature maps.
        options: What the network is built from.
    """

    alone = 224

    def __init__(self, backbone: Backbone, options: EDNOptions) -> None:
        super().__init__(backbone, options, options.dice_weight)
        inputs = [*backbone.channels, options.global_channels, options.global_channels]
        widths = options.channels
        *finer, coarsest = widths
        self.downsampled = ExtremelyDownsampledBlock(backbone.channels[-1], options.global_channels)
        # half of a level's channels come from its map, and half from the level above, which the coarsest one lacks
        halves = [*(width // 2 for width in finer), coarsest]
        self.lateral = nn.ModuleList(
            conv_norm_relu(channels, width, 1, bias=True) for channels, width in zip(inputs, halves, strict=True)
        )
        self.above = nn.ModuleList(
            conv_norm_relu(channels, width // 2, 1, bias=True)
            for channels, width in zip(widths[1:], finer, strict=True)
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(*(ScaleCorrelatedPyramidConv(width, width * part // 64, dilations) for _ in range(2)))
            for width, part, dilations in zip(widths, _PARTS, _DILATIONS, strict=True)
        )
        self.classifiers = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths[:_SUPERVISED])

    def decode(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the decoded maps of all levels, the finest first, for the maps of the backbone."""
        maps = [*maps, *self.downsampled(maps[-1])]
        decoded = [self.decoder[-1](self.lateral[-1](maps[-1]))]
        for i in reversed(range(len(maps) - 1)):
            above = F.interpolate(
                self.above[i](decoded[0]), size=maps[i].shape[-2:], mode="bilinear", align_corners=False
            )
            decoded.insert(0, self.decoder[i](torch.cat([above, self.lateral[i](maps[i])], 1)))
        return decoded


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
        dice_weight: Weight of the Dice loss, which takes all images of the batch together.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    entropy = (entropy * counts).sum() / counts.sum().clamp(min=1)
    found = logits.sigmoid() * counts
    dice = 1 - (2 * (found * mask).sum() + _SMOOTH) / (found.sum() + mask.sum() + _SMOOTH)
    return entropy + dice_weight * dice
