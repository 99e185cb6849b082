"""Deformable DETR (Zhu et al. 2020, arXiv 2010.04159)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from van.networks.detection.options import DETROptions

if TYPE_CHECKING:
    from torch import nn

    from van.models.backbone import Backbone


@dataclass
class DeformableDETROptions(DETROptions):
    """Deformable DETR with iterative box refinement.

    Attributes:
        architecture: deformable_detr.
        dropout: Dropout rate inside the transformer.
    """

    architecture: Literal["deformable_detr"] = "deformable_detr"
    dropout: float = 0.1

    def detector(self, backbone: "Backbone", num_classes: int) -> "nn.Module":
        """Return Deformable DETR on the stages with strides 8 to 32 and one level above."""
        from van.networks.detection.detr import deformable_detr

        return deformable_detr(backbone, num_classes, self)
