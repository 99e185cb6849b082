"""Proposals and region heads of the two-stage detectors: torchvision's, with the losses and matches of OpenMMLab."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou, generalized_box_iou_loss

from van.networks.class_loss import ClassLoss
from van.networks.detection import fixed
from van.networks.detection.faster_rcnn import FasterRCNNOptions

_BETA = 1 / 9  # of smooth L1, as in torchvision
_GIOU_WEIGHT = 10.0  # as in the cascades of Swin Transformer

Maps = dict[str, torch.Tensor]
Boxes = list[torch.Tensor]


def delta_loss(kind: str, deltas: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the sum of the losses of coded boxes (N, 4): smooth_l1 or l1."""
    if kind == "l1":
        return F.l1_loss(deltas, wanted, reduction="sum")
    return F.smooth_l1_loss(deltas, wanted, beta=_BETA, reduction="sum")


def giou_loss(deltas: torch.Tensor, proposals: torch.Tensor, boxes: torch.Tensor, coder: BoxCoder) -> torch.Tensor:
    """Return ten times the sum of the generalized IoU losses of decoded boxes.

    Args:
        deltas: Coded boxes (N, 4).
        proposals: What they are relative to (N, 4).
        boxes: The true boxes (N, 4).
        coder: Decodes them.
    """
    decoded = coder.decode_single(deltas, proposals)
    return _GIOU_WEIGHT * generalized_box_iou_loss(decoded, boxes, reduction="sum")


def best_matches(iou: torch.Tensor, matched: torch.Tensor, least: float) -> torch.Tensor:
    """Give each object the proposals that overlap it most, even where they overlap another one more.

    Args:
        iou: (N, P) of N objects and P proposals.
        matched: (P,) index of the object of each proposal, negative for none.
        least: Objects without a proposal of this IoU keep what they have.

    Returns:
        (P,) new indices; the later object where two want the same proposal, as in MMDetection.
    """
    most = iou.amax(1, keepdim=True)
    own = (iou == most) & (most >= least)
    numbers = torch.arange(1, len(iou) + 1, device=iou.device)[:, None]
    last = (own * numbers).amax(0)
    return torch.where(last > 0, last - 1, matched)


class Samples(NamedTuple):
    """Proposals that a head trains on, of each image.

    Attributes:
        proposals: (P, 4).
        matched: (P,) index of the object, 0 for background.
        labels: (P,) class from 1, 0 for background.
        wanted: (P, 4) true boxes, coded.
    """

    proposals: Boxes
    matched: list[torch.Tensor]
    labels: list[torch.Tensor]
    wanted: list[torch.Tensor]


