"""Mask2Former (Cheng et al. 2022, arXiv 2112.01527) for instance segmentation."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from van.networks.detection.options import DetectorOptions
from van.networks.segmentation.options import Mask2FormerOptions

if TYPE_CHECKING:
    from torch import nn

    from van.models.backbone import Backbone


@dataclass
class Mask2FormerDetectorOptions(Mask2FormerOptions, DetectorOptions):
    """Mask2Former as a detector: objects are masks, and the boxes around them. Needs the extra segmentation.

    Attributes:
        detections_per_image: Largest number of objects per image; one query may give several, of different classes.
    """

    detections_per_image: int = 100

    def check(self, outputs: int) -> None:
        """Raise VanError where an option is out of range."""
        DetectorOptions.check(self, outputs)
        Mask2FormerOptions.check(self, outputs)

    def network(self, backbone: "Backbone", outputs: int) -> "nn.Module":
        """Return the detector behind the interface of all detectors."""
        return DetectorOptions.network(self, backbone, outputs)

    def detector(self, backbone: "Backbone", num_classes: int) -> "nn.Module":
        """Return Mask2Former on all four stages."""
        from van.networks.detection.mask_queries import MaskQueries
        from van.networks.segmentation.mask2former import Mask2Former

        # the images arrive normalized, as in all detectors
        return MaskQueries(Mask2Former(backbone, num_classes, replace(self, mean=[0.0] * 3, std=[1.0] * 3)), self)
