"""One interface for every detector: lists of images in, losses or detections in the pixels of those images out."""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from van.errors import DataError, VanError
from van.heads.detection.cascade import cascade_mask_rcnn
from van.heads.detection.dense import ATSS, GFL, atss, gfl
from van.heads.detection.mask_queries import MaskQueries, mask2former
from van.heads.detection.one_stage import fcos, retinanet
from van.heads.detection.options import DetectorOptions
from van.heads.detection.parts import Transform
from van.heads.detection.transformer import TransformerDetector, deformable_detr, rt_detr
from van.heads.detection.two_stage import faster_rcnn, mask_rcnn
from van.models.backbone import Backbone

# What builds each architecture, the backbone's maps it takes, and the function that its further arguments go to
_BUILDERS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...], Callable[..., nn.Module] | None]] = {
    "retinanet": (retinanet, (1, 2, 3), None),
    "fcos": (fcos, (1, 2, 3), None),
    "faster_rcnn": (faster_rcnn, (0, 1, 2, 3), None),
    "mask_rcnn": (mask_rcnn, (0, 1, 2, 3), faster_rcnn),
    "cascade_mask_rcnn": (cascade_mask_rcnn, (0, 1, 2, 3), faster_rcnn),
    "mask2former": (mask2former, (0, 1, 2, 3), None),
    "atss": (atss, (1, 2, 3), ATSS),
    "gfl": (gfl, (1, 2, 3), GFL),
    "deformable_detr": (deformable_detr, (1, 2, 3), None),
    "rt_detr": (rt_detr, (1, 2, 3), None),
}
_COUNTED_BOXES, _COUNTED_MASKS = 1000, 100  # regions per image that OpenMMLab's counting gives the heads


