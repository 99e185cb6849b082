"""Mask2Former (Cheng et al. 2022, arXiv 2112.01527) for objects: queries give masks, whose boxes are the objects'."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from van.heads.detection.parts import Transform
from van.models.backbone import Backbone

if TYPE_CHECKING:
    from van.heads.pixels.mask2former import Mask2Former


class MaskQueries(nn.Module):
    """Mask2Former in torchvision's interface.

    Args:
        model: The network; takes images that are normalised.
        detections_per_img: Most objects of an image.
        **transform: min_size, max_size, image_mean, image_std.
    """

    def __init__(self, model: "Mask2Former", detections_per_img: int, **transform: Any) -> None:
        super().__init__()
        self.model = model
        self.transform = Transform(**transform)
        self.detections_per_img = detections_per_img

    def forward(self, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]] | None = None) -> Any:
        """Losses in training, objects otherwise; images and targets as torchvision's."""
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
        outputs = self.model(pixels)
        return [
            self._objects(outputs, i, inside, size)
            for i, (inside, size) in enumerate(zip(batch.image_sizes, original, strict=True))
        ]

    def _objects(
        self, outputs: Mapping[str, Any], place: int, inside: tuple[int, int], size: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        """Return the objects of one image of a batch, which is of size inside there, in its own pixels."""
        one = {name: outputs[name][place : place + 1] for name in ("class_logits", "mask_logits")}
        (found,) = self.model.instances({**one, "size": inside}, detections=self.detections_per_img)
        masks = found["masks"][:, None].float()
        if inside != size:
            masks = F.interpolate(masks, size, mode="bilinear")
        scale = [now / before for now, before in zip(size[::-1], inside[::-1], strict=True)]
        boxes = found["boxes"] * found["boxes"].new_tensor([*scale, *scale])
        return {"boxes": boxes, "labels": found["labels"], "scores": found["scores"], "masks": masks}

    def counted_forward(self, images: torch.Tensor) -> None:
        """Run every layer on (B, 3, H, W), for counting."""
        self.model(images)


def mask2former(
    backbone: Backbone,
    num_classes: int,
    pyramid_channels: int,
    queries: int = 100,
    encoder_layers: int = 6,
    encoder_width: int = 1024,
    decoder_layers: int = 9,
    decoder_width: int = 2048,
    heads: int = 8,
    points: int = 12544,
    no_object_weight: float = 0.1,
    detections_per_img: int = 100,
    **transform: Any,
) -> MaskQueries:
    """Build Mask2Former on four maps.

    Args:
        backbone: With out_indices 0 to 3.
        num_classes: Classes, background not counted.
        pyramid_channels: Width of pixel decoder and queries, at least 64, a multiple of 32 and of heads.
        queries: The most objects that can be found.
        encoder_layers: Layers of deformable attention in the pixel decoder.
        encoder_width: Hidden width of their feed-forward halves.
        decoder_layers: Layers on the queries.
        decoder_width: Hidden width of their feed-forward halves.
        heads: Attention heads.
        points: Positions at which masks are compared in training.
        no_object_weight: Weight of queries without an object in the classification loss.
        detections_per_img: Most objects of an image; a query may give several, of different classes.
        **transform: min_size, max_size, image_mean, image_std.
    """
    from van.heads.pixels.mask2former import Mask2Former

    model = Mask2Former(
        backbone,
        num_classes,
        # the images come normalised, as torchvision's detectors have it
        mean=[0.0] * 3,
        std=[1.0] * 3,
        queries=queries,
        channels=pyramid_channels,
        encoder_layers=encoder_layers,
        encoder_width=encoder_width,
        decoder_layers=decoder_layers,
        decoder_width=decoder_width,
        heads=heads,
        points=points,
        no_object_weight=no_object_weight,
    )
    return MaskQueries(model, detections_per_img, **transform)
