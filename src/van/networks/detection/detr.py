"""Deformable DETR (Zhu et al. 2020, arXiv 2010.04159) and RT-DETR (Zhao et al. 2023, arXiv 2304.08069)."""

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torchvision.ops import box_convert, clip_boxes_to_image, sigmoid_focal_loss

from van.errors import VanError
from van.models.backbone import Backbone
from van.networks.dense import full_precision, mean_over_processes
from van.networks.detection.deformable_detr import DeformableDETROptions
from van.networks.detection.options import DETROptions
from van.networks.detection.parts import Transform, group_norm
from van.networks.detection.rt_detr import RTDETROptions
from van.networks.tracing import dynamic_sizes


class _Maps(nn.Module):
    """The backbone as transformers' detectors call it: feature maps, and masks of their positions inside the image."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: torch.Tensor, mask: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Map (B, 3, H, W) and (B, H, W) to pairs of (B, C, h, w) and (B, h, w)."""
        maps = self.backbone(pixels)
        small = [nn.functional.interpolate(mask[None].float(), size=m.shape[-2:])[0].bool() for m in maps]
        return list(zip(maps, small, strict=True))


def _loss(standard: Callable[..., Any], logits: Any, labels: Any, *args: Any, **kwargs: Any) -> Any:
    """Return transformers' loss, or that of the background alone for a batch without objects, which it cannot take."""
    if any(len(label["boxes"]) for label in labels):
        return standard(logits, labels, *args, **kwargs)
    _, _, _, classes, boxes = args[:5]
    every = [classes, kwargs["enc_topk_logits"]] if "enc_topk_logits" in kwargs else [classes]
    background = sum(sigmoid_focal_loss(c, torch.zeros_like(c), alpha=0.25, reduction="sum") for c in every)
    unused = boxes.sum() + (kwargs["enc_topk_bboxes"].sum() if "enc_topk_bboxes" in kwargs else 0.0)
    return background, {"loss_background": background, "loss_bbox": 0.0 * unused}, None


