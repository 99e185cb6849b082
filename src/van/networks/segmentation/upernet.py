"""UPerNet (Xiao et al. 2018, arXiv 1807.10221) with its auxiliary head, as table 12 of the VAN paper uses it."""

from typing import Any

import torch
from torch import nn

from van.errors import VanError
from van.models.backbone import Backbone
from van.networks.dense import DenseNetwork, full_size, init_head
from van.networks.segmentation.loss import label_maps, semantic_loss
from van.networks.segmentation.options import UPerNetOptions

try:
    from transformers import UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead
except ImportError as error:
    raise VanError("UPerNet needs transformers: pip install 'visual-attention-network[segmentation]'.") from error


class UPerNet(DenseNetwork):
    """UPerNet: pyramid pooling on the last map, a pyramid from it to the first, one classifier on all levels.

    The heads are those of transformers, with the dropout before their classifiers that it leaves out. They stand on
    our backbone because transformers' timm wrapper can neither freeze stages nor pass arguments on.

    Args:
        backbone: With four feature maps.
        num_classes: Number of classes K.
        options: What the network is built from.
    """

    input_size = (3, 512, 2048)
    alone = float("inf")  # pyramid pooling makes a map with a single position

    def __init__(self, backbone: Backbone, num_classes: int, options: UPerNetOptions) -> None:
        super().__init__(backbone, options)
        self.num_classes = num_classes
        self.auxiliary_weight = options.auxiliary_weight
        config = UperNetConfig(
            hidden_size=options.channels,
            pool_scales=list(options.pool_scales),
            auxiliary_channels=options.auxiliary_channels,
        )
        config.num_labels = num_classes
        self.decode_head: Any = UperNetHead(config, backbone.channels)
        self.auxiliary_head: Any = UperNetFCNHead(config, backbone.channels)
        for head in (self.decode_head, self.auxiliary_head):
            init_head(head, head.classifier)
            head.classifier = nn.Sequential(nn.Dropout2d(options.dropout), head.classifier)

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
        maps = self.backbone(x)
        logits = full_size(self.decode_head(maps), x.shape, images.shape)
        if not self.training or targets is None:
            return logits
        labels = label_maps(targets, images)
        auxiliary = full_size(self.auxiliary_head(maps), x.shape, images.shape)
        return {
            "segmentation": semantic_loss(logits, labels),
            "auxiliary": self.auxiliary_weight * semantic_loss(auxiliary, labels),
        }

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to class probabilities (B, K, H, W)."""
        return self(images).softmax(1)
