"""Faster R-CNN (Ren et al. 2015, arXiv 1506.01497) and Mask R-CNN (He et al. 2017, arXiv 1703.06870), torchvision's."""

from collections.abc import Sequence
from typing import Any, cast

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from van.heads.detection.parts import Pyramid, RoIAlign, float_outputs, sizes_per_level
from van.models.backbone import Backbone


def faster_rcnn(
    backbone: Backbone,
    num_classes: int,
    pyramid_channels: int,
    anchor_sizes: Sequence[float | Sequence[float]] = (32, 64, 128, 256, 512),
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    canonical_scale: int = 224,
    box_width: int = 1024,
    proposals_train: int = 2000,
    proposals_test: int = 1000,
    box_batch_size_per_image: int = 512,
    score_thresh: float = 0.05,
    nms_thresh: float = 0.5,
    detections_per_img: int = 100,
    **transform: Any,
) -> FasterRCNN:
    """Build Faster R-CNN on all four stages and one level above.

    Args:
        backbone: With out_indices 0, 1, 2, 3.
        num_classes: Classes, background not counted.
        pyramid_channels: Width of the pyramid and of the proposal head.
        anchor_sizes: Side in pixels of the anchors of each of the five levels, a number or a list.
        aspect_ratios: Height divided by width of the anchors.
        canonical_scale: Boxes with this many pixels' side are classified from the level with stride 16.
        box_width: Width of the two linear layers of the box head.
        proposals_train: Most proposals of an image in training, per level before suppression and of all after.
        proposals_test: Likewise in evaluation.
        box_batch_size_per_image: Proposals of an image that the box head trains on.
        score_thresh: Detections below are dropped.
        nms_thresh: Of two boxes of a class that overlap by more, the better one stays.
        detections_per_img: Most detections of an image.
        **transform: min_size, max_size, image_mean, image_std.
    """
    predictor = FastRCNNPredictor(box_width, num_classes + 1)  # 0 is the background
    model = FasterRCNN(
        Pyramid(backbone, pyramid_channels, "pool"),
        rpn_anchor_generator=AnchorGenerator(sizes_per_level(anchor_sizes, 5), (tuple(aspect_ratios),) * 5),
        rpn_pre_nms_top_n_train=proposals_train,
        rpn_post_nms_top_n_train=proposals_train,
        rpn_pre_nms_top_n_test=proposals_test,
        rpn_post_nms_top_n_test=proposals_test,
        box_roi_pool=RoIAlign(7, canonical_scale),
        box_head=TwoMLPHead(pyramid_channels * 7 * 7, box_width),
        box_predictor=predictor,
        box_batch_size_per_image=box_batch_size_per_image,
        box_score_thresh=score_thresh,
        box_nms_thresh=nms_thresh,
        box_detections_per_img=detections_per_img,
        **transform,
    )
    float_outputs(model.backbone, cast(nn.Module, model.rpn.head), predictor)
    return model


def mask_rcnn(
    backbone: Backbone,
    num_classes: int,
    pyramid_channels: int,
    mask_width: int = 256,
    canonical_scale: int = 224,
    **arguments: Any,
) -> FasterRCNN:
    """Build Mask R-CNN: Faster R-CNN and a mask head.

    Args:
        backbone: With out_indices 0, 1, 2, 3.
        num_classes: Classes, background not counted.
        pyramid_channels: Width of the pyramid and of the proposal head.
        mask_width: Channels of the mask head.
        canonical_scale: As in faster_rcnn.
        **arguments: Those of faster_rcnn.
    """
    model = faster_rcnn(backbone, num_classes, pyramid_channels, canonical_scale=canonical_scale, **arguments)
    heads = model.roi_heads
    heads.mask_roi_pool = RoIAlign(14, canonical_scale)
    heads.mask_head = MaskRCNNHeads(pyramid_channels, (mask_width,) * 4, dilation=1)
    heads.mask_predictor = MaskRCNNPredictor(mask_width, mask_width, num_classes + 1)
    float_outputs(heads.mask_predictor)
    return model