class RegionProposals(RegionProposalNetwork):
    """torchvision's region proposal network, with a choice of the loss of its boxes.

    Args:
        box_loss: smooth_l1 or l1.
        **arguments: As torchvision's.
    """

    def __init__(self, box_loss: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.box_loss = box_loss

    def compute_loss(
        self,
        objectness: torch.Tensor,
        pred_bbox_deltas: torch.Tensor,
        labels: list[torch.Tensor],
        regression_targets: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses of objectness and boxes; arguments as torchvision's."""
        chosen = [torch.where(torch.cat(one))[0] for one in self.fg_bg_sampler(labels)]
        positive, sampled = chosen[0], torch.cat(chosen)
        boxes = delta_loss(self.box_loss, pred_bbox_deltas[positive], torch.cat(regression_targets)[positive])
        logits = objectness.flatten()[sampled]
        return F.binary_cross_entropy_with_logits(logits, torch.cat(labels)[sampled]), boxes / len(sampled)


class RegionHeads(RoIHeads):
    """torchvision's box head, and mask head where there is one, with a choice of losses and matches.

    Args:
        options: What they are built from.
        iou: Proposals that overlap an object by at least this IoU learn it.
        **arguments: As torchvision's, but for what follows from the options.
    """

    def __init__(self, options: FasterRCNNOptions, iou: float = 0.5, **arguments: Any) -> None:
        super().__init__(
            fg_iou_thresh=iou,
            bg_iou_thresh=iou,
            batch_size_per_image=options.box_batch_size_per_image,
            positive_fraction=0.25,
            score_thresh=options.score_threshold,
            nms_thresh=options.nms_threshold,
            detections_per_img=options.detections_per_image,
            **arguments,
        )
        self.box_loss = options.box_loss
        self.class_loss = ClassLoss(background=True)
        self.low_quality_matches = options.low_quality_matches

    def assign_targets_to_proposals(
        self, proposals: Boxes, gt_boxes: Boxes, gt_labels: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return objects and classes of proposals, of which the last ones are the true boxes themselves."""
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        if not self.low_quality_matches:
            return matched, labels
        for image, (boxes, classes) in enumerate(zip(gt_boxes, gt_labels, strict=True)):
            if len(boxes):
                count = len(proposals[image]) - len(boxes)
                found = torch.where(labels[image][:count] > 0, matched[image][:count], -1)
                iou = box_iou(boxes, proposals[image][:count])
                if count:
                    found = best_matches(iou, found, self.proposal_matcher.high_threshold)
                own = torch.cat([found, torch.arange(len(boxes), device=boxes.device)])
                matched[image] = own.clamp(min=0)
                labels[image] = torch.where(own >= 0, classes[matched[image]], 0)
        return matched, labels

    def forward(
        self, features: Maps, proposals: Boxes, image_shapes: list[tuple[int, int]], targets: Any = None
    ) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        """As torchvision's: detections (evaluation) and losses (training) from pyramid maps and proposals."""
        if not self.training:
            return super().forward(features, proposals, image_shapes)
        samples = Samples(*self.select_training_samples(proposals, targets))
        outputs = self.box_predictor(self.box_head(self.box_roi_pool(features, samples.proposals, image_shapes)))

        def masks(regions: Boxes) -> torch.Tensor:
            heads = cast(Any, self)
            return heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, regions, image_shapes)))

        return [], self.sample_losses(outputs, samples, targets, masks if self.has_mask() else None)

    def fixed(self, features: Maps, regions: fixed.Found, sizes: torch.Tensor) -> tuple[Any, ...]:
        """Return objects, and their masks (B, N, h, w) where there are any, as tensors of fixed size.

        Args:
            features: The levels of the pyramid.
            regions: Proposals.
            sizes: (B, 2), height and width of the images in the padded ones.
        """
        heads = cast(Any, self)
        pooled = fixed.pooled(heads.box_roi_pool, features, regions.boxes)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        found = fixed.objects(self, logits, deltas, regions, sizes)
        if not self.has_mask():
            return (found,)
        masks = heads.mask_predictor(heads.mask_head(fixed.pooled(heads.mask_roi_pool, features, found.boxes)))
        return found, fixed.masks_of(masks, found.labels)

    def sample_losses(
        self,
        outputs: tuple[torch.Tensor, torch.Tensor],
        samples: Samples,
        targets: list[dict[str, torch.Tensor]],
        masks: Callable[[Boxes], torch.Tensor] | None,
    ) -> dict[str, torch.Tensor]:
        """Return the losses of the heads by name.

        Args:
            outputs: Class scores (S, K + 1) and four numbers per class (S, 4 K + 4) of the samples of all images.
            samples: What the heads saw.
            targets: The objects of each image.
            masks: Maps the samples with objects to masks; None for boxes only.
        """
        logits, deltas = outputs
        labels = torch.cat(samples.labels)
        positive = torch.where(labels > 0)[0]
        own = deltas.view(len(labels), -1, 4)[positive, labels[positive]]
        if self.box_loss == "giou":
            found = zip(targets, samples.matched, samples.proposals, strict=True)
            truth = [t["boxes"][m] if len(t["boxes"]) else p for t, m, p in found]
            boxes = giou_loss(own, torch.cat(samples.proposals)[positive], torch.cat(truth)[positive], self.box_coder)
        else:
            boxes = delta_loss(self.box_loss, own, torch.cat(samples.wanted)[positive])
        losses = {"loss_classifier": self.class_loss(logits, labels), "loss_box_reg": boxes / len(labels)}
        if masks is not None:
            at = [torch.where(one > 0)[0] for one in samples.labels]
            regions = [p[i] for p, i in zip(samples.proposals, at, strict=True)]
            losses["loss_mask"] = maskrcnn_loss(
                masks(regions),
                regions,
                [t["masks"] for t in targets],
                [t["labels"] for t in targets],
                [m[i] for m, i in zip(samples.matched, at, strict=True)],
            )
        return losses
