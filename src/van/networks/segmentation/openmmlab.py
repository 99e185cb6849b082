"""Segmentation checkpoints of OpenMMLab: the published VAN models with Semantic FPN and UPerNet."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union, cast

import torch
from torch import nn

from van.errors import WeightsError
from van.models.weights import Checkpoint, read_file, tensors_in, to_ours
from van.networks.options import NetworkOptions
from van.networks.registry import options_class
from van.networks.segmentation.options import SemanticFPNOptions, UPerNetOptions

if TYPE_CHECKING:
    from van.networks.segmentation.semantic_fpn import SemanticFPN
    from van.networks.segmentation.upernet import UPerNet

Segmenter: TypeAlias = Union["SemanticFPN", "UPerNet"]
_HEADS = ("neck.", "decode_head.", "auxiliary_head.")
_CLASSIFIER = "decode_head.conv_seg.weight"
# OpenMMLab's names and ours, for everything but the backbone; both count upsampling as a layer of a scale head
_RULES = {
    "semantic_fpn": (
        (r"neck\.lateral_convs\.(\d+)\.conv\.", r"neck.inner_blocks.\1.0."),
        (r"neck\.fpn_convs\.(\d+)\.conv\.", r"neck.layer_blocks.\1.0."),
        (r"decode_head\.scale_heads\.(\d+)\.(\d+)\.conv\.", r"head.levels.\1.\2.0."),
        (r"decode_head\.scale_heads\.(\d+)\.(\d+)\.bn\.", r"head.levels.\1.\2.1."),
        (r"decode_head\.conv_seg\.", r"head.classifier."),
    ),
    "upernet": (
        (r"(decode_head|auxiliary_head)\.conv_seg\.", r"\1.classifier.1."),
        (r"((?:decode_head|auxiliary_head)\..+)\.bn\.", r"\1.batch_norm."),
        (r"((?:decode_head|auxiliary_head)\..+)\.conv\.", r"\1.conv."),
    ),
}


def _read(path: str | Path) -> tuple[dict[str, torch.Tensor], Checkpoint, list[str] | None]:
    """Return the tensors of the heads, the backbone under our names, and the class names if the file has them."""
    file, content, _ = read_file(path)
    tensors = tensors_in(content, str(file))
    backbone = to_ours(tensors, str(file))
    heads = {key: value for key, value in tensors.items() if key.startswith(_HEADS)}
    if backbone.format != "mmsegmentation" or _CLASSIFIER not in heads:
        raise WeightsError(
            f"{path} holds {backbone.describe()}, expected a segmentation model of OpenMMLab, with keys that start "
            "with backbone. and decode_head. A backbone alone goes into pretrained."
        )
    meta = content.get("meta") or {}
    names = meta.get("CLASSES") or (meta.get("dataset_meta") or {}).get("classes")  # before and since version 1
    return heads, backbone, [name.strip() for name in names] if names else None  # theirs has a class "bed "


def _rename_head(key: str, architecture: str) -> str:
    """Translate a key of a head; one that no rule matches is returned as it is, and reported later."""
    for pattern, ours in _RULES[architecture]:
        if re.match(pattern, key):
            return re.sub("^" + pattern, ours, key)
    return key


def _architecture(heads: Mapping[str, torch.Tensor]) -> str:
    return "semantic_fpn" if any(key.startswith("neck.") for key in heads) else "upernet"


def load_openmmlab(model: Segmenter, path: str | Path) -> list[str] | None:
    """Load a segmentation checkpoint of OpenMMLab into a network, all of it or nothing.

    The LayerNorms of the backbone get the epsilon of those models, 1e-5.

    Args:
        model: A SemanticFPN or UPerNet on a VAN.
        path: The file, with keys that start with backbone., neck., decode_head. and auxiliary_head.

    Returns:
        Names of the classes, if the file has them.

    Raises:
        WeightsError: The file cannot be read, holds another network, or a key or shape does not fit; the model is left
            unchanged.
    """
    heads, backbone, names = _read(path)
    _load(model, heads, backbone, str(path))
    return names


def _load(model: Segmenter, heads: Mapping[str, torch.Tensor], backbone: Checkpoint, source: str) -> None:
    architecture = _architecture(heads)
    if model.options.architecture != architecture:
        raise WeightsError(f"{source} holds a {architecture}, the model is a {model.options.architecture}.")
    theirs = {f"backbone.body.{re.sub(r'^stages.', 'stages_', k)}": k for k in backbone.state_dict}
    state = {ours: backbone.state_dict[key] for ours, key in theirs.items()}
    names = {ours: backbone.original_keys[key] for ours, key in theirs.items()}
    for key, tensor in heads.items():
        ours = _rename_head(key, architecture)
        state[ours], names[ours] = tensor, key
    expected = model.state_dict()
    problems = [f"{names[key]} ({key} here) has no place in the model" for key in state if key not in expected]
    problems += [f"{key} is missing" for key in expected if key not in state]
    problems += [
        f"{names[key]} has shape {tuple(tensor.shape)}, {key} of the model {tuple(expected[key].shape)}"
        for key, tensor in state.items()
        if key in expected and tensor.shape != expected[key].shape
    ]
    if problems:
        raise WeightsError(
            f"{source} does not fit ({len(problems)} of {len(state)} keys): {'; '.join(problems[:3])}. It is "
            f"{backbone.variant or 'a VAN of unknown size'} with {len(heads[_CLASSIFIER])} classes: "
            "build the model with these."
        )
    model.load_state_dict(state)
    for module in model.backbone.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = backbone.model_args["norm_eps"]
    model.backbone.model_args |= backbone.model_args
    model.options.backbone_args |= backbone.model_args


def segmenter_from_openmmlab(
    path: str | Path, options: SemanticFPNOptions | UPerNetOptions | None = None
) -> tuple[Segmenter, list[str] | None]:
    """Build the network that a segmentation checkpoint of OpenMMLab holds, and load it.

    Args:
        path: The file.
        options: What to build, needed where the backbone has none of the published sizes.

    Returns:
        The network in evaluation mode, and the names of the classes if the file has them.

    Raises:
        WeightsError: The file cannot be read, its backbone has none of the published sizes, or something does not fit.
    """
    heads, backbone, names = _read(path)
    if options is None:
        if backbone.variant is None:
            raise WeightsError(f"{path}: its backbone is none of van_b0 to van_b6. Pass options that describe it.")
        cls: Any = options_class("semantic", _architecture(heads))
        mean, std = (list(backbone.preprocessing[name]) for name in ("mean", "std"))
        options = cls(backbone=backbone.variant, mean=mean, std=std)
    model = cast(Segmenter, cast(NetworkOptions, options).build(len(heads[_CLASSIFIER])))
    _load(model, heads, backbone, str(path))
    return model.eval(), names
