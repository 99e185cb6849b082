"""EDN as versions up to 0.1.0 built it, kept so that their weight files and runs go on working; new runs use `edn`."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from van.models.backbone import Backbone
from van.networks.dense import conv_norm_relu, init_head
from van.networks.options import LegacyEDNOptions
from van.networks.saliency import SaliencyNetwork


class _PyramidConv(nn.Module):
    def __init__(self, in_channels: int, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        width = channels // len(dilations)
        self.reduce = conv_norm_relu(in_channels, channels, 1)
        self.parts = nn.ModuleList(conv_norm_relu(width, width, dilation=dilation) for dilation in dilations)
        self.fuse = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.reduce(x)
        results: list[torch.Tensor] = []
        for part, conv in zip(x.chunk(len(self.parts), 1), self.parts, strict=True):
            results.append(conv(part + results[-1] if results else part))
        return F.relu(x + self.fuse(torch.cat(results, 1)))


class _DownsampledBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(conv_norm_relu(in_channels, channels), conv_norm_relu(channels, channels))
        self.second = nn.Sequential(conv_norm_relu(channels, channels), conv_norm_relu(channels, channels))
        self.attention = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = self.first(F.max_pool2d(x, 2, ceil_mode=True))
        quarter = self.second(F.max_pool2d(half, 2, ceil_mode=True))
        return half, quarter * self.attention(quarter.mean((2, 3), keepdim=True)).sigmoid()


class LegacyEDN(SaliencyNetwork):
    """EDN with one width in all levels, one pyramid convolution in each, and all six levels supervised.

    Args:
        backbone: With four feature maps.
        options: What the network is built from.
    """

    alone = 128

    def __init__(self, backbone: Backbone, options: LegacyEDNOptions) -> None:
        super().__init__(backbone, options, options.dice_weight)
        width = options.channels
        inputs = [*backbone.channels, options.global_channels, options.global_channels]
        self.downsampled = _DownsampledBlock(backbone.channels[-1], options.global_channels)
        self.lateral = nn.ModuleList(conv_norm_relu(channels, width, 1) for channels in inputs)
        self.decoder = nn.ModuleList(
            _PyramidConv(channels, width, options.dilations) for channels in [2 * width] * (len(inputs) - 1) + [width]
        )
        self.classifiers = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in inputs)
        for module in (self.downsampled, self.lateral, self.decoder):
            init_head(module)
        init_head(self.classifiers, *self.classifiers)

    def decode(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the decoded maps of all levels, the finest first, for the maps of the backbone."""
        maps = [*maps, *self.downsampled(maps[-1])]
        decoded = [self.decoder[-1](self.lateral[-1](maps[-1]))]
        for i in reversed(range(len(maps) - 1)):
            joined = self.lateral[i](maps[i])
            above = F.interpolate(decoded[0], size=joined.shape[-2:], mode="bilinear", align_corners=False)
            decoded.insert(0, self.decoder[i](torch.cat([joined, above], 1)))
        return decoded
