"""Mask2Former (Cheng et al. 2022, arXiv 2112.01527): panoptic, instance and semantic segmentation by mask queries."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import masks_to_boxes

from van.errors import DataError, VanError
from van.heads.pixels.parts import IGNORED, PixelModel, check_labels
from van.models.backbone import Backbone

try:
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former.modeling_mask2former import (
        Mask2FormerLoss,
        Mask2FormerPixelDecoder,
        Mask2FormerPreTrainedModel,
        Mask2FormerTransformerModule,
    )
except ImportError as error:
    raise VanError("Mask2Former needs transformers: pip install 'visual-attention-network[segmentation]'.") from error

_LOSSES = {"loss_cross_entropy": "class", "loss_mask": "mask", "loss_dice": "dice"}


class Mask2FormerHead(Mask2FormerPreTrainedModel):
    """transformers' Mask2Former without a backbone: its own would be made, initialised over and thrown away.

    Args:
        config: Sizes and weights.
        num_classes: Classes K.
        channels: Channels of the backbone's four maps.
    """

    def __init__(self, config: Mask2FormerConfig, num_classes: int, channels: Sequence[int]) -> None:
        config.num_labels = num_classes
        super().__init__(config)
        self.pixel_decoder = Mask2FormerPixelDecoder(config, list(channels))
        self.transformer_module = Mask2FormerTransformerModule(in_features=config.feature_size, config=config)
        self.class_predictor = nn.Linear(config.hidden_dim, num_classes + 1)
        self.criterion = Mask2FormerLoss(config=config, weight_dict={})
        self.post_init()

    def forward(self, maps: Sequence[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Map the backbone's maps to what every decoder layer says, the last one last.

        Returns:
            For each layer class_queries_logits (B, Q, K + 1), the last class being none, and masks_queries_logits
            (B, Q, h, w) at stride 4.
        """
        pixels = self.pixel_decoder(list(maps), output_hidden_states=False)
        decoded = self.transformer_module(
            multi_scale_features=pixels.multi_scale_features,
            mask_features=pixels.mask_features,
            output_hidden_states=False,
        )
        return [
            {"class_queries_logits": self.class_predictor(queries.transpose(0, 1)), "masks_queries_logits": masks}
            for queries, masks in zip(decoded.intermediate_hidden_states, decoded.masks_queries_logits, strict=True)
        ]


