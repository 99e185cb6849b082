"""Semantic FPN (Kirillov et al. 2019, arXiv 1901.02446), as T12 of the paper uses it."""

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from van.heads.pixels.parts import PixelModel, check_labels, conv_norm_relu, full_size, init_head, semantic_loss
from van.models.backbone import Backbone


class PyramidHead(nn.Module):
    """Sum of all levels of a pyramid at the finest one's size, then a classifier.

    A level of stride 4 * 2**i goes through i (at least one) 3x3 convolutions, each followed by doubling but for the
    finest level.

    Args:
        in_channels: Of every level.
        channels: Inside the head.
        num_classes: Classes K.
        dropout: Share of the channels that training leaves out before the classifier.
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
        """Map the levels, finest first, each half the size of the one before, to (B, K, h, w) at the first's size."""
        total = self.levels[0](maps[0])
        for level, x in zip(self.levels[1:], maps[1:], strict=True):
            total = total + level(x)
        return self.classifier(self.dropout(total))


class SemanticFPN(PixelModel):
    """Semantic FPN: a feature pyramid and one light head on all its levels.

    Args:
        backbone: With four maps.
        num_classes: Classes K.
        mean: Mean of each colour; None takes the backbone's own.
        std: Standard deviation of each colour; None takes the backbone's own.
        pyramid_channels: Channels of the pyramid.
        channels: Channels of the head.
        dropout: Share of the channels that training leaves out before the classifier.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        pyramid_channels: int = 256,
        channels: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone, mean, std)
        self.num_classes = num_classes
        self.neck = FeaturePyramidNetwork(backbone.channels, pyramid_channels)
        self.head = PyramidHead(pyramid_channels, channels, num_classes, dropout)

    def forward(
        self, images: torch.Tensor, targets: torch.Tensor | None = None
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Label every pixel.

        Args:
            images: (B, 3, H, W), bytes or floats from 0 to 1.
            targets: In training labels (B, H, W), 255 where they do not count.

        Returns:
            The loss by its name in training with targets, else logits (B, K, H, W).

        Raises:
            DataError: images or targets are not as described.
        """
        x = self.prepare(images)
        maps = self.neck({str(i): m for i, m in enumerate(self.backbone(x))})
        logits = full_size(self.head(list(maps.values())), x.shape, images.shape)
        if not self.training or targets is None:
            return logits
        return {"segmentation": semantic_loss(logits, check_labels(targets, images, self.num_classes))}

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to class probabilities (B, K, H, W)."""
        return self(images).softmax(1)
