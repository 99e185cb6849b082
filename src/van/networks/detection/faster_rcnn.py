"""Faster R-CNN (Ren et al. 2015, arXiv 1506.01497)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from van.networks.detection.options import DetectorOptions

if TYPE_CHECKING:
    from torch import nn

    from van.models.backbone import Backbone


@dataclass
class FasterRCNNOptions(DetectorOptions):
    """Faster R-CNN: boxes from proposals, two stages.

    Attributes:
        architecture: faster_rcnn.
        anchor_sizes: Side length in pixels of the anchors of each of the five levels, a number or a list.
        aspect_ratios: Height divided by width of the anchors.
        canonical_scale: Boxes with this side length in pixels are classified from the level with stride 16.
        box_width: Width of the linear layers of the box head.
        proposals_train: Largest number of proposals per image in training, per level before non-maximum suppression and
            in all after it.
        proposals_test: The same in evaluation.
        box_batch_size_per_image: Number of proposals per image that the box head trains on.
        score_threshold: Detections with a smaller score are dropped.
        nms_threshold: Of two boxes of a class that overlap by a larger IoU, only the better one is kept.
        detections_per_image: Largest number of detections per image.
    """

    architecture: Literal["faster_rcnn"] = "faster_rcnn"
    anchor_sizes: list[float | list[float]] = field(default_factory=lambda: [32, 64, 128, 256, 512])
    aspect_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    canonical_scale: int = 224
    box_width: int = 1024
    proposals_train: int = 2000
    proposals_test: int = 1000
    box_batch_size_per_image: int = 512
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections_per_image: int = 100

    def detector(self, backbone: "Backbone", num_classes: int) -> "nn.Module":
        """Return Faster R-CNN on all four stages and one level above."""
        from van.networks.detection.two_stage import faster_rcnn

        return faster_rcnn(backbone, num_classes, self)
