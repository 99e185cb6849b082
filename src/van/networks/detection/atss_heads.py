"""ATSS (Zhang et al. 2020, arXiv 1912.02424) and GFL (Li et al. 2020, arXiv 2006.04388) on torchvision's FCOS.

Both have one square anchor per position, 8 strides wide, and select by statistics of their IoUs which anchors learn
which box.
"""

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead
from torchvision.ops import (
    batched_nms,
    box_iou,
    clip_boxes_to_image,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from van.models.backbone import Backbone
from van.networks.dense import mean_over_processes
from van.networks.detection.atss import ATSSOptions
from van.networks.detection.one_stage import FCOS
from van.networks.detection.parts import Pyramid, Transform, float_outputs, group_norm

_STRIDES = (8, 16, 32, 64, 128)
_BOX_WEIGHT = 2.0

Outputs = dict[str, torch.Tensor]


def choose_anchors(
    anchors: torch.Tensor, per_level: list[int], boxes: torch.Tensor, candidates: int = 9
) -> torch.Tensor:
    """Assign boxes to anchors by adaptive training sample selection (algorithm 1 of the ATSS paper).

    On each level the anchors nearest to a box's center are candidates; those whose IoU with it is at least the mean
    plus the standard deviation over all candidates, and whose center is inside it, learn it.

    Args:
        anchors: (A, 4), level by level.
        per_level: Number of anchors of each level.
        boxes: (N, 4).
        candidates: Number of candidates per level for each box.

    Returns:
        (A,) index of the box, -1 for background; the box with the largest IoU where there are several.
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), -1, dtype=torch.long, device=anchors.device)
    iou = box_iou(anchors, boxes)
    centres, box_centres = (anchors[:, :2] + anchors[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    near, start = [], 0
    for distance in torch.cdist(centres, box_centres).split(per_level):
        near.append(distance.topk(min(candidates, len(distance)), dim=0, largest=False).indices + start)
        start += len(distance)
    chosen = torch.cat(near)  # (candidates of all levels, N)
    chosen_iou = iou.gather(0, chosen)
    enough = chosen_iou >= chosen_iou.mean(0) + chosen_iou.std(0)
    inside = torch.cat([centres[chosen] - boxes[:, :2], boxes[:, 2:] - centres[chosen]], 2).amin(2) > 0.01
    learns = torch.zeros_like(iou, dtype=torch.bool).scatter_(0, chosen, enough & inside)
    best, index = iou.masked_fill(~learns, -1.0).max(1)
    return index.masked_fill(best < 0, -1)


def _centerness(anchors: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Return how central each anchor (N, 4) is in its box (N, 4): 1 in the middle, 0 at the edge."""
    left, top, right, bottom = BoxLinearCoder(normalize_by_size=False).encode(anchors, boxes).clamp(min=1e-6).unbind(1)
    horizontal = torch.minimum(left, right) / torch.maximum(left, right)
    return (horizontal * torch.minimum(top, bottom) / torch.maximum(top, bottom)).sqrt()


def _paired_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the IoU of each box (N, 4) with the corresponding one (N, 4)."""
    edges = torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])
    both = edges.clamp(min=0).prod(1)
    areas = (first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1)
    return both / (areas - both).clamp(min=1e-6)


class _BoxHead(nn.Module):
    """Four convolutions, then boxes with a learned scale per level, and optionally centerness."""

    def __init__(self, channels: int, outputs: int, centerness: bool) -> None:
        super().__init__()
        norm = group_norm(channels)
        layers = [[nn.Conv2d(channels, channels, 3, padding=1), norm(channels), nn.ReLU()] for _ in range(4)]
        self.conv = nn.Sequential(*(layer for block in layers for layer in block))
        self.boxes = nn.Conv2d(channels, outputs, 3, padding=1)
        self.centerness = nn.Conv2d(channels, 1, 3, padding=1) if centerness else nn.Identity()
        self.has_centerness = centerness
        self.scales = nn.Parameter(torch.ones(len(_STRIDES)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(cast(torch.Tensor, module.bias))

    def forward(self, maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map the levels to (B, anchors, outputs) and (B, anchors, 1)."""
        boxes, centerness = [], []
        for i, level in enumerate(maps):
            features = self.conv(level)
            boxes.append((self.boxes(features) * self.scales[i]).permute(0, 2, 3, 1).flatten(1, 2))
            if self.has_centerness:
                centerness.append(self.centerness(features).permute(0, 2, 3, 1).flatten(1, 2))
        return torch.cat(boxes, 1), torch.cat(centerness, 1) if centerness else None


class _Head(nn.Module):
    """Classes and boxes (and centerness) of every anchor."""

    def __init__(self, channels: int, num_classes: int, outputs: int, centerness: bool) -> None:
        super().__init__()
        self.classification_head = FCOSClassificationHead(channels, 1, num_classes, norm_layer=group_norm(channels))
        self.regression_head = _BoxHead(channels, outputs, centerness)

    def forward(self, maps: list[torch.Tensor]) -> Outputs:
        boxes, centerness = self.regression_head(maps)
        outputs = {"cls_logits": self.classification_head(maps), "bbox_regression": boxes}
        return outputs if centerness is None else {**outputs, "bbox_ctrness": centerness}


class ATSS(FCOS):
    """FCOS with ATSS's assignment; boxes are coded relative to the anchor.

    Args:
        backbone: With out_indices 1, 2, 3.
        num_classes: Classes without the background.
        options: What it is built from.
    """

    centerness = True
    outputs = 4

    def __init__(self, backbone: Backbone, num_classes: int, options: ATSSOptions) -> None:
        sizes = tuple((options.anchor_scale * stride,) for stride in _STRIDES)
        pyramid = Pyramid(backbone, options.pyramid_channels, "output")
        super().__init__(
            pyramid,
            num_classes,
            anchor_generator=AnchorGenerator(sizes, ((1.0,),) * len(_STRIDES)),
            head=_Head(options.pyramid_channels, num_classes, self.outputs, self.centerness),
            **options.postprocessing(),
        )
        self.transform = Transform(options)
        self.anchor_scale = options.anchor_scale
        self.candidates = options.candidates
        float_outputs(pyramid, self.head)

    def decode(self, outputs: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Map outputs (N, outputs) at anchors (N, 4) to boxes (N, 4)."""
        return BoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(outputs, anchors)

    def compute_loss(
        self,
        targets: list[Outputs],
        head_outputs: Outputs,
        anchors: list[torch.Tensor],
        num_anchors_per_level: list[int],
    ) -> Outputs:
        """Return the losses; arguments as torchvision's."""
        with torch.no_grad():
            matched = [
                choose_anchors(a, num_anchors_per_level, t["boxes"], self.candidates)
                for a, t in zip(anchors, targets, strict=True)
            ]
        positive = torch.stack(matched) >= 0
        labels = torch.cat([t["labels"][m[m >= 0]] for t, m in zip(targets, matched, strict=True)])
        boxes = torch.cat([t["boxes"][m[m >= 0]] for t, m in zip(targets, matched, strict=True)])
        own = {k: v[positive] for k, v in head_outputs.items() if k != "cls_logits"}
        return self._losses(head_outputs["cls_logits"], positive, labels, boxes, own, torch.stack(anchors)[positive])

    def _losses(
        self,
        logits: torch.Tensor,
        positive: torch.Tensor,
        labels: torch.Tensor,
        boxes: torch.Tensor,
        outputs: Outputs,
        anchors: torch.Tensor,
    ) -> Outputs:
        """Return the losses from class logits (B, A, K), the mask of positives (B, A), and values of the positives."""
        count = mean_over_processes(positive.sum().float()).clamp(min=1.0)
        wanted = torch.zeros_like(logits)
        wanted[(*positive.nonzero(as_tuple=True), labels)] = 1.0
        centerness = _centerness(anchors, boxes)
        giou = generalized_box_iou_loss(self.decode(outputs["bbox_regression"], anchors), boxes)
        own = outputs["bbox_ctrness"][:, 0]
        total = mean_over_processes(centerness.sum()).clamp(min=1.0)
        return {
            "classification": sigmoid_focal_loss(logits, wanted, reduction="sum") / count,
            "bbox_regression": _BOX_WEIGHT * (giou * centerness).sum() / total,
            "bbox_ctrness": F.binary_cross_entropy_with_logits(own, centerness, reduction="sum") / count,
        }

    def postprocess_detections(
        self, head_outputs: dict[str, list[torch.Tensor]], anchors: list[list[torch.Tensor]], image_shapes: Any
    ) -> list[Outputs]:
        """Return the detections of each image; arguments as torchvision's: lists are levels."""
        results = []
        for image, shape in enumerate(image_shapes):
            found = []
            for level, level_anchors in enumerate(anchors[image]):
                scores = head_outputs["cls_logits"][level][image].sigmoid()
                if "bbox_ctrness" in head_outputs:
                    scores = (scores * head_outputs["bbox_ctrness"][level][image].sigmoid()).sqrt()
                classes = scores.shape[1]
                scores = scores.flatten()
                kept = torch.where(scores > self.score_thresh)[0]
                scores, order = scores[kept].topk(min(self.topk_candidates, len(kept)))
                kept = kept[order]
                at = kept // classes
                boxes = self.decode(head_outputs["bbox_regression"][level][image][at], level_anchors[at])
                found.append((clip_boxes_to_image(boxes, shape), scores, kept % classes))
            boxes, scores, labels = (torch.cat(part) for part in zip(*found, strict=True))
            keep = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
            results.append({"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]})
        return results


class GFL(ATSS):
    """Generalized focal loss: the class score is the expected IoU, and each edge a distribution over 17 distances."""

    core_outputs = ("cls_logits", "bbox_regression")
    centerness = False
    reg_max = 16
    outputs = 4 * (reg_max + 1)

    def _distances(self, outputs: torch.Tensor) -> torch.Tensor:
        """Map (N, 4 * 17) to the expected distances (N, 4) of left, top, right and bottom in strides."""
        steps = torch.arange(self.reg_max + 1.0, device=outputs.device)
        return (outputs.unflatten(1, (4, -1)).softmax(2) * steps).sum(
            2
        )  # autocast would compute a matrix product in bfloat16

    def decode(self, outputs: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Map outputs (N, 4 * 17) at anchors (N, 4) to boxes (N, 4)."""
        return BoxLinearCoder().decode(self._distances(outputs) / self.anchor_scale, anchors)

    def _losses(
        self,
        logits: torch.Tensor,
        positive: torch.Tensor,
        labels: torch.Tensor,
        boxes: torch.Tensor,
        outputs: Outputs,
        anchors: torch.Tensor,
    ) -> Outputs:
        count = mean_over_processes(positive.sum().float()).clamp(min=1.0)
        decoded = self.decode(outputs["bbox_regression"], anchors)
        quality = torch.zeros_like(logits)
        with torch.no_grad():
            weight = logits.sigmoid()[positive].amax(1)
            quality[(*positive.nonzero(as_tuple=True), labels)] = _paired_iou(decoded, boxes)
        total = mean_over_processes(weight.sum()).clamp(min=1.0)
        focal = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
        focal = focal * (quality - logits.sigmoid()).abs().square()  # beta = 2
        distances = BoxLinearCoder().encode(anchors, boxes) * self.anchor_scale
        distances = distances.clamp(0, self.reg_max - 0.1).flatten()
        below = distances.long()
        log_share = outputs["bbox_regression"].reshape(-1, self.reg_max + 1).log_softmax(1)
        log_below, log_above = (log_share.gather(1, (below + i)[:, None])[:, 0] for i in (0, 1))
        spread = -(log_below * (below + 1 - distances) + log_above * (distances - below)).view(-1, 4).mean(1)
        giou = generalized_box_iou_loss(decoded, boxes)
        return {
            "classification": focal.sum() / count,
            "bbox_regression": _BOX_WEIGHT * (giou * weight).sum() / total,
            "bbox_distribution": 0.25 * (spread * weight).sum() / total,
        }
