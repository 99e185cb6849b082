"""A detector from outside the package: one box per image, the bright part. CONTRIBUTING shows it as the example."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from van.models.backbone import Backbone
from van.networks.detection.options import DetectorOptions


@dataclass
class OneBoxOptions(DetectorOptions):
    """One box per image.

    Attributes:
        width: Channels of the hidden layer.
    """

    architecture: Literal["one_box"] = "one_box"
    width: int = 8

    def build(self, outputs, pretrained=None, device=None):
        backbone = Backbone(self.backbone, pretrained, (3,), device=device, **self.backbone_args)
        return OneBox(backbone, outputs, self).to(device or "cpu")


class OneBox(nn.Module):
    has_masks = False
    input_size = (3, 64, 64)

    def __init__(self, backbone, num_classes, options):
        super().__init__()
        self.backbone, self.options = backbone, options
        self.head = nn.Sequential(nn.Linear(backbone.channels[-1], options.width), nn.ReLU())
        self.boxes, self.classes = nn.Linear(options.width, 4), nn.Linear(options.width, num_classes)

    def forward(self, images, targets=None):
        pixels = [nn.functional.interpolate(i[None].float() / 255, (64, 64)) for i in images]
        features = self.head(self.backbone(torch.cat(pixels))[-1].mean((2, 3)))
        centre, side = self.boxes(features).sigmoid().chunk(2, 1)
        sizes = features.new_tensor([[i.shape[2], i.shape[1]] * 2 for i in images])
        boxes, logits = (
            torch.cat([centre * (1 - side), centre * (1 - side) + side + 0.01], 1) * sizes,
            self.classes(features),
        )
        if self.training:
            some = [k for k, t in enumerate(targets) if len(t["labels"])] or [0]
            wanted = torch.stack([t["boxes"][0] if len(t["boxes"]) else b for t, b in zip(targets, boxes, strict=True)])
            labels = torch.stack([t["labels"][0] for k, t in enumerate(targets) if k in some and len(t["labels"])])
            return {
                "box": ((boxes - wanted) / sizes)[some].abs().mean(),
                "class": nn.functional.cross_entropy(logits[some], labels),
            }
        scores, found = logits.softmax(1).max(1)
        return [
            {"boxes": b[None], "labels": n[None], "scores": s[None]}
            for b, n, s in zip(boxes, found, scores, strict=True)
        ]