class Mask2Former(PixelModel):
    """Mask2Former: each of Q queries gives a mask and what it is.

    Args:
        backbone: With four maps.
        num_classes: Classes K, things and stuff.
        mean: Mean of each colour; None takes the backbone's own.
        std: Standard deviation of each colour; None takes the backbone's own.
        queries: Queries Q: the most segments that an image can get (T14: 100, or 200 for B6).
        channels: Width of pixel decoder and queries, at least 64, a multiple of 32 and of heads.
        encoder_layers: Layers of deformable attention in the pixel decoder.
        encoder_width: Hidden width of their feed-forward halves.
        decoder_layers: Layers on the queries.
        decoder_width: Hidden width of their feed-forward halves.
        heads: Attention heads.
        dropout: Dropout rate in all layers.
        points: Positions at which masks are compared in training.
        class_weight: Weight of the classification loss.
        mask_weight: Weight of the masks' cross-entropy.
        dice_weight: Weight of the masks' Dice loss.
        no_object_weight: Weight of queries without an object in the classification loss.
    """

    input_size = (3, 1024, 1024)  # its training crops; T14 gives no count

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        queries: int = 100,
        channels: int = 256,
        encoder_layers: int = 6,
        encoder_width: int = 1024,
        decoder_layers: int = 9,
        decoder_width: int = 2048,
        heads: int = 8,
        dropout: float = 0.0,
        points: int = 12544,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
    ) -> None:
        super().__init__(backbone, mean, std)
        if (
            channels < 64
            or channels % 32
            or channels % heads
            or min(queries, encoder_layers, decoder_layers, points) < 1
        ):
            raise VanError(
                f"Mask2Former has channels {channels}, heads {heads}, queries {queries}, encoder_layers "
                f"{encoder_layers}, decoder_layers {decoder_layers} and points {points}, expected at least 1 of each, "
                "and channels at least 64, a multiple of 32 and of heads."
            )
        self.num_classes = num_classes
        self.weights = {"class": class_weight, "mask": mask_weight, "dice": dice_weight}
        config = Mask2FormerConfig(
            num_queries=queries,
            feature_size=channels,
            mask_feature_size=channels,
            hidden_dim=channels,
            encoder_layers=encoder_layers,
            encoder_feedforward_dim=encoder_width,
            decoder_layers=decoder_layers + 1,  # transformers counts the prediction before the first layer
            dim_feedforward=decoder_width,
            num_attention_heads=heads,
            dropout=dropout,
            train_num_points=points,
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            no_object_weight=no_object_weight,
        )
        self.head = Mask2FormerHead(config, num_classes, backbone.channels)

    def forward(
        self, images: torch.Tensor, targets: torch.Tensor | Sequence[Mapping[str, torch.Tensor]] | None = None
    ) -> dict[str, Any]:
        """Find segments.

        Args:
            images: (B, 3, H, W), bytes or floats from 0 to 1.
            targets: In training for each image masks (N, H, W) of 0 and 1 and labels (N,), where N may be 0; or
                labels (B, H, W) for semantic segmentation, 255 where they do not count.

        Returns:
            In training with targets the losses class, mask and dice, each over all layers, to be added. Otherwise
            class_logits (B, Q, K + 1), the last class being none, mask_logits (B, Q, h, w) of the padded image at
            stride 4, and size, the (H, W) of the images: semantic, instances and panoptic make results of it.

        Raises:
            DataError: images or targets are not as described.
        """
        x = self.prepare(images)
        layers = self.head(self.backbone(x))
        if self.training and targets is not None:
            return self._losses(layers, *self._segments(targets, images, x.shape[-2:]))
        last = layers[-1]
        return {
            "class_logits": last["class_queries_logits"].float(),
            "mask_logits": last["masks_queries_logits"].float(),
            "size": tuple(images.shape[-2:]),
        }

    def _segments(
        self,
        targets: torch.Tensor | Sequence[Mapping[str, torch.Tensor]],
        images: torch.Tensor,
        padded: torch.Size,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return masks of the padded image and labels of every image, and say what is wrong with them."""
        if isinstance(targets, torch.Tensor):
            maps = check_labels(targets, images, self.num_classes)
            labels = [m.unique() for m in maps]
            labels = [present[present != IGNORED] for present in labels]
            masks = [m[None] == present[:, None, None] for m, present in zip(maps, labels, strict=True)]
        else:
            masks = [torch.as_tensor(t["masks"]).as_subclass(torch.Tensor) for t in targets]
            labels = [torch.as_tensor(t["labels"]).as_subclass(torch.Tensor).long() for t in targets]
            if len(masks) != len(images):
                raise DataError(
                    f"There are {len(masks)} targets for {len(images)} images: training needs one for each."
                )
        height, width = images.shape[-2:]
        for mask, label in zip(masks, labels, strict=True):
            if mask.ndim != 3 or mask.shape != (len(label), height, width):
                raise DataError(
                    f"A target has {len(label)} labels and masks of shape {tuple(mask.shape)}, expected "
                    f"({len(label)}, {height}, {width})."
                )
            if ((label < 0) | (label >= self.num_classes)).any():
                raise DataError(f"A target has the labels {label.tolist()}, expected 0 to {self.num_classes - 1}.")
        space = (0, padded[1] - width, 0, padded[0] - height)
        return [F.pad(mask.float(), space) for mask in masks], labels

    def _losses(
        self, layers: list[dict[str, torch.Tensor]], masks: list[torch.Tensor], labels: list[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        last, *others = [{name: value.float() for name, value in layer.items()} for layer in reversed(layers)]
        with torch.autocast(masks[0].device.type, enabled=False):  # the assignment runs in numpy: no bfloat16
            parts = self.head.criterion(**last, mask_labels=masks, class_labels=labels, auxiliary_predictions=others)
        totals = {
            name: torch.stack([value for key, value in parts.items() if key.startswith(prefix)]).sum()
            for prefix, name in _LOSSES.items()
        }
        return {name: self.weights[name] * total for name, total in totals.items()}

    def _per_image(self, outputs: Mapping[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return class probabilities (Q, K + 1) and mask logits (Q, h, w) of each image."""
        return list(zip(outputs["class_logits"].softmax(-1), outputs["mask_logits"], strict=True))

    def _full_size(self, masks: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """Bring mask logits (N, h, w) of the padded image at stride 4 to those of the image, (N, H, W)."""
        if not len(masks):
            return masks.new_zeros(0, *size)
        masks = F.interpolate(masks[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
        return masks[:, : size[0], : size[1]]

    def semantic(self, outputs: Mapping[str, Any]) -> torch.Tensor:
        """Return what forward gave as scores (B, K, H, W) of the classes, each from 0 up; the largest one counts."""
        maps = []
        for classes, masks in self._per_image(outputs):
            full = self._full_size(masks, outputs["size"]).sigmoid_()
            maps.append(torch.einsum("qk,qhw->khw", classes[:, :-1], full))
        return torch.stack(maps)

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to class probabilities (B, K, H, W)."""
        scores = self.semantic(self(images))
        return scores / scores.sum(1, keepdim=True).clamp(min=1e-6)

    def instances(
        self, outputs: Mapping[str, Any], things: Collection[int] | None = None, detections: int = 100
    ) -> list[dict[str, torch.Tensor]]:
        """Return the objects that forward found.

        Args:
            outputs: What forward gave.
            things: Labels of countable classes; None for all.
            detections: Most objects of an image.

        Returns:
            For each image boxes (N, 4) as x1, y1, x2, y2, labels (N,), scores (N,), best first, and masks (N, H, W),
            boolean. An object without a pixel is left out.
        """
        results = []
        for classes, masks in self._per_image(outputs):
            scores = classes[:, :-1]
            if things is not None:
                allowed = torch.zeros(self.num_classes, dtype=torch.bool, device=scores.device)
                allowed[list(things)] = True
                scores = scores.masked_fill(~allowed, 0)
            best = scores.flatten().topk(min(detections, scores.numel()))
            queries, labels = best.indices // self.num_classes, best.indices % self.num_classes
            logits = self._full_size(masks[queries], outputs["size"])
            found = logits > 0
            quality = (logits.sigmoid() * found).flatten(1).sum(1) / found.flatten(1).sum(1).clamp(min=1)
            values = best.values * quality
            order = values.argsort(descending=True)
            order = order[(values > 0)[order]]
            found = found[order]
            boxes = masks_to_boxes(found) if len(found) else logits.new_zeros(0, 4)
            boxes[:, 2:] += 1  # the last pixel belongs to the box
            results.append({"boxes": boxes, "labels": labels[order], "scores": values[order], "masks": found})
        return results

    def panoptic(
        self,
        outputs: Mapping[str, Any],
        things: Collection[int],
        object_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
    ) -> list[dict[str, Any]]:
        """Return one segment for each pixel, as Mask2Former's own code makes them.

        Args:
            outputs: What forward gave.
            things: Labels of countable classes. Segments of one other class are merged.
            object_threshold: Queries that are less certain of their class are left out.
            overlap_threshold: A mask of which a smaller share than this is left by others is left out.

        Returns:
            For each image segmentation (H, W), int32, 0 where there is no segment, and segments: dicts with id,
            label, isthing and score.
        """
        results = []
        for classes, masks in self._per_image(outputs):
            scores, labels = classes.max(-1)
            keep = (labels != self.num_classes) & (scores > object_threshold)
            scores, labels, masks = scores[keep].tolist(), labels[keep].tolist(), masks[keep]
            size = outputs["size"]
            # one query at a time, and again: all of them would take gigabytes for a large image
            best, owner = masks.new_zeros(size), torch.full(size, -1, dtype=torch.int32, device=masks.device)
            for query, score in enumerate(scores):
                value = score * self._full_size(masks[query : query + 1], size)[0].sigmoid_()
                better = value > best
                best[better], owner[better] = value[better], query
            segmentation = torch.zeros(size, dtype=torch.int32, device=masks.device)
            segments: list[dict[str, Any]] = []
            merged: dict[int, int] = {}
            for query, (label, score) in enumerate(zip(labels, scores, strict=True)):
                own, whole = owner == query, self._full_size(masks[query : query + 1], size)[0] >= 0
                area = own & whole
                if not area.any() or int(own.sum()) < overlap_threshold * int(whole.sum()):
                    continue
                is_thing = label in things
                number = merged.get(label, 0) if not is_thing else 0
                if not number:
                    number = len(segments) + 1
                    merged[label] = number
                    segments.append({"id": number, "label": label, "isthing": is_thing, "score": round(score, 6)})
                segmentation[area] = number
            results.append({"segmentation": segmentation, "segments": segments})
        return results
