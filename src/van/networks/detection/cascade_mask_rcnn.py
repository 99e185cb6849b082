"""Cascade Mask R-CNN (Cai, Vasconcelos 2018, arXiv 1712.00726)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from van.networks.detection.mask_rcnn import MaskRCNNOptions

if TYPE_CHECKING:
    from torch import nn

    from van.models.backbone import Backbone


@dataclass
class CascadeMaskRCNNOptions(MaskRCNNOptions):
    """Cascade Mask R-CNN: three stages, each of which refines the boxes of the previous one.

    The box heads have four convolutions with BatchNorm, pyramid_channels wide, and one linear layer, box_width wide.

    Attributes:
        architecture: cascade_mask_rcnn.
    """

    architecture: Literal["cascade_mask_rcnn"] = "cascade_mask_rcnn"  # pyright: ignore[reportIncompatibleVariableOverride]

    def detector(self, backbone: "Backbone", num_classes: int) -> "nn.Module":
        """Return Cascade Mask R-CNN on all four stages and one level above."""
        from van.networks.detection.cascade_heads import cascade_heads
        from van.networks.detection.two_stage import two_stage

        return two_stage(backbone, cascade_heads(num_classes, self), self)
