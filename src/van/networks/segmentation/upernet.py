"""UPerNet (Xiao et al. 2018, arXiv 1807.10221) with its auxiliary head, as T12 of the paper uses it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from van.errors import VanError
from van.heads.pixels.parts import PixelModel, check_labels, full_size, init_head, semantic_loss
from van.models.backbone import Backbone

try:
    from transformers import UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead
except ImportError as error:
    raise VanError("UPerNet needs transformers: pip install 'visual-attention-network[segmentation]'.") from error


class UPerNet(PixelModel):
    """UPerNet: pyramid pooling on the last map, a pyramid from it to the first, one classifier on all levels.

    The heads are those of transformers, with dropout before their classifiers, which it leaves out. They stand on our
    backbone in place of its own wrapper of timm, which cannot freeze stages or pass arguments on.

    Args:
        backbone: With four maps.
        num_classes: Classes K.
        mean: Mean of each colour; None takes the backbone's own.
        std: Standard deviation of each colour; None takes the backbone's own.
        channels: Channels of the head.
        pool_scales: Sides of the maps that the last map is pooled to.
        dropout: Share of the channels that training leaves out before the classifiers.
        auxiliary_channels: Channels of the head on the third map that only training uses.
        auxiliary_weight: Weight of its loss.
    """

    input_size = (3, 512, 2048)
    alone = float("inf")  # pyramid pooling makes a map of one position

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        auxiliary_channels: int = 256,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__(backbone, mean, std)
        self.num_classes = num_classes
        self.auxiliary_weight = auxiliary_weight
        config = UperNetConfig(
            hidden_size=channels,
            pool_scales=list(pool_scales),
            auxiliary_channels=auxiliary_channels,
        )
        config.num_labels = num_classes
        self.decode_head: Any = UperNetHead(config, backbone.channels)
        self.auxiliary_head: Any = UperNetFCNHead(config, backbone.channels)
        for head in (self.decode_head, self.auxiliary_head):
            init_head(head, head.classifier)
            head.classifier = nn.Sequential(nn.Dropout2d(dropout), head.classifier)

    def forward(
        self, images: torch.Tensor, targets: torch.Tensor | None = None
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Label every pixel.

        Args:
            images: (B, 3, H, W), bytes or floats from 0 to 1.
            targets: In training labels (B, H, W), 255 where they do not count.

        Returns:
            The losses by name in training with targets, to be added; else logits (B, K, H, W).

        Raises:
            DataError: images or targets are not as described.
        """
        x = self.prepare(images)
        maps = self.backbone(x)
        logits = full_size(self.decode_head(maps), x.shape, images.shape)
        if not self.training or targets is None:
            return logits
        labels = check_labels(targets, images, self.num_classes)
        auxiliary = full_size(self.auxiliary_head(maps), x.shape, images.shape)
        return {
            "segmentation": semantic_loss(logits, labels),
            "auxiliary": self.auxiliary_weight * semantic_loss(auxiliary, labels),
        }

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to class probabilities (B, K, H, W)."""
        return self(images).softmax(1)
