"""ATSS (Zhang et al. 2020, arXiv 1912.02424)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from van.networks.detection.options import OneStageOptions

if TYPE_CHECKING:
    from torch import nn

    from van.models.backbone import Backbone


@dataclass
class ATSSOptions(OneStageOptions):
    """ATSS: boxes from one anchor per position, one stage.

    pyramid_channels must be a multiple of 8.

    Attributes:
        architecture: atss.
        anchor_scale: Side length of the anchors in strides.
        candidates: Number of anchors per level that a box may choose from.
    """

    architecture: Literal["atss"] = "atss"
    anchor_scale: float = 8
    candidates: int = 9
    nms_threshold: float = 0.6

    def detector(self, backbone: "Backbone", num_classes: int) -> "nn.Module":
        """Return ATSS on the stages with strides 8 to 32 and two levels above."""
        from van.networks.detection.atss_heads import ATSS

        return ATSS(backbone, num_classes, self)
