"""RT-DETR (Zhao et al. 2023, arXiv 2304.08069)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from van.networks.detection.options import DETROptions

if TYPE_CHECKING:
    from torch import nn

    from van.models.backbone import Backbone


@dataclass
class RTDETROptions(DETROptions):
    """RT-DETR: a hybrid encoder, whose transformer layers see only the last feature map.

    Attributes:
        architecture: rt_detr.
        denoising_queries: Number of additional queries in training that start from noisy boxes.
    """

    architecture: Literal["rt_detr"] = "rt_detr"
    encoder_layers: int = 1
    denoising_queries: int = 100

    def detector(self, backbone: "Backbone", num_classes: int) -> "nn.Module":
        """Return RT-DETR on the stages with strides 8 to 32."""
        from van.networks.detection.detr import rt_detr

        return rt_detr(backbone, num_classes, self)
