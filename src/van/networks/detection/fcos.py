"""FCOS (Tian et al. 2019, arXiv 1904.01355)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from van.networks.detection.options import OneStageOptions

if TYPE_CHECKING:
    from torch import nn

    from van.models.backbone import Backbone


@dataclass
class FCOSOptions(OneStageOptions):
    """FCOS: boxes without anchors, one stage.

    pyramid_channels must be a multiple of 8.

    Attributes:
        architecture: fcos.
        center_sampling_radius: Positions within this many strides of a box's center may learn it.
    """

    architecture: Literal["fcos"] = "fcos"
    center_sampling_radius: float = 1.5
    nms_threshold: float = 0.6

    def detector(self, backbone: "Backbone", num_classes: int) -> "nn.Module":
        """Return FCOS on the stages with strides 8 to 32 and two levels above."""
        from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead

        from van.networks.detection.one_stage import FCOS, FCOSHead
        from van.networks.detection.parts import Pyramid, Transform, float_outputs, group_norm

        width, norm = self.pyramid_channels, group_norm(self.pyramid_channels)
        head = FCOSHead(32, 1, num_classes, num_convs=0)  # it only knows 32 groups, too many for narrow heads
        head.classification_head = FCOSClassificationHead(width, 1, num_classes, norm_layer=norm)
        head.regression_head = FCOSRegressionHead(width, 1, norm_layer=norm)
        model = FCOS(
            Pyramid(backbone, width, "output"),
            num_classes,
            head=head,
            center_sampling_radius=self.center_sampling_radius,
            **self.postprocessing(),
        )
        model.transform = Transform(self)
        float_outputs(model.backbone, model.head)
        return model
