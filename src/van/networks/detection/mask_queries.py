"""Mask2Former (Cheng et al. 2022, arXiv 2112.01527) for objects: queries give masks, boxes enclose them."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from van.networks.detection.mask2former import Mask2FormerDetectorOptions
from van.networks.detection.parts import Transform
from van.networks.segmentation.mask2former import Mask2Former


class MaskQueries(nn.Module):
    """Mask2Former behind torchvision's interface.

    Args:
        model: The network; takes normalized images.
        options: What it is built from.

    Attributes:
        core_inputs: Names of what core takes.
        core_outputs: Names of what core returns.
        core_batched: Whether core takes several images at once.
    """

    has_masks = True
    core_inputs: ClassVar[tuple[str, ...]] = ("images",)
    core_outputs: ClassVar[tuple[str, ...]] = Mask2Former.core_outputs
    core_batched: ClassVar[bool] = True

    def __init__(self, model: Mask2Former, options: Mask2FormerDetectorOptions) -> None:
        super().__init__()
        self.model = model
        self.transform = Transform(options)
        self.detections_per_image = options.detections_per_image

    def forward(self, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]] | None = None) -> Any:
        """Return losses in training and objects otherwise, as torchvision does."""
        original = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, targets = self.transform(images, targets if self.training else None)
        pixels = batch.tensors
        if self.training and targets is not None:
            height, width = pixels.shape[-2:]
            padded = [
                {"labels": t["labels"], "masks": F.pad(t["masks"], (0, width - w, 0, height - h))}
                for t, (h, w) in zip(targets, batch.image_sizes, strict=True)
            ]
            return self.model(pixels, padded)
        outputs = dict(zip(self.core_outputs, self.core(pixels), strict=True))
        return [
            self._objects(outputs, i, inside, size)
            for i, (inside, size) in enumerate(zip(batch.image_sizes, original, strict=True))
        ]

    def core(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map normalized images (B, 3, H, W), padded to multiples of 32, to class and mask logits; see Mask2Former."""
        return self.model.core(images)

    def _objects(
        self, outputs: Mapping[str, Any], place: int, inside: tuple[int, int], size: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        """Return the objects of one image of a batch, where its size is inside, in its own pixels."""
        one = {name: outputs[name][place : place + 1] for name in ("class_logits", "mask_logits")}
        (found,) = self.model.instances({**one, "size": inside}, detections=self.detections_per_image)
        masks = found["masks"][:, None].float()
        if inside != size:
            masks = F.interpolate(masks, size, mode="bilinear")
        scale = [now / before for now, before in zip(size[::-1], inside[::-1], strict=True)]
        boxes = found["boxes"] * found["boxes"].new_tensor([*scale, *scale])
        return {"boxes": boxes, "labels": found["labels"], "scores": found["scores"], "masks": masks}

    def counted_forward(self, images: torch.Tensor) -> None:
        """Run every layer on (B, 3, H, W), for counting."""
        self.model(images)
