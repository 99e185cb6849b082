"""Semantic FPN (Kirillov et al. 2019, arXiv 1901.02446), as table 12 of the VAN paper uses it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from van.models.backbone import Backbone
from van.networks.dense import conv_norm_relu, init_head
from van.networks.segmentation.options import SemanticFPNOptions
from van.networks.segmentation.semantic import SemanticNetwork


class PyramidHead(nn.Module):
    """Sums all levels of a pyramid at the size of the finest one and classifies each position.

    The level of stride 4 * 2**i passes i (at least one) 3x3 convolutions, each followed by upsampling by 2 except on
    the finest level.

    Args:
        in_channels: Channels of every level.
        channels: Channels inside the head.
        num_classes: Number of classes K.
        dropout: Dropout rate of the channels before the classifier.
        levels: Number of levels.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float, levels: int = 4) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for i in range(levels):
            layers: list[nn.Module] = []
            for j in range(max(i, 1)):
                layers.append(conv_norm_relu(in_channels if j == 0 else channels, channels))
                if i > 0:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.levels.append(nn.Sequential(*layers))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        init_head(self, self.classifier)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Map the levels, finest first, each half the size of the one before, to (B, K, h, w) of the first size."""
        total = self.levels[0](maps[0])
        for level, x in zip(self.levels[1:], maps[1:], strict=True):
            x = level(x)
            if x.shape != total.shape:  # of images that are not padded
                x = F.interpolate(x, size=total.shape[-2:], mode="bilinear", align_corners=False)
            total = total + x
        return self.classifier(self.dropout(total))


class SemanticFPN(SemanticNetwork):
    """Semantic FPN.

    Args:
        backbone: With four feature maps.
        num_classes: Number of classes K.
        options: What the network is built from.
    """

    def __init__(self, backbone: Backbone, num_classes: int, options: SemanticFPNOptions) -> None:
        super().__init__(backbone, num_classes, options)
        self.neck = FeaturePyramidNetwork(backbone.channels, options.pyramid_channels)
        self.head = PyramidHead(options.pyramid_channels, options.channels, num_classes, options.dropout)

    def decode(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Map the backbone's feature maps to logits (B, K, h, w)."""
        return self.head(list(self.neck({str(i): m for i, m in enumerate(maps)}).values()))
