"""torchvision's two-stage detectors, without what waits for the device in a training step."""

from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead

from van.models.backbone import Backbone
from van.networks.detection import fixed
from van.networks.detection.faster_rcnn import FasterRCNNOptions
from van.networks.detection.parts import Pyramid, RoIAlign, Transform, float_outputs, sizes_per_level
from van.networks.detection.region_heads import RegionHeads, RegionProposals

_COUNTED_BOXES, _COUNTED_MASKS = 1000, 100  # regions per image on which OpenMMLab's counts, the paper's, run the heads


class TwoStage(GeneralizedRCNN):
    """torchvision's two-stage detector; labels count from 0, the background is internal.

    Attributes:
        core_inputs: Names of what core takes.
        core_batched: Whether core takes several images at once.
        core_through_onnx: Whether OpenVINO has to take it from ONNX, as it suppresses boxes inside.
    """

    core_inputs: ClassVar[tuple[str, ...]] = ("images", "sizes")
    core_batched: ClassVar[bool] = True
    core_through_onnx: ClassVar[bool] = True

    @property
    def core_outputs(self) -> tuple[str, ...]:
        """Names of what core returns."""
        return ("boxes", "labels", "scores", *(("masks",) if self.has_masks else ()))

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
        if self.training:
            maps = self.backbone(batch.tensors)
            proposals, proposal_losses = self.rpn(batch, maps, targets)
            _, losses = self.roi_heads(maps, proposals, batch.image_sizes, targets)
            return {**losses, **proposal_losses}
        outputs = dict(zip(self.core_outputs, self.core(batch.tensors, torch.tensor(batch.image_sizes)), strict=True))
        found = []
        for i, count in enumerate((outputs["scores"] > 0).sum(1).tolist()):
            one = {name: values[i, :count] for name, values in outputs.items()}
            found.append({**one, "masks": one["masks"][:, None]} if "masks" in one else one)
        return cast(Any, self.transform).postprocess(found, batch.image_sizes, sizes)

    def core(self, images: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Find objects on normalized images; inference engines take this method's place.

        Args:
            images: (B, 3, H, W), padded to multiples of 32.
            sizes: (B, 2), int64: height and width of the images without their padding.

        Returns:
            Boxes (B, N, 4) in pixels of the padded images, labels (B, N) and scores (B, N), best first, N being
            detections_per_image, all of them 0 where there are fewer; where it has masks, their probabilities
            (B, N, 28, 28) inside the boxes.
        """
        if torch.compiler.is_compiling():
            return self._fixed(images, sizes.to(images.device))
        shapes = [(height, width) for height, width in sizes.tolist()]
        maps = self.backbone(images)
        proposals, _ = self.rpn(ImageList(images, shapes), maps)
        found, _ = self.roi_heads(maps, proposals, shapes)
        count = cast(Any, self.roi_heads).detections_per_img
        rows = []
        for one in found:
            missing = count - len(one["scores"])
            row = [
                F.pad(one["boxes"], (0, 0, 0, missing)),
                F.pad(one["labels"] - 1, (0, missing)),
                F.pad(one["scores"], (0, missing)),
            ]
            rows.append([*row, F.pad(one["masks"][:, 0], (0, 0, 0, 0, 0, missing))] if self.has_masks else row)
        return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))

    def _fixed(self, images: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what core returns, without sizes that depend on values."""
        maps = self.backbone(images)
        regions = fixed.proposals(self.rpn, images, list(maps.values()), sizes)
        found, *masks = cast(Any, self.roi_heads).fixed(maps, regions, sizes)
        return (
            *found._replace(labels=found.labels - 1).cleared(),
            *(m * (found.scores > 0)[..., None, None] for m in masks),
        )

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


def box_heads(num_classes: int, options: FasterRCNNOptions) -> RegionHeads:
    """Build the box head of Faster and Mask R-CNN.

    Args:
        num_classes: Classes without the background.
        options: What it is built from.
    """
    predictor = FastRCNNPredictor(options.box_width, num_classes + 1)  # 0 is the background
    heads = RegionHeads(
        options,
        box_roi_pool=RoIAlign(7, options),
        box_head=TwoMLPHead(options.pyramid_channels * 7 * 7, options.box_width),
        box_predictor=predictor,
        bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
    )
    float_outputs(predictor)
    return heads


def two_stage(backbone: Backbone, heads: RegionHeads, options: FasterRCNNOptions) -> TwoStage:
    """Build a two-stage detector on all four stages and one level above.

    Args:
        backbone: With out_indices 0, 1, 2, 3.
        heads: What finds objects in proposals.
        options: What the rest is built from.
    """
    anchors = AnchorGenerator(sizes_per_level(options.anchor_sizes, 5), (tuple(options.aspect_ratios),) * 5)
    pyramid = Pyramid(backbone, options.pyramid_channels, "pool")
    head = RPNHead(options.pyramid_channels, anchors.num_anchors_per_location()[0])
    proposals = {"training": options.proposals_train, "testing": options.proposals_test}
    candidates = {"training": options.candidates_train, "testing": options.candidates_test}
    rpn = RegionProposals(
        options.proposal_loss,
        anchor_generator=anchors,
        head=head,
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={when: candidates[when] or count for when, count in proposals.items()},
        post_nms_top_n=proposals,
        nms_thresh=0.7,
    )
    float_outputs(pyramid, head)
    return TwoStage(pyramid, rpn, heads, Transform(options))
