"""torchvision's one-stage detectors, without what waits for the device in a training step."""

from typing import Any, ClassVar

import torch
from torchvision.models import detection

from van.networks.dense import mean_over_processes
from van.networks.detection.parts import level_sizes
from van.networks.tracing import any_size

Targets = list[dict[str, torch.Tensor]]


class OneStage:
    """Forward pass of torchvision's one-stage detectors, whose own checks every box of the targets on the device.

    Attributes:
        core_inputs: Names of what core takes.
        core_outputs: Names of what core returns.
        core_batched: Whether core takes several images at once.
    """

    core_inputs: ClassVar[tuple[str, ...]] = ("images",)
    core_outputs: ClassVar[tuple[str, ...]] = ("cls_logits", "bbox_regression", "bbox_ctrness")
    core_batched: ClassVar[bool] = True

    def core(self: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the layers with weights make of normalized images; inference engines take this method's place.

        Args:
            images: (B, 3, H, W), padded to multiples of 32.

        Returns:
            Class logits (B, A, K), coded boxes (B, A, 4 or more) and, where there is one, centerness (B, A, 1) of all
            anchors, level by level.
        """
        with any_size():
            outputs = self.head(list(self.backbone(images).values()))
        return tuple(outputs[name] for name in self.core_outputs)

    def forward(self: Any, images: list[torch.Tensor], targets: Targets | None = None) -> Any:
        """Return losses in training and detections otherwise, as torchvision does."""
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, targets = self.transform(images, targets)
        outputs = dict(zip(self.core_outputs, self.core(batch.tensors), strict=True))
        like, levels = outputs["cls_logits"], level_sizes(*batch.tensors.shape[-2:])
        # torchvision asks its anchors of the feature maps, of which only shape, type and device count
        anchors = self.anchor_generator(batch, [like.new_empty(()).expand(1, 1, *level) for level in levels])
        positions = [height * width for height, width in levels]
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

    core_outputs = ("cls_logits", "bbox_regression")

    def decode(self, outputs: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Map outputs (N, 4) at anchors (N, 4) to boxes (N, 4)."""
        return self.box_coder.decode_single(outputs, anchors)

    def compute_loss(self, targets: Targets, head_outputs: Any, anchors: Any, num_anchors_per_level: Any = None) -> Any:
        """Return the losses; the last argument is FCOS's and of no use here."""
        return super().compute_loss(targets, head_outputs, anchors)


class FCOS(OneStage, detection.FCOS):
    """torchvision's FCOS."""

    def decode(self, outputs: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Map outputs (N, 4) at anchors (N, 4) to boxes (N, 4)."""
        return self.box_coder.decode(outputs, anchors)


class FCOSHead(detection.fcos.FCOSHead):
    """torchvision's head, which learns the same from several processes as from one."""

    def compute_loss(self, targets: Targets, head_outputs: Any, anchors: Any, matched_idxs: Any) -> Any:
        """Return the losses, divided by the mean number of positives of all processes; arguments as torchvision's."""
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        positive = (torch.cat(matched_idxs) >= 0).sum().float()
        share = positive.clamp(min=1.0) / mean_over_processes(positive).clamp(min=1.0)
        return {name: loss * share for name, loss in losses.items()}
