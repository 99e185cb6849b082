"""Deformable DETR (Zhu et al. 2020, arXiv 2010.04159), RT-DETR (Zhao et al. 2023, arXiv 2304.08069), transformers'."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torchvision.ops import box_convert, clip_boxes_to_image, sigmoid_focal_loss

from van.errors import VanError
from van.heads.detection.parts import Transform, group_norm
from van.models.backbone import Backbone


class _Maps(nn.Module):
    """The backbone as transformers' detectors call it: maps, and which of their positions are image."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: torch.Tensor, mask: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Map (B, 3, H, W) and (B, H, W) to pairs of (B, C, h, w) and (B, h, w)."""
        maps = self.backbone(pixels)
        small = [nn.functional.interpolate(mask[None].float(), size=m.shape[-2:])[0].bool() for m in maps]
        return list(zip(maps, small, strict=True))


def _loss(standard: Callable[..., Any], logits: Any, labels: Any, *args: Any, **kwargs: Any) -> Any:
    """Transformers' loss, and for a batch without any object, which it cannot reshape, that of the background alone."""
    if any(len(label["boxes"]) for label in labels):
        return standard(logits, labels, *args, **kwargs)
    _, _, _, classes, boxes = args[:5]
    every = [classes, kwargs["enc_topk_logits"]] if "enc_topk_logits" in kwargs else [classes]
    background = sum(sigmoid_focal_loss(c, torch.zeros_like(c), alpha=0.25, reduction="sum") for c in every)
    unused = boxes.sum() + (kwargs["enc_topk_bboxes"].sum() if "enc_topk_bboxes" in kwargs else 0.0)
    return background, {"loss_background": background, "loss_bbox": 0.0 * unused}, None