class TransformerDetector(nn.Module):
    """A detector of transformers behind torchvision's interface.

    Args:
        model: DeformableDetrForObjectDetection or RTDetrForObjectDetection.
        backbone: Replaces the model's own.
        options: What it is built from.
        loss_weights: Factor of each loss, by the start of its name.
        relative_to_image: Whether boxes are relative to the image, or to the image with its padding.
        least_positions: Number of positions on all maps together that an image must have.

    Attributes:
        core_inputs: Names of what core takes.
        core_outputs: Names of what core returns.
        core_batched: Whether core takes several images at once.
    """

    core_inputs: ClassVar[tuple[str, ...]] = ("images", "sizes")
    core_outputs: ClassVar[tuple[str, ...]] = ("logits", "pred_boxes")
    core_batched: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        backbone: Backbone,
        options: DETROptions,
        loss_weights: dict[str, float],
        relative_to_image: bool,
        least_positions: int = 0,
    ) -> None:
        super().__init__()
        inner = cast(Any, model)
        inner.model.backbone = _Maps(backbone)
        inner.loss_function = partial(_loss, inner.loss_function)
        self.model = model
        self.transform = Transform(options)
        self.loss_weights = loss_weights
        self.relative_to_image = relative_to_image
        self.least_positions = least_positions
        self.score_threshold = options.score_threshold
        self.detections_per_image = options.detections_per_image

    def forward(self, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]] | None = None) -> Any:
        """Return losses in training and detections otherwise, as torchvision does."""
        original = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, targets = self.transform(images, targets if self.training else None)
        pixels = batch.tensors
        height, width = pixels.shape[-2:]  # multiples of 32
        if (positions := height * width * 21 // 32**2) < self.least_positions:  # 16 + 4 + 1 positions in 32 x 32
            raise VanError(
                f"Images of {height} x {width} give {positions} positions for {self.least_positions} queries. Give a "
                "larger min_size, or a smaller queries."
            )
        unit = batch.image_sizes if self.relative_to_image else [(height, width)] * len(pixels)
        units = [torch.tensor([w, h, w, h], dtype=torch.float32, device=pixels.device) for h, w in unit]
        if self.training and targets is not None:
            labels = [
                {"class_labels": t["labels"], "boxes": box_convert(t["boxes"], "xyxy", "cxcywh") / u}
                for t, u in zip(targets, units, strict=True)
            ]
            sizes = torch.tensor(batch.image_sizes, device=pixels.device)
            losses = self._named(self.model(pixels, self._inside(pixels, sizes), labels=labels).loss_dict)
            # transformers divides by the objects of this process, the published code by their mean over all processes
            objects = sum(len(t["labels"]) for t in targets)
            mean = mean_over_processes(torch.tensor(float(objects), device=pixels.device)).clamp(min=1.0)
            return {name: loss * (max(1, objects) / mean) for name, loss in losses.items()}
        outputs = self.core(pixels, torch.tensor(batch.image_sizes))
        results = []
        for logits, boxes, u, size in zip(*outputs, units, batch.image_sizes, strict=True):
            scores = logits.sigmoid().flatten()
            scores, kept = scores.topk(min(self.detections_per_image, len(scores)))
            kept, scores = kept[scores > self.score_threshold], scores[scores > self.score_threshold]
            boxes = box_convert(boxes[kept // logits.shape[1]], "cxcywh", "xyxy") * u
            results.append(
                {"boxes": clip_boxes_to_image(boxes, size), "labels": kept % logits.shape[1], "scores": scores}
            )
        return self.transform.postprocess(results, batch.image_sizes, original)

    def core(self, images: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the layers with weights make of normalized images; inference engines take this method's place.

        Args:
            images: (B, 3, H, W), padded to multiples of 32.
            sizes: (B, 2), int64: height and width of the images without their padding.

        Returns:
            Class logits (B, Q, K), and boxes (B, Q, 4) as cx, cy, w, h from 0 to 1.
        """
        inside = self._inside(images, sizes.to(images.device))
        with dynamic_sizes(sys.modules[type(self.model).__module__]):
            output = self.model(images, inside)
        return full_precision(output.logits), full_precision(output.pred_boxes)

    def _inside(self, images: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """Return 1 at positions of padded images (B, 3, H, W) inside images of sizes (B, 2), 0 outside."""
        high, wide = (torch.arange(side, device=images.device) for side in images.shape[-2:])
        inside = (high < sizes[:, :1])[:, :, None] & (wide < sizes[:, 1:])[:, None]
        return inside.float()

    def _named(self, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weighted sums of the losses over all decoder layers, without those that are only reported."""
        named = {}
        for name, weight in self.loss_weights.items():
            parts = [loss for key, loss in losses.items() if key.startswith(name)]
            if parts:
                named[name] = weight * torch.stack(parts).sum()
        return named

    def counted_forward(self, images: torch.Tensor) -> None:
        """Run every layer on (B, 3, H, W), for counting."""
        with torch.enable_grad():  # without it, torch's counter fails on views of parameters
            self.model(images, torch.ones(len(images), *images.shape[-2:], device=images.device))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise VanError(
            "This detector needs transformers: pip install 'visual-attention-network[detection]'."
        ) from error
    return transformers


def _config(num_classes: int, options: DETROptions) -> dict[str, Any]:
    """Return the arguments of both configurations; the network named here is only a placeholder for the backbone."""
    return {
        "backbone_config": _transformers().TimmBackboneConfig(backbone="van_b0", out_indices=[1, 2, 3]),
        "num_labels": num_classes,
        "d_model": options.pyramid_channels,
        "num_queries": options.queries,
        "encoder_layers": options.encoder_layers,
        "decoder_layers": options.decoder_layers,
        "encoder_ffn_dim": options.feedforward_width,
        "decoder_ffn_dim": options.feedforward_width,
        "auxiliary_loss": True,
        "with_box_refine": True,
        "disable_custom_kernels": True,
    }


def deformable_detr(backbone: Backbone, num_classes: int, options: DeformableDETROptions) -> TransformerDetector:
    """Build Deformable DETR with iterative box refinement.

    Args:
        backbone: With out_indices 1, 2, 3.
        num_classes: Classes without the background.
        options: What it is built from.

    Raises:
        VanError: transformers is missing.
    """
    width = options.pyramid_channels
    config = _transformers().DeformableDetrConfig(
        **_config(num_classes, options), dropout=options.dropout, tie_word_embeddings=False
    )
    model = _transformers().DeformableDetrForObjectDetection(config)
    inputs = [*backbone.channels, backbone.channels[-1]]  # the last level is made from the last map too
    for projection, channels in zip(model.model.input_proj, inputs, strict=True):
        old = projection[0]
        projection[0] = nn.Conv2d(channels, width, old.kernel_size, old.stride, old.padding)
        nn.init.xavier_uniform_(projection[0].weight)
        nn.init.zeros_(projection[0].bias)
        projection[1] = group_norm(width)(width)  # 32 groups at the usual 256 channels
    for classes, boxes in zip(model.class_embed, model.bbox_embed, strict=True):  # as in the published code
        nn.init.constant_(classes.bias, -math.log(99))
        nn.init.zeros_(boxes.layers[-1].weight)
        nn.init.zeros_(boxes.layers[-1].bias)
    nn.init.constant_(model.bbox_embed[0].layers[-1].bias[2:], -2.0)
    # The decoder refines with the same heads; a tuple keeps them out of the state dict, where they are already
    del model.model.decoder.bbox_embed
    model.model.decoder.bbox_embed = tuple(model.bbox_embed)
    weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_background": 1.0}
    return TransformerDetector(model, backbone, options, weights, relative_to_image=True)


def rt_detr(backbone: Backbone, num_classes: int, options: RTDETROptions) -> TransformerDetector:
    """Build RT-DETR.

    Args:
        backbone: With out_indices 1, 2, 3.
        num_classes: Classes without the background.
        options: What it is built from.

    Raises:
        VanError: transformers is missing.
    """
    width = options.pyramid_channels
    config = _transformers().RTDetrConfig(
        **_config(num_classes, options),
        encoder_hidden_dim=width,
        encoder_in_channels=list(backbone.channels),
        decoder_in_channels=[width] * 3,
        num_denoising=options.denoising_queries,
    )
    model = _transformers().RTDetrForObjectDetection(config)
    for projection, channels in zip(model.model.encoder_input_proj, backbone.channels, strict=True):
        projection[0] = nn.Conv2d(channels, width, 1, bias=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # transformers initializes weights near 0, for checkpoints to overwrite
    weights = {"loss_vfl": 1.0, "loss_bbox": 1.0, "loss_giou": 1.0, "loss_background": 1.0}  # weighted already
    return TransformerDetector(
        model, backbone, options, weights, relative_to_image=False, least_positions=options.queries
    )
