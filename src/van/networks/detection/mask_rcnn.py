"""Mask R-CNN (He et al. 2017, arXiv 1703.06870)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from van.networks.detection.faster_rcnn import FasterRCNNOptions

if TYPE_CHECKING:
    from torch import nn

    from van.models.backbone import Backbone


@dataclass
class MaskRCNNOptions(FasterRCNNOptions):
    """Mask R-CNN: Faster R-CNN with a mask head.

    Attributes:
        architecture: mask_rcnn.
        mask_width: Channels of the mask head.
    """

    architecture: Literal["mask_rcnn"] = "mask_rcnn"  # pyright: ignore[reportIncompatibleVariableOverride]
    mask_width: int = 256

    def detector(self, backbone: "Backbone", num_classes: int) -> "nn.Module":
        """Return Mask R-CNN on all four stages and one level above."""
        from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

        from van.networks.detection.parts import RoIAlign, float_outputs
        from van.networks.detection.two_stage import box_heads, two_stage

        heads = box_heads(num_classes, self)
        heads.mask_roi_pool = RoIAlign(14, self)
        heads.mask_head = MaskRCNNHeads(self.pyramid_channels, (self.mask_width,) * 4, dilation=1)
        heads.mask_predictor = MaskRCNNPredictor(self.mask_width, self.mask_width, num_classes + 1)
        float_outputs(heads.mask_predictor)
        return two_stage(backbone, heads, self)
