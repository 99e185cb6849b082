"""Build networks that label pixels from their options."""

import difflib
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import torch

from van.errors import VanError
from van.heads.pixels.edn import EDN
from van.heads.pixels.options import SaliencyOptions, SegmenterOptions
from van.heads.pixels.parts import IGNORED, PixelModel
from van.models.backbone import Backbone

if TYPE_CHECKING:
    from van.heads.pixels.mask2former import Mask2Former
    from van.heads.pixels.semantic_fpn import SemanticFPN
    from van.heads.pixels.upernet import UPerNet

_CLASSES = {"semantic_fpn": "SemanticFPN", "upernet": "UPerNet", "mask2former": "Mask2Former"}


def segmenter_class(architecture: str) -> type[PixelModel]:
    """Return the class that builds an architecture; transformers is imported only for what needs it.

    Raises:
        VanError: there is no such architecture, or its package is missing.
    """
    if architecture not in _CLASSES:
        raise VanError(f"There is no segmenter {architecture!r}, expected one of {', '.join(_CLASSES)}.")
    return getattr(import_module(f"van.heads.pixels.{architecture}"), _CLASSES[architecture])


def build_segmenter(
    options: SegmenterOptions,
    num_classes: int,
    pretrained: str | Path | None = None,
    device: torch.device | str | None = None,
) -> Union["SemanticFPN", "UPerNet", "Mask2Former"]:
    """Build a segmentation network.

    Args:
        options: What to build.
        num_classes: Classes; for panoptic segmentation things and stuff.
        pretrained: Weights of the backbone: None for random ones, "hub" for the published ones, else a weight file of
            any known layout or a folder with one.
        device: Where the parameters are made; "meta" makes none, for counting.

    Returns:
        A SemanticFPN, UPerNet or Mask2Former in training mode. Its options hold mean, standard deviation and what else
        came with the weights, so that building from them again without pretrained gives the same network.

    Raises:
        VanError: an option is out of range or unknown, a package is missing, or the weights do not fit.
    """
    if num_classes < 1 or (num_classes > IGNORED and options.architecture != "mask2former"):
        raise VanError(f"num_classes is {num_classes}, expected 1 to {IGNORED}: that label is for pixels not to count.")
    return _build(segmenter_class(options.architecture), options, {"num_classes": num_classes}, pretrained, device)


def build_saliency(
    options: SaliencyOptions, pretrained: str | Path | None = None, device: torch.device | str | None = None
) -> EDN:
    """Build a saliency network.

    Args:
        options: What to build.
        pretrained: Weights of the backbone, as in build_segmenter.
        device: Where the parameters are made; "meta" makes none, for counting.

    Returns:
        The network in training mode, its options completed as in build_segmenter.

    Raises:
        VanError: an option is out of range or unknown, or the weights do not fit.
    """
    return _build(EDN, options, {}, pretrained, device)


def _build(
    cls: Callable[..., Any],
    options: Any,
    sizes: dict[str, int],
    pretrained: str | Path | None,
    device: torch.device | str | None,
) -> Any:
    known = [p.name for p in inspect.signature(cls).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in options.arguments:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise VanError(f"{cls.__name__} has no argument {name!r}, it has {', '.join(known)}.{hint}")
    for name in ("mean", "std"):
        values = getattr(options, name)
        if values is not None and len(values) != 3:
            raise VanError(f"{name} is {values}, expected one number for each of 3 colours.")
    with torch.device(device) if device is not None else nullcontext():
        backbone = Backbone(
            options.backbone,
            pretrained,
            frozen_stages=options.frozen_stages,
            freeze_norm=options.freeze_norm,
            device=device,
            **options.backbone_args,
        )
        mean, std = list(options.mean or backbone.mean), list(options.std or backbone.std)
        model = cls(backbone, *sizes.values(), mean, std, **options.arguments)
    if device is not None:
        model = model.to(device)  # transformers makes one parameter with a constructor that knows no device
    model.options = replace(options, mean=mean, std=std, backbone_args=dict(backbone.model_args))
    return model
