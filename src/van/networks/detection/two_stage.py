"""torchvision's two-stage detectors, without what waits for the device in a training step."""

from typing import Any, cast

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from van.models.backbone import Backbone
from van.networks.detection.faster_rcnn import FasterRCNNOptions
from van.networks.detection.parts import Pyramid, RoIAlign, Transform, float_outputs, sizes_per_level

_COUNTED_BOXES, _COUNTED_MASKS = 1000, 100  # regions per image on which OpenMMLab's counts, the paper's, run the heads


class TwoStage(FasterRCNN):
    """torchvision's Faster R-CNN and what is built on it; labels count from 0, the background is internal."""

    @property
    def has_masks(self) -> bool:
        """Whether it predicts masks."""
        return cast(Any, self.roi_heads).has_mask()

    def forward(self, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]] | None = None) -> Any:
        """Return losses in training and detections otherwise, as torchvision does."""
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        if targets is not None:
            targets = [{**target, "labels": target["labels"] + 1} for target in targets]
        batch, targets = self.transform(images, targets)
        maps = self.backbone(batch.tensors)
        proposals, proposal_losses = self.rpn(batch, maps, targets)
        found, losses = self.roi_heads(maps, proposals, batch.image_sizes, targets)
        if self.training:
            return {**losses, **proposal_losses}
        found = cast(Any, self.transform).postprocess(found, batch.image_sizes, sizes)
        return [{**detections, "labels": detections["labels"] - 1} for detections in found]

    def counted_forward(self, images: torch.Tensor) -> None:
        """Run every layer on (B, 3, H, W), for counting: 1000 regions per image, 100 of them in the mask head."""
        maps = self.backbone(images)
        cast(nn.Module, self.rpn.head)(list(maps.values()))
        heads: Any = self.roi_heads
        parts = [(heads.box_head, heads.box_predictor, _COUNTED_BOXES, 7)]
        if self.has_masks:
            parts.append((heads.mask_head, heads.mask_predictor, _COUNTED_MASKS, 14))
        for head, predictor, count, side in parts:
            pooled = images.new_empty(count * len(images), cast(Any, self.backbone).out_channels, side, side)
            stages = isinstance(head, nn.ModuleList)  # of a cascade
            for one, predict in zip(head, predictor, strict=True) if stages else [(head, predictor)]:
                predict(one(pooled))


def faster_rcnn(
    backbone: Backbone, num_classes: int, options: FasterRCNNOptions, box_width: int | None = None
) -> TwoStage:
    """Build Faster R-CNN on all four stages and one level above.

    Args:
        backbone: With out_indices 0, 1, 2, 3.
        num_classes: Classes without the background.
        options: What it is built from.
        box_width: In place of that of the options.
    """
    width = box_width or options.box_width
    predictor = FastRCNNPredictor(width, num_classes + 1)  # 0 is the background
    anchors = AnchorGenerator(sizes_per_level(options.anchor_sizes, 5), (tuple(options.aspect_ratios),) * 5)
    model = TwoStage(
        Pyramid(backbone, options.pyramid_channels, "pool"),
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=options.proposals_train,
        rpn_post_nms_top_n_train=options.proposals_train,
        rpn_pre_nms_top_n_test=options.proposals_test,
        rpn_post_nms_top_n_test=options.proposals_test,
        box_roi_pool=RoIAlign(7, options.canonical_scale),
        box_head=TwoMLPHead(options.pyramid_channels * 7 * 7, width),
        box_predictor=predictor,
        box_batch_size_per_image=options.box_batch_size_per_image,
        box_score_thresh=options.score_threshold,
        box_nms_thresh=options.nms_threshold,
        box_detections_per_img=options.detections_per_image,
    )
    model.transform = Transform(options)
    float_outputs(model.backbone, cast(nn.Module, model.rpn.head), predictor)
    return model
