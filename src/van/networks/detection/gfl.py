"""GFL (Li et al. 2020, arXiv 2006.04388)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from van.networks.detection.atss import ATSSOptions

if TYPE_CHECKING:
    from torch import nn

    from van.models.backbone import Backbone


@dataclass
class GFLOptions(ATSSOptions):
    """GFL: boxes with a distribution for each edge, one stage.

    pyramid_channels must be a multiple of 8.

    Attributes:
        architecture: gfl.
    """

    architecture: Literal["gfl"] = "gfl"  # pyright: ignore[reportIncompatibleVariableOverride]

    def detector(self, backbone: "Backbone", num_classes: int) -> "nn.Module":
        """Return GFL on the stages with strides 8 to 32 and two levels above."""
        from van.networks.detection.atss_heads import GFL

        return GFL(backbone, num_classes, self)
