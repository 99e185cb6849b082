"""torchvision's one-stage detectors, without what waits for the device in a training step."""

from typing import Any

import torch
from torchvision.models import detection

from van.networks.dense import mean_over_processes

Targets = list[dict[str, torch.Tensor]]


class OneStage:
    """Forward pass of torchvision's one-stage detectors, whose own checks every box of the targets on the device."""

    def forward(self: Any, images: list[torch.Tensor], targets: Targets | None = None) -> Any:
        """Return losses in training and detections otherwise, as torchvision does."""
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, targets = self.transform(images, targets)
        maps = list(self.backbone(batch.tensors).values())
        outputs = self.head(maps)
        anchors = self.anchor_generator(batch, maps)
        positions = [m.shape[-2] * m.shape[-1] for m in maps]
        per_level = [count * (len(anchors[0]) // sum(positions)) for count in positions]
        if self.training:
            return self.compute_loss(targets, outputs, anchors, per_level)
        outputs = {name: list(values.split(per_level, 1)) for name, values in outputs.items()}
        found = self.postprocess_detections(outputs, [list(a.split(per_level)) for a in anchors], batch.image_sizes)
        return self.transform.postprocess(found, batch.image_sizes, sizes)

    def counted_forward(self: Any, images: torch.Tensor) -> None:
        """Run every layer on (B, 3, H, W), for counting."""
        self.head(list(self.backbone(images).values()))


class RetinaNet(OneStage, detection.RetinaNet):
    """torchvision's RetinaNet."""

    def compute_loss(self, targets: Targets, head_outputs: Any, anchors: Any, num_anchors_per_level: Any = None) -> Any:
        """Return the losses; the last argument is FCOS's and of no use here."""
        return super().compute_loss(targets, head_outputs, anchors)


class FCOS(OneStage, detection.FCOS):
    """torchvision's FCOS."""


class FCOSHead(detection.fcos.FCOSHead):
    """torchvision's head, which learns the same from several processes as from one."""

    def compute_loss(self, targets: Targets, head_outputs: Any, anchors: Any, matched_idxs: Any) -> Any:
        """Return the losses, divided by the mean number of positives of all processes; arguments as torchvision's."""
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        positive = (torch.cat(matched_idxs) >= 0).sum().float()
        share = positive.clamp(min=1.0) / mean_over_processes(positive).clamp(min=1.0)
        return {name: loss * share for name, loss in losses.items()}
