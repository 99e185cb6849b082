"""What networks that label pixels are made of: options for command line, recipes, weight files and Python."""

from dataclasses import dataclass, field
from typing import Any, Literal

Architecture = Literal["semantic_fpn", "upernet", "mask2former"]


@dataclass
class SegmenterOptions:
    """The segmentation network.

    Attributes:
        architecture: semantic_fpn, upernet (semantic) or mask2former (panoptic, instances, semantic); the last two
            need the extra "segmentation".
        backbone: van_b0 to van_b6, or any network of timm with four stages.
        backbone_args: More arguments of the backbone, such as drop_path_rate or embed_dims.
        frozen_stages: Stages of the backbone, from the stem on, that stay as they are.
        freeze_norm: Whether all BatchNorm of the backbone stays as it is.
        mean: Mean of each colour, images from 0 to 1; null takes the backbone's own.
        std: Standard deviation of each colour; null takes the backbone's own.
        arguments: More arguments of the architecture, by the names of its class (van.heads.pixels), such as dropout
            or queries.
    """

    architecture: Architecture = "semantic_fpn"
    backbone: str = "van_b0"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    frozen_stages: int = 0
    freeze_norm: bool = False
    mean: list[float] | None = None
    std: list[float] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class SaliencyOptions:
    """The saliency network: EDN's head on a backbone.

    Attributes:
        backbone: van_b0 to van_b6, or any network of timm with four stages.
        backbone_args: More arguments of the backbone, such as drop_path_rate or embed_dims.
        frozen_stages: Stages of the backbone, from the stem on, that stay as they are.
        freeze_norm: Whether all BatchNorm of the backbone stays as it is.
        mean: Mean of each colour, images from 0 to 1; null takes the backbone's own.
        std: Standard deviation of each colour; null takes the backbone's own.
        arguments: More arguments of the head, by the names of van.heads.pixels.EDN, such as channels.
    """

    backbone: str = "van_b0"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    frozen_stages: int = 0
    freeze_norm: bool = False
    mean: list[float] | None = None
    std: list[float] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
