"""Region heads of Cascade Mask R-CNN (Cai, Vasconcelos 2018, arXiv 1712.00726), on torchvision's."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import maskrcnn_inference
from torchvision.ops import clip_boxes_to_image

from van.networks.detection import fixed
from van.networks.detection.cascade_mask_rcnn import CascadeMaskRCNNOptions
from van.networks.detection.parts import RoIAlign, float_outputs
from van.networks.detection.region_heads import Boxes, Maps, RegionHeads, Samples

_IOU = (0.5, 0.6, 0.7)
_CODING = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
_LOSS_WEIGHT = (1.0, 0.5, 0.25)


class CascadeRoIHeads(RegionHeads):
    """Box and mask heads in stages: each refines the boxes of the previous one and trains on a higher IoU.

    Class scores and masks are averaged over the stages.

    Args:
        options: What they are built from.
        box_heads: From pooled regions to features, one per stage.
        box_predictors: From features to class scores and four numbers per class, one per stage.
        mask_heads: From pooled regions to maps, one per stage.
        mask_predictors: From maps to a mask per class, one per stage.
        **arguments: Further arguments of RegionHeads.
    """

    def __init__(
        self,
        options: CascadeMaskRCNNOptions,
        box_heads: Sequence[nn.Module],
        box_predictors: Sequence[nn.Module],
        mask_heads: Sequence[nn.Module],
        mask_predictors: Sequence[nn.Module],
        **arguments: Any,
    ) -> None:
        super().__init__(
            options,
            _IOU[0],
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            mask_head=nn.ModuleList(mask_heads),
            mask_predictor=nn.ModuleList(mask_predictors),
            **arguments,
        )

    def _set_stage(self, stage: int) -> None:
        """Set torchvision's matcher and box coder to those of the stage."""
        self.proposal_matcher = Matcher(_IOU[stage], _IOU[stage], allow_low_quality_matches=False)
        self.box_coder = BoxCoder(_CODING[stage])

    def _boxes(self, stage: int, features: Maps, proposals: Boxes, shapes: Any) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = self.box_roi_pool(features, proposals, shapes).contiguous(memory_format=torch.channels_last)
        heads, predictors = cast(nn.ModuleList, self.box_head), cast(nn.ModuleList, self.box_predictor)
        return predictors[stage](heads[stage](pooled))

    def _masks(self, stage: int, features: Maps, proposals: Boxes, shapes: Any) -> torch.Tensor:
        heads, predictors = cast(nn.ModuleList, self.mask_head), cast(nn.ModuleList, self.mask_predictor)
        return predictors[stage](heads[stage](cast(RoIAlign, self.mask_roi_pool)(features, proposals, shapes)))

    @torch.no_grad()
    def _refined(self, logits: torch.Tensor, deltas: torch.Tensor, proposals: Boxes, shapes: Any) -> Boxes:
        """Refine the proposals by the deltas of their best class other than background."""
        best = logits[:, 1:].argmax(1) + 1
        decoded = self.box_coder.decode(deltas, proposals).view(*logits.shape, 4)
        boxes = decoded[torch.arange(len(best), device=best.device), best].split([len(p) for p in proposals])
        boxes = [clip_boxes_to_image(b, shape) for b, shape in zip(boxes, shapes, strict=True)]
        # a box clipped to nothing keeps a little area: without any it could not be encoded
        return [torch.cat([b[:, :2], torch.maximum(b[:, 2:], b[:, :2] + 0.01)], 1) for b in boxes]

    def forward(
        self, features: Maps, proposals: Boxes, image_shapes: list[tuple[int, int]], targets: Any = None
    ) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        """As torchvision's: detections (evaluation) and losses (training) from pyramid maps and proposals."""
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets)
        self._set_stage(0)
        logits, deltas = self._boxes(0, features, proposals, image_shapes)
        scores = [logits.softmax(1)]
        for stage in range(1, len(_IOU)):
            proposals = self._refined(logits, deltas, proposals, image_shapes)
            self._set_stage(stage)
            logits, deltas = self._boxes(stage, features, proposals, image_shapes)
            scores.append(logits.softmax(1))
        # torchvision applies softmax, and the softmax of log probabilities is those probabilities
        mean = torch.stack(scores).mean(0).clamp(min=1e-12).log()
        boxes, best, labels = self.postprocess_detections(mean, deltas, proposals, image_shapes)
        stages = [maskrcnn_inference(self._masks(s, features, boxes, image_shapes), labels) for s in range(len(_IOU))]
        return [
            {"boxes": b, "scores": s, "labels": n, "masks": torch.stack(masks).mean(0)}
            for b, s, n, *masks in zip(boxes, best, labels, *stages, strict=True)
        ], {}

    def fixed(self, features: Maps, regions: fixed.Found, sizes: torch.Tensor) -> tuple[Any, ...]:
        """Return objects and their masks (B, N, h, w) as tensors of fixed size; see RegionHeads.fixed."""
        heads = cast(Any, self)
        scores, boxes = [], regions.boxes
        logits = deltas = boxes
        for stage in range(len(_IOU)):
            if stage:
                coder = BoxCoder(_CODING[stage - 1])
                decoded = coder.decode_single(deltas, boxes.flatten(0, 1)).view(*logits.shape, 4)
                best = logits[:, 1:].argmax(1) + 1
                own = decoded.gather(1, best[:, None, None].expand(-1, 1, 4)).view_as(boxes)
                own = fixed.clipped(own, sizes)
                boxes = torch.cat([own[..., :2], torch.maximum(own[..., 2:], own[..., :2] + 0.01)], 2)
            pooled = fixed.pooled(heads.box_roi_pool, features, boxes).contiguous(memory_format=torch.channels_last)
            logits, deltas = heads.box_predictor[stage](heads.box_head[stage](pooled))
            scores.append(logits.softmax(1))
        self.box_coder = BoxCoder(_CODING[-1])
        mean = torch.stack(scores).mean(0).clamp(min=1e-12).log()
        found = fixed.objects(self, mean, deltas, regions._replace(boxes=boxes), sizes)
        pooled = fixed.pooled(heads.mask_roi_pool, features, found.boxes)
        masks = [
            fixed.masks_of(predictor(head(pooled)), found.labels)
            for head, predictor in zip(heads.mask_head, heads.mask_predictor, strict=True)
        ]
        return found, torch.stack(masks).mean(0)

    def _losses(self, features: Maps, proposals: Boxes, shapes: Any, targets: Any) -> dict[str, torch.Tensor]:
        losses = {}
        for stage, weight in enumerate(_LOSS_WEIGHT):
            self._set_stage(stage)
            samples = Samples(*self.select_training_samples(proposals, targets))
            proposals = samples.proposals
            logits, deltas = self._boxes(stage, features, proposals, shapes)
            masks = partial(self._masks, stage, features, shapes=shapes)
            named = self.sample_losses((logits, deltas), samples, targets, masks)
            losses |= {f"{name}_{stage + 1}": weight * loss for name, loss in named.items()}
            if stage < len(_LOSS_WEIGHT) - 1:
                proposals = self._refined(logits, deltas, proposals, shapes)
        return losses


def cascade_heads(num_classes: int, options: CascadeMaskRCNNOptions) -> CascadeRoIHeads:
    """Build the three stages.

    Args:
        num_classes: Classes without the background.
        options: What they are built from.
    """
    channels, width = options.pyramid_channels, options.mask_width
    predictors = [FastRCNNPredictor(options.box_width, num_classes + 1) for _ in _IOU]
    mask_predictors = [MaskRCNNPredictor(width, width, num_classes + 1) for _ in _IOU]
    heads = CascadeRoIHeads(
        options,
        [FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [options.box_width], nn.BatchNorm2d) for _ in _IOU],
        predictors,
        [MaskRCNNHeads(channels, [width] * 4, dilation=1) for _ in _IOU],
        mask_predictors,
        box_roi_pool=RoIAlign(7, options),
        mask_roi_pool=RoIAlign(14, options),
        bbox_reg_weights=_CODING[0],
    )
    float_outputs(*predictors, *mask_predictors)
    return heads