class Detector(nn.Module):
    """A detector. Labels count from 0; the background of two-stage detectors does not show.

    Args:
        network: The model in torchvision's interface.
        options: What it was built from, with everything that came with the weights filled in.
        num_classes: Classes.

    Attributes:
        has_masks: Whether it predicts masks, and needs them in training.
        input_size: (3, H, W) for counting: 8:5, the short edge as in evaluation (T11: 1280 x 800), multiples of 32.
    """

    def __init__(self, network: nn.Module, options: DetectorOptions, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.options = options
        self.num_classes = num_classes
        self._two_stage = isinstance(network, GeneralizedRCNN)
        regions = self._two_stage and cast(Any, network).roi_heads.has_mask()
        self.has_masks = regions or isinstance(network, MaskQueries)
        short = options.min_size[-1]
        edges = (short, min(options.max_size, short * 8 // 5))
        self.input_size: tuple[int, int, int] = (3, *(-(-edge // 32) * 32 for edge in edges))  # type: ignore[assignment]

    def forward(
        self, images: Sequence[torch.Tensor], targets: Sequence[Mapping[str, Any]] | None = None
    ) -> dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]:
        """Return the losses in training, and detections otherwise.

        Args:
            images: (3, H, W) each, of any sizes, integers from 0 to 255 or floats from 0 to 1.
            targets: In training one for each image: boxes (N, 4) as x1, y1, x2, y2 in its pixels, labels (N,) from 0,
                and masks (N, H, W) of 0 and 1 where has_masks. N may be 0. Anything else in it is left alone.

        Returns:
            The losses by name, to be added; or for each image boxes (N, 4), labels (N,), scores (N,), best first, and
            masks (N, 1, H, W) with probabilities where has_masks.

        Raises:
            DataError: a target is missing, has no area, is not finite, or has a label that there is no class for.
        """
        images = [_plain(image) for image in images]
        if self.training:
            if targets is None or len(targets) != len(images):
                raise DataError(
                    f"There are {len(targets or ())} targets for {len(images)} images: training needs one for each."
                )
            return self.network(images, [self._target(t) for t in targets])
        detections = self.network(images)
        if self._two_stage:
            for detection in detections:
                detection["labels"] -= 1  # there 0 is the background
        return detections

    def _target(self, target: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return what the network needs of a target, or say what is wrong with it."""
        name = f"The target of image {target['image_id']}" if "image_id" in target else "A target"
        wanted = ("boxes", "labels", "masks") if self.has_masks else ("boxes", "labels")
        if missing := [key for key in wanted if key not in target]:
            raise DataError(f"{name} has no {missing[0]}, expected {', '.join(wanted)}.")
        boxes = _plain(target["boxes"]).float().reshape(-1, 4)
        labels = _plain(target["labels"]).long()
        bad = ~(boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))
        if bad.any():
            raise DataError(f"{name} has the box {boxes[bad][0].tolist()}, expected x1 < x2 and y1 < y2.")
        if len(labels) != len(boxes) or ((labels < 0) | (labels >= self.num_classes)).any():
            raise DataError(
                f"{name} has {len(boxes)} boxes and the labels {labels.tolist()}, expected one from 0 to "
                f"{self.num_classes - 1} for each."
            )
        result = {"boxes": boxes, "labels": labels + 1 if self._two_stage else labels}
        if self.has_masks:
            result["masks"] = _plain(target["masks"])
            if len(result["masks"]) != len(boxes):
                raise DataError(f"{name} has {len(boxes)} boxes and {len(result['masks'])} masks.")
        return result

    def counted_forward(self, images: torch.Tensor) -> None:
        """Run every layer on (B, 3, H, W), for counting; works on the meta device.

        Two-stage heads see 1000 regions an image and their mask heads 100, as in OpenMMLab's counts that T11 quotes.
        """
        network: Any = self.network
        if isinstance(network, TransformerDetector | MaskQueries):
            network.counted_forward(images)
            return
        maps = network.backbone(images)
        if not self._two_stage:
            network.head(list(maps.values()))
            return
        network.rpn.head(list(maps.values()))
        heads = network.roi_heads
        channels = network.backbone.out_channels

        def regions(count: int, side: int) -> torch.Tensor:
            return images.new_empty(count * len(images), channels, side, side)

        parts = [(heads.box_head, heads.box_predictor, regions(_COUNTED_BOXES, 7))]
        if self.has_masks:
            parts.append((heads.mask_head, heads.mask_predictor, regions(_COUNTED_MASKS, 14)))
        for head, predictor, pooled in parts:
            several = isinstance(head, nn.ModuleList)  # the stages of a cascade
            for h, p in zip(head, predictor, strict=True) if several else [(head, predictor)]:
                p(h(pooled))


def _plain(value: Any) -> torch.Tensor:
    """Take a tensor out of torchvision's wrappers, which cost time in every operation."""
    return torch.as_tensor(value).as_subclass(torch.Tensor)


def build_detector(
    options: DetectorOptions,
    num_classes: int,
    pretrained: str | Path | None = None,
    device: torch.device | str | None = None,
) -> Detector:
    """Build a detector.

    Args:
        options: What to build.
        num_classes: Classes, background not counted.
        pretrained: Weights of the backbone: None for random ones, "hub" for the published ones, else a weight file of
            any known layout or a folder with one.
        device: Where the parameters are made; "meta" makes none, for counting.

    Returns:
        The detector in training mode. Its options hold mean, standard deviation and what else came with the weights,
        so that building from them again without pretrained gives the same network.

    Raises:
        VanError: an option is out of range or unknown, or the weights do not fit.
    """
    if options.architecture not in _BUILDERS:
        raise VanError(f"There is no detector {options.architecture!r}, expected one of {', '.join(_BUILDERS)}.")
    if num_classes < 1:
        raise VanError(f"num_classes is {num_classes}, expected at least 1; the background does not count.")
    if not options.min_size or min(options.min_size) < 32 or options.max_size < max(options.min_size):
        raise VanError(
            f"min_size is {options.min_size} and max_size {options.max_size}, expected at least 32 pixels, and "
            "max_size not below min_size."
        )
    build, out_indices, further = _BUILDERS[options.architecture]
    _check_arguments(options, build, further)
    with torch.device(device) if device is not None else nullcontext():
        backbone = Backbone(
            options.backbone,
            pretrained,
            out_indices,
            options.frozen_stages,
            options.freeze_norm,
            device,
            **options.backbone_args,
        )
        mean, std = list(options.mean or backbone.mean), list(options.std or backbone.std)
        if len(mean) != 3 or len(std) != 3:
            raise VanError(f"mean is {mean} and std {std}, expected one number for each of 3 colours.")
        sizes = {"min_size": options.min_size, "max_size": options.max_size, "image_mean": mean, "image_std": std}
        network = build(backbone, num_classes, options.pyramid_channels, **options.arguments, **sizes)
        network.transform = Transform(**sizes)  # in place of torchvision's own
    if device is not None:
        network = network.to(device)  # transformers makes some parameters on the CPU whatever the context says
    options = replace(options, mean=mean, std=std, backbone_args=dict(backbone.model_args))
    return Detector(network, options, num_classes)


def _check_arguments(
    options: DetectorOptions, build: Callable[..., nn.Module], further: Callable[..., nn.Module] | None
) -> None:
    """Refuse arguments that the architecture does not have."""
    known = [
        name
        for function in (build, further)
        if function is not None
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    ]
    for name in options.arguments:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise VanError(f"{options.architecture} has no argument {name!r}, it has {', '.join(known)}.{hint}")
