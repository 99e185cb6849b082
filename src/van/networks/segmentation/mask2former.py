"""Mask2Former (Cheng et al. 2022, arXiv 2112.01527): panoptic, instance and semantic segmentation by mask queries."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import masks_to_boxes

from van.errors import DataError, VanError
from van.models.backbone import Backbone
from van.networks.dense import DenseNetwork, full_precision, mean_over_processes
from van.networks.options import IGNORED
from van.networks.segmentation.options import Mask2FormerOptions
from van.networks.segmentation.queries import class_scores
from van.networks.segmentation.semantic import label_maps
from van.networks.tracing import dynamic_sizes

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


class _Loss(Mask2FormerLoss):
    """transformers' loss, which knows other processes only where accelerate runs them."""

    def get_num_masks(self, class_labels: Any, device: torch.device) -> torch.Tensor:
        """Return the mean number of masks of a batch over all processes, at least 1."""
        count = sum(len(labels) for labels in class_labels)
        return mean_over_processes(torch.tensor(float(count), device=device)).clamp(min=1.0)


class Mask2FormerHead(Mask2FormerPreTrainedModel):
    """transformers' Mask2Former without its backbone, which would be built and initialized only to be thrown away.

    Args:
        config: Sizes and weights.
        num_classes: Number of classes K.
        channels: Channels of the backbone's four feature maps.
    """

    def __init__(self, config: Mask2FormerConfig, num_classes: int, channels: Sequence[int]) -> None:
        config.num_labels = num_classes
        super().__init__(config)
        self.pixel_decoder = Mask2FormerPixelDecoder(config, list(channels))
        self.transformer_module = Mask2FormerTransformerModule(in_features=config.feature_size, config=config)
        self.class_predictor = nn.Linear(config.hidden_dim, num_classes + 1)
        self.criterion = _Loss(config=config, weight_dict={})
        self.post_init()

    def forward(self, maps: Sequence[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Map the backbone's feature maps to the predictions of every decoder layer, the last one last.

        Returns:
            For each layer class_queries_logits (B, Q, K + 1), the last class meaning no object, and
            masks_queries_logits (B, Q, h, w) at stride 4.
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


class Mask2Former(DenseNetwork):
    """Mask2Former: each of Q queries gives a mask and its class.

    Args:
        backbone: With four feature maps.
        num_classes: Number of classes K, things and stuff.
        options: What the network is built from.
    """

    core_outputs = ("class_logits", "mask_logits")
    input_size = (3, 1024, 1024)  # its training crops; table 14 of the VAN paper gives no count

    def __init__(self, backbone: Backbone, num_classes: int, options: Mask2FormerOptions) -> None:
        super().__init__(backbone, options)
        self.num_classes = num_classes
        self.weights = {"class": options.class_weight, "mask": options.mask_weight, "dice": options.dice_weight}
        config = Mask2FormerConfig(
            num_queries=options.queries,
            feature_size=options.pyramid_channels,
            mask_feature_size=options.pyramid_channels,
            hidden_dim=options.pyramid_channels,
            encoder_layers=options.encoder_layers,
            encoder_feedforward_dim=options.encoder_width,
            decoder_layers=options.decoder_layers + 1,  # transformers counts the prediction before the first layer
            dim_feedforward=options.decoder_width,
            num_attention_heads=options.heads,
            dropout=options.dropout,
            train_num_points=options.points,
            class_weight=options.class_weight,
            mask_weight=options.mask_weight,
            dice_weight=options.dice_weight,
            no_object_weight=options.no_object_weight,
        )
        self.head = Mask2FormerHead(config, num_classes, backbone.channels)

    def forward(
        self,
        images: torch.Tensor,
        targets: torch.Tensor | Sequence[Mapping[str, torch.Tensor]] | None = None,
        pad: bool = True,
    ) -> dict[str, Any]:
        """Find segments.

        Args:
            images: (B, 3, H, W), bytes or floats from 0 to 1.
            targets: In training for each image masks (N, H, W) of 0 and 1 and labels (N,), where N may be 0; or
                labels (B, H, W) for semantic segmentation, 255 for ignored pixels.
            pad: Pad images whose sides are no multiples of 32.

        Returns:
            In training with targets the losses class, mask and dice, each summed over all layers, to be added.
            Otherwise class_logits (B, Q, K + 1), the last class meaning no object, mask_logits (B, Q, h, w) of the
            padded images at stride 4, and size, the (H, W) of the images: semantic, instances and panoptic turn these
            into results.

        Raises:
            DataError: Images or targets have the wrong shape or type.
        """
        x = self.prepare(images, pad)
        if self.training and targets is not None:
            layers = self.head(self.backbone(x))
            return self._losses(layers, *self._segments(targets, images, x.shape[-2:]))
        return {**dict(zip(self.core_outputs, self.core(x), strict=True)), "size": tuple(images.shape[-2:])}

    def core(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map prepared images (B, 3, H, W) to class logits (B, Q, K + 1) and mask logits (B, Q, h, w); see forward."""
        with dynamic_sizes():
            last = self.head(self.backbone(images))[-1]
        return full_precision(last["class_queries_logits"]), full_precision(last["masks_queries_logits"])

    def full_scores(self, outputs: Sequence[torch.Tensor], padded: torch.Size, size: torch.Size) -> torch.Tensor:
        """Return class scores (B, K, H, W) of what core returned, in exported graphs; see semantic."""
        return class_scores(outputs[0], outputs[1], (size[-2], size[-1]))

    def _segments(
        self,
        targets: torch.Tensor | Sequence[Mapping[str, torch.Tensor]],
        images: torch.Tensor,
        padded: torch.Size,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return masks of the padded image and labels of every image."""
        if isinstance(targets, torch.Tensor):
            maps = label_maps(targets, images)
            labels = [m.unique() for m in maps]
            labels = [present[present != IGNORED] for present in labels]
            masks = [m[None] == present[:, None, None] for m, present in zip(maps, labels, strict=True)]
        else:
            masks, labels = [t["masks"] for t in targets], [t["labels"].long() for t in targets]
            if len(masks) != len(images):
                raise DataError(f"There are {len(masks)} targets for {len(images)} images, expected one for each.")
        height, width = images.shape[-2:]
        for mask, label in zip(masks, labels, strict=True):
            if mask.ndim != 3 or mask.shape != (len(label), height, width):
                raise DataError(
                    f"A target has {len(label)} labels and masks of shape {tuple(mask.shape)}, expected "
                    f"({len(label)}, {height}, {width})."
                )
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
        """Scale mask logits (N, h, w) of the padded image at stride 4 to those of the image, (N, H, W)."""
        if not len(masks):
            return masks.new_zeros(0, *size)
        masks = F.interpolate(masks[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
        return masks[:, : size[0], : size[1]]

    def semantic(self, outputs: Mapping[str, Any]) -> torch.Tensor:
        """Turn the outputs of forward into class scores (B, K, H, W), at least 0; the largest one gives the label."""
        maps = []
        for classes, masks in self._per_image(outputs):
            full = self._full_size(masks, outputs["size"]).sigmoid_()
            maps.append(torch.einsum("qk,qhw->khw", classes[:, :-1], full))
        return torch.stack(maps)

    def scores(self, images: torch.Tensor, pad: bool = True) -> torch.Tensor:
        """Map images (B, 3, H, W) to class scores (B, K, H, W); see semantic."""
        return self.semantic(self(images, pad=pad))

    def normalized(self, scores: torch.Tensor) -> torch.Tensor:
        """Make class probabilities of class scores (B, K, H, W)."""
        return scores / scores.sum(1, keepdim=True).clamp(min=1e-6)

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to class probabilities (B, K, H, W)."""
        return self.normalized(self.scores(images))

    def instances(
        self, outputs: Mapping[str, Any], things: Collection[int] | None = None, detections: int = 100
    ) -> list[dict[str, torch.Tensor]]:
        """Turn the outputs of forward into objects.

        Args:
            outputs: Outputs of forward.
            things: Labels of countable classes; None means all.
            detections: Largest number of objects per image.

        Returns:
            For each image boxes (N, 4) as x1, y1, x2, y2, labels (N,), scores (N,), best first, and masks (N, H, W),
            boolean. Objects without a pixel are left out.
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
        score_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
    ) -> list[dict[str, Any]]:
        """Turn the outputs of forward into one segment for each pixel, as Mask2Former's own code does.

        Args:
            outputs: Outputs of forward.
            things: Labels of countable classes. All segments of another class are merged into one.
            score_threshold: Queries with a smaller class probability are dropped.
            overlap_threshold: A segment is dropped if other segments leave a smaller fraction of its mask visible.

        Returns:
            For each image segmentation (H, W), int32, 0 where there is no segment, and segments: dicts with id,
            label, isthing and score.
        """
        results = []
        for classes, masks in self._per_image(outputs):
            scores, labels = classes.max(-1)
            keep = (labels != self.num_classes) & (scores > score_threshold)
            scores, labels, masks = scores[keep].tolist(), labels[keep].tolist(), masks[keep]
            size = outputs["size"]
            # one query at a time, and computed twice: all of them together take gigabytes for a large image
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
