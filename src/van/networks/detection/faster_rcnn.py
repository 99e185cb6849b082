"""Faster R-CNN (Ren et al. 2015, arXiv 1506.01497)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from van.errors import VanError
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
        proposals_train: Largest number of proposals per image in training, of all levels together.
        proposals_test: The same in evaluation.
        candidates_train: Largest number of proposals per level before non-maximum suppression in training; null for as
            many as proposals_train.
        candidates_test: The same in evaluation; null for as many as proposals_test.
        proposal_loss: Loss of the boxes of proposals: smooth_l1 (beta 1/9) or l1.
        box_loss: Loss of the boxes of the box head: smooth_l1 (beta 1/9) or l1 of their coded form, or giou, ten times
            the generalized IoU loss of the decoded boxes.
        low_quality_matches: Each object is also learned by the proposal that overlaps it most, provided that the IoU is
            high enough for an object, even where that proposal overlaps another object more (match_low_quality in
            MMDetection).
        sampling_ratio: Points along each side that are averaged for a bin of a pooled region; 0 for as many as the bin
            has pixels.
        aligned: Pooled regions are shifted by half a pixel of the feature map, to where their pixels are.
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
    candidates_train: int | None = None
    candidates_test: int | None = None
    proposal_loss: Literal["smooth_l1", "l1"] = "smooth_l1"
    box_loss: Literal["smooth_l1", "l1", "giou"] = "smooth_l1"
    low_quality_matches: bool = False
    sampling_ratio: int = 2
    aligned: bool = False
    box_batch_size_per_image: int = 512
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections_per_image: int = 100

    def check(self, outputs: int) -> None:
        """Raise VanError where an option is out of range."""
        super().check(outputs)
        for when in ("train", "test"):
            proposals, candidates = getattr(self, f"proposals_{when}"), getattr(self, f"candidates_{when}")
            if proposals < 1 or (candidates is not None and candidates < 1):
                raise VanError(
                    f"proposals_{when} is {proposals} and candidates_{when} {candidates}, expected at least 1 each."
                )
        if self.sampling_ratio < 0:
            raise VanError(f"sampling_ratio is {self.sampling_ratio}, expected 0 or more.")

    def detector(self, backbone: "Backbone", num_classes: int) -> "nn.Module":
        """Return Faster R-CNN on all four stages and one level above."""
        from van.networks.detection.two_stage import box_heads, two_stage

        return two_stage(backbone, box_heads(num_classes, self), self)
