"""Semantic FPN (Kirillov et al. 2019, arXiv 1901.02446), as table 12 of the VAN paper uses it."""

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from van.models.backbone import Backbone
from van.networks.dense import DenseNetwork, conv_norm_relu, full_size, init_head
from van.networks.segmentation.loss import label_maps, semantic_loss
from van.networks.segmentation.options import SemanticFPNOptions


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
        """Map the levels, finest first, each half the size of the previous one, to (B, K, h, w) of the first size."""
        total = self.levels[0](maps[0])
        for level, x in zip(self.levels[1:], maps[1:], strict=True):
            total = total + level(x)
        return self.classifier(self.dropout(total))


class SemanticFPN(DenseNetwork):
    """Semantic FPN.

    Args:
        backbone: With four feature maps.
        num_classes: Number of classes K.
        options: What the network is built from.
    """

    def __init__(self, backbone: Backbone, num_classes: int, options: SemanticFPNOptions) -> None:
        super().__init__(backbone, options)
        self.num_classes = num_classes
        self.neck = FeaturePyramidNetwork(backbone.channels, options.pyramid_channels)
        self.head = PyramidHead(options.pyramid_channels, options.channels, num_classes, options.dropout)

    def forward(
        self, images: torch.Tensor, targets: torch.Tensor | None = None
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Label every pixel.

        Args:
            images: (B, 3, H, W), bytes or floats from 0 to 1.
            targets: In training labels (B, H, W), 255 for ignored pixels.

        Returns:
            In training with targets, the losses by name, to be added; otherwise logits (B, K, H, W).

        Raises:
            DataError: Images or targets have the wrong shape or type.
        """
        x = self.prepare(images)
        maps = self.neck({str(i): m for i, m in enumerate(self.backbone(x))})
        logits = full_size(self.head(list(maps.values())), x.shape, images.shape)
        if not self.training or targets is None:
            return logits
        return {"segmentation": semantic_loss(logits, label_maps(targets, images))}

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to class probabilities (B, K, H, W)."""
        return self(images).softmax(1)
