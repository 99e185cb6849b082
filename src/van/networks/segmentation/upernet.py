"""UPerNet (Xiao et al. 2018, arXiv 1807.10221) with its auxiliary head, as table 12 of the VAN paper uses it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from van.errors import VanError
from van.models.backbone import Backbone
from van.networks.dense import init_head
from van.networks.segmentation.options import UPerNetOptions
from van.networks.segmentation.semantic import SemanticNetwork

try:
    from transformers import UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead
except ImportError as error:
    raise VanError("UPerNet needs transformers: pip install 'visual-attention-network[segmentation]'.") from error


class UPerNet(SemanticNetwork):
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
        super().__init__(backbone, num_classes, options)
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

    def decode(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Map the backbone's feature maps to logits (B, K, h, w)."""
        return self.decode_head(maps)

    def auxiliary(self, maps: Sequence[torch.Tensor]) -> tuple[float, torch.Tensor] | None:
        """Map the backbone's feature maps to the weight and the logits (B, K, h, w) of the auxiliary head."""
        return self.auxiliary_weight, self.auxiliary_head(maps)