class TransformerDetector(nn.Module):
    """A detector of transformers in torchvision's interface.

    Args:
        model: DeformableDetrForObjectDetection or RTDetrForObjectDetection.
        backbone: Takes the place of the model's own.
        loss_weights: Factor of each loss, by the beginning of its name.
        relative_to_image: Whether boxes are relative to the image, or to the image with its padding.
        least_positions: Positions of all maps together that an image must have.
        score_thresh: Detections below are dropped.
        detections_per_img: Most detections of an image.
        **transform: min_size, max_size, image_mean, image_std.
    """

    def __init__(
        self,
        model: nn.Module,
        backbone: Backbone,
        loss_weights: dict[str, float],
        relative_to_image: bool,
        least_positions: int,
        score_thresh: float,
        detections_per_img: int,
        **transform: Any,
    ) -> None:
        super().__init__()
        inner = cast(Any, model)
        inner.model.backbone = _Maps(backbone)
        inner.loss_function = partial(_loss, inner.loss_function)
        self.model = model
        self.transform = Transform(**transform)
        self.loss_weights = loss_weights
        self.relative_to_image = relative_to_image
        self.least_positions = least_positions
        self.score_thresh = score_thresh
        self.detections_per_img = detections_per_img

    def forward(self, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]] | None = None) -> Any:
        """Losses in training, detections otherwise; images and targets as torchvision's."""
        original = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, targets = self.transform(images, targets if self.training else None)
        pixels = batch.tensors
        height, width = pixels.shape[-2:]  # multiples of 32
        if (positions := height * width * 21 // 32**2) < self.least_positions:  # 16 + 4 + 1 positions in 32 x 32
            raise VanError(
                f"Images of {height} x {width} give {positions} positions for {self.least_positions} queries. Give a "
                "larger min_size, or a smaller num_queries."
            )
        mask = torch.zeros(len(pixels), height, width, device=pixels.device)
        for one, (h, w) in zip(mask, batch.image_sizes, strict=True):
            one[:h, :w] = 1
        unit = batch.image_sizes if self.relative_to_image else [(height, width)] * len(pixels)
        units = [torch.tensor([w, h, w, h], dtype=torch.float32, device=pixels.device) for h, w in unit]
        if self.training and targets is not None:
            labels = [
                {"class_labels": t["labels"], "boxes": box_convert(t["boxes"], "xyxy", "cxcywh") / u}
                for t, u in zip(targets, units, strict=True)
            ]
            return self._named(self.model(pixels, mask, labels=labels).loss_dict)
        output = self.model(pixels, mask)
        results = []
        for logits, boxes, u, size in zip(
            output.logits.float(), output.pred_boxes.float(), units, batch.image_sizes, strict=True
        ):
            scores = logits.sigmoid().flatten()
            scores, kept = scores.topk(min(self.detections_per_img, len(scores)))
            kept, scores = kept[scores > self.score_thresh], scores[scores > self.score_thresh]
            boxes = box_convert(boxes[kept // logits.shape[1]], "cxcywh", "xyxy") * u
            results.append(
                {"boxes": clip_boxes_to_image(boxes, size), "labels": kept % logits.shape[1], "scores": scores}
            )
        return self.transform.postprocess(results, batch.image_sizes, original)

    def _named(self, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add up the losses of all decoder layers, weighted; what is only reported is left out."""
        named = {}
        for name, weight in self.loss_weights.items():
            parts = [loss for key, loss in losses.items() if key.startswith(name)]
            if parts:
                named[name] = weight * torch.stack(parts).sum()
        return named

    def counted_forward(self, images: torch.Tensor) -> None:
        """Run every layer on (B, 3, H, W), for counting."""
        with torch.enable_grad():  # torch's counter cannot take a parameter's views without
            self.model(images, torch.ones(len(images), *images.shape[-2:], device=images.device))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise VanError(
            "This detector needs transformers: pip install 'visual-attention-network[detection]'."
        ) from error
    return transformers


def _config(backbone: Backbone, num_classes: int, width: int, decoder_layers: int, **more: Any) -> dict[str, Any]:
    """Arguments that both configurations have; the network named here only stands in for the backbone."""
    if decoder_layers < 2:
        raise VanError(f"decoder_layers is {decoder_layers}, expected 2 or more: each refines the boxes of another.")
    if width % 32:
        raise VanError(f"pyramid_channels is {width}, expected a multiple of 32: 8 heads, each of sines in 4 parts.")
    stand_in = _transformers().TimmBackboneConfig(backbone="van_b0", out_indices=[1, 2, 3])
    return {
        "backbone_config": stand_in,
        "num_labels": num_classes,
        "d_model": width,
        "decoder_layers": decoder_layers,
        "auxiliary_loss": True,
        "with_box_refine": True,
        "disable_custom_kernels": True,
        **more,
    }


def deformable_detr(
    backbone: Backbone,
    num_classes: int,
    pyramid_channels: int,
    num_queries: int = 300,
    encoder_layers: int = 6,
    decoder_layers: int = 6,
    feedforward: int = 1024,
    dropout: float = 0.1,
    score_thresh: float = 0.0,
    detections_per_img: int = 100,
    **transform: Any,
) -> TransformerDetector:
    """Build Deformable DETR with iterative refinement of boxes, on the stages with strides 8 to 32 and one above.

    Args:
        backbone: With out_indices 1, 2, 3.
        num_classes: Classes, background not counted.
        pyramid_channels: Width of the transformer, a multiple of 32.
        num_queries: Most objects of an image.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder, 2 or more.
        feedforward: Width inside the transformer's layers.
        dropout: Dropout rate inside them.
        score_thresh: Detections below are dropped.
        detections_per_img: Most detections of an image.
        **transform: min_size, max_size, image_mean, image_std.
    """
    config = _transformers().DeformableDetrConfig(
        **_config(
            backbone,
            num_classes,
            pyramid_channels,
            decoder_layers,
            num_queries=num_queries,
            encoder_layers=encoder_layers,
            encoder_ffn_dim=feedforward,
            decoder_ffn_dim=feedforward,
            dropout=dropout,
            tie_word_embeddings=False,
        )
    )
    model = _transformers().DeformableDetrForObjectDetection(config)
    inputs = [*backbone.channels, backbone.channels[-1]]  # the last level is made of the last map again
    for projection, channels in zip(model.model.input_proj, inputs, strict=True):
        old = projection[0]
        projection[0] = nn.Conv2d(channels, pyramid_channels, old.kernel_size, old.stride, old.padding)
        nn.init.xavier_uniform_(projection[0].weight)
        nn.init.zeros_(projection[0].bias)
        projection[1] = group_norm(pyramid_channels)(pyramid_channels)  # 32 groups at the usual 256 channels
    for classes, boxes in zip(model.class_embed, model.bbox_embed, strict=True):  # as the published code starts
        nn.init.constant_(classes.bias, -math.log(99))
        nn.init.zeros_(boxes.layers[-1].weight)
        nn.init.zeros_(boxes.layers[-1].bias)
    nn.init.constant_(model.bbox_embed[0].layers[-1].bias[2:], -2.0)
    # The decoder refines with the same heads; a tuple keeps them from being in the state dict twice
    del model.model.decoder.bbox_embed
    model.model.decoder.bbox_embed = tuple(model.bbox_embed)
    weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_background": 1.0}
    return TransformerDetector(model, backbone, weights, True, 0, score_thresh, detections_per_img, **transform)


def rt_detr(
    backbone: Backbone,
    num_classes: int,
    pyramid_channels: int,
    num_queries: int = 300,
    encoder_layers: int = 1,
    decoder_layers: int = 6,
    feedforward: int = 1024,
    num_denoising: int = 100,
    score_thresh: float = 0.0,
    detections_per_img: int = 100,
    **transform: Any,
) -> TransformerDetector:
    """Build RT-DETR on the stages with strides 8 to 32.

    Args:
        backbone: With out_indices 1, 2, 3.
        num_classes: Classes, background not counted.
        pyramid_channels: Width of the transformer and of the hybrid encoder, a multiple of 32.
        num_queries: Most objects of an image.
        encoder_layers: Transformer layers of the hybrid encoder, on the last map.
        decoder_layers: Layers of the decoder, 2 or more.
        feedforward: Width inside the transformer's layers.
        num_denoising: Queries that are disturbed boxes, in training.
        score_thresh: Detections below are dropped.
        detections_per_img: Most detections of an image.
        **transform: min_size, max_size, image_mean, image_std.
    """
    config = _transformers().RTDetrConfig(
        **_config(
            backbone,
            num_classes,
            pyramid_channels,
            decoder_layers,
            num_queries=num_queries,
            encoder_layers=encoder_layers,
            encoder_ffn_dim=feedforward,
            decoder_ffn_dim=feedforward,
            encoder_hidden_dim=pyramid_channels,
            encoder_in_channels=list(backbone.channels),
            decoder_in_channels=[pyramid_channels] * 3,
            num_denoising=num_denoising,
        )
    )
    model = _transformers().RTDetrForObjectDetection(config)
    for projection, channels in zip(model.model.encoder_input_proj, backbone.channels, strict=True):
        projection[0] = nn.Conv2d(channels, pyramid_channels, 1, bias=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # transformers starts with weights near 0, for checkpoints to overwrite
    weights = {"loss_vfl": 1.0, "loss_bbox": 1.0, "loss_giou": 1.0, "loss_background": 1.0}  # weighted already
    return TransformerDetector(
        model, backbone, weights, False, num_queries, score_thresh, detections_per_img, **transform
    )
