"""RetinaNet (Lin et al. 2017, arXiv 1708.02002) and FCOS (Tian et al. 2019, arXiv 1904.01355), from torchvision."""

from collections.abc import Sequence
from typing import Any

from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead

from van.errors import VanError
from van.heads.detection.parts import Pyramid, float_outputs, group_norm, sizes_per_level
from van.models.backbone import Backbone


def retinanet(
    backbone: Backbone,
    num_classes: int,
    pyramid_channels: int,
    anchor_sizes: Sequence[float | Sequence[float]] = (32, 64, 128, 256, 512),
    scales_per_octave: int = 3,
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    fg_iou_thresh: float = 0.5,
    bg_iou_thresh: float = 0.4,
    score_thresh: float = 0.05,
    nms_thresh: float = 0.5,
    detections_per_img: int = 100,
    topk_candidates: int = 1000,
    **transform: Any,
) -> RetinaNet:
    """Build RetinaNet on the stages with strides 8 to 32 and two levels above.

    Args:
        backbone: With out_indices 1, 2, 3.
        num_classes: Classes, background not counted.
        pyramid_channels: Width of pyramid and head.
        anchor_sizes: Side in pixels of the anchors of each of the five levels; a list gives all sizes of its level.
        scales_per_octave: Sizes made of each single number: it times 2**(i / scales_per_octave).
        aspect_ratios: Height divided by width of the anchors.
        fg_iou_thresh: Anchors that overlap a box by this IoU or more learn it.
        bg_iou_thresh: Anchors that overlap every box by less learn background.
        score_thresh: Detections below are dropped.
        nms_thresh: Of two boxes of a class that overlap by more, the better one stays.
        detections_per_img: Most detections of an image.
        topk_candidates: Most detections of a level before suppression.
        **transform: min_size, max_size, image_mean, image_std.
    """
    per_level = sizes_per_level(
        [
            [s * 2 ** (i / scales_per_octave) for i in range(scales_per_octave)] if isinstance(s, (int, float)) else s
            for s in anchor_sizes
        ],
        levels=5,
    )
    if len({len(s) for s in per_level}) != 1:
        raise VanError(f"anchor_sizes is {list(anchor_sizes)}, expected as many sizes for each level.")
    model = RetinaNet(
        Pyramid(backbone, pyramid_channels, "input"),
        num_classes,
        anchor_generator=AnchorGenerator(per_level, (tuple(aspect_ratios),) * 5),
        fg_iou_thresh=fg_iou_thresh,
        bg_iou_thresh=bg_iou_thresh,
        score_thresh=score_thresh,
        nms_thresh=nms_thresh,
        detections_per_img=detections_per_img,
        topk_candidates=topk_candidates,
        **transform,
    )
    float_outputs(model.backbone, model.head)
    return model


def fcos(
    backbone: Backbone,
    num_classes: int,
    pyramid_channels: int,
    center_sampling_radius: float = 1.5,
    score_thresh: float = 0.05,
    nms_thresh: float = 0.6,
    detections_per_img: int = 100,
    topk_candidates: int = 1000,
    **transform: Any,
) -> FCOS:
    """Build FCOS on the stages with strides 8 to 32 and two levels above.

    Args:
        backbone: With out_indices 1, 2, 3.
        num_classes: Classes, background not counted.
        pyramid_channels: Width of pyramid and head, a multiple of 8.
        center_sampling_radius: Positions within this many strides of a box's centre may learn it.
        score_thresh: Detections below are dropped.
        nms_thresh: Of two boxes of a class that overlap by more, the better one stays.
        detections_per_img: Most detections of an image.
        topk_candidates: Most detections of a level before suppression.
        **transform: min_size, max_size, image_mean, image_std.
    """
    head = FCOSHead(32, 1, num_classes, num_convs=0)  # which knows nothing but 32 groups, too many for narrow heads
    norm = group_norm(pyramid_channels)
    head.classification_head = FCOSClassificationHead(pyramid_channels, 1, num_classes, norm_layer=norm)
    head.regression_head = FCOSRegressionHead(pyramid_channels, 1, norm_layer=norm)
    model = FCOS(
        Pyramid(backbone, pyramid_channels, "output"),
        num_classes,
        head=head,
        center_sampling_radius=center_sampling_radius,
        score_thresh=score_thresh,
        nms_thresh=nms_thresh,
        detections_per_img=detections_per_img,
        topk_candidates=topk_candidates,
        **transform,
    )
    float_outputs(model.backbone, model.head)
    return model
