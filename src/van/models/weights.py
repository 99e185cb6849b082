"""Checkpoints of VAN in every published layout: recognize, read safely, rename, check, write.

Nothing is loaded into a model before every key and shape is known to fit.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from van.errors import WeightsError
from van.models.attention import Attention
from van.models.layouts import LAYOUTS, LayerNames, WeightsFormat, recognize, rename
from van.models.lka import LargeKernelAttention
from van.models.variants import VARIANTS
from van.models.weight_file import Header, no_van, read_file, tensors_in, write_weights, write_whole

_IMAGENET_1K = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_IMAGENET_USUAL = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass
class Checkpoint:
    """Contents of a weight file in this package's names.

    Attributes:
        state_dict: Tensors by the names of van.models.VAN.
        format: Layout of the file.
        variant: "van_b0" to "van_b6"; None where the numbers fit none.
        num_classes: Rows of the classifier; 0 without classifier.
        in_chans: Input channels of the stem.
        model_args: Arguments of VAN besides those of the variant, such as norm_eps.
        class_names: Names in the order of the logits; None where the file has none.
        preprocessing: input_size, mean, std, interpolation, crop_pct, crop_mode, as timm names them.
        extra: What else the header of the file says.
        original_keys: The name of each tensor in the file.
        left_out: Keys of the file that are not VAN's, such as a segmentation head.
        layer_names: Names of the layers of its attention in each layout.
        source: Where the tensors come from, for messages.
    """

    state_dict: dict[str, torch.Tensor]
    format: WeightsFormat
    variant: str | None
    num_classes: int
    in_chans: int
    model_args: dict[str, Any] = field(default_factory=dict)
    class_names: list[str] | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    original_keys: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    layer_names: tuple[LayerNames, ...] = LargeKernelAttention.layer_names
    source: str = "the weights"

    def describe(self) -> str:
        """Return in a few words what the file holds."""
        classes = f"{self.num_classes} classes" if self.num_classes else "no classifier"
        return f"{self.variant or 'a VAN of unknown size'} with {classes}, {self.format} format"

    def header(self) -> Header:
        """Return what a weight file says besides its tensors."""
        model = {"model": self.variant, "model_args": self.model_args, "in_chans": self.in_chans}
        return Header("classification", self.class_names, model, {"preprocessing": self.preprocessing, **self.extra})


# ------------------------------------------------------------------------------------------------ names


def _rename_for(format: WeightsFormat, key: str, attention: tuple[LayerNames, ...]) -> str | None:
    """Translate one of our keys to a format; None where the format has no name for it."""
    layout = LAYOUTS[format]
    if format == "van":
        return key
    if key.startswith("head.fc."):
        return layout.head and layout.head + key.removeprefix("head.fc")
    name = rename(key, 0, layout.column, attention)
    return name and layout.body + name


def _layer_names(model: nn.Module) -> tuple[LayerNames, ...]:
    """Return the names of the layers of a model's attention in each layout."""
    return next((m.layer_names for m in model.modules() if isinstance(m, Attention)), ())


def _refuse_fused(keys: Iterable[str], what: str) -> None:
    """Refuse the keys of van.fuse's result, which lacks tensors that a checkpoint needs."""
    if any(key.endswith(".shortcut_scale") for key in keys):
        raise WeightsError(
            f"{what} is fused for inference (van.fuse) and has no BatchNorm left, so it is no VAN checkpoint. Load "
            "and save the model that it was made from, and fuse afterwards."
        )


def to_ours(
    tensors: Mapping[str, torch.Tensor],
    source: str,
    layer_names: tuple[LayerNames, ...] = LargeKernelAttention.layer_names,
) -> Checkpoint:
    """Rename the tensors of any layout and infer size, classes and channels from their shapes.

    Args:
        tensors: As the file names them.
        source: What to call the file.
        layer_names: Names of the layers of the attention in each layout; other names are refused.

    Raises:
        WeightsError: they do not belong to a VAN.
    """
    _refuse_fused(tensors, source)
    recognized = recognize(tensors.keys())
    if recognized is None:
        raise no_van(tensors, source)
    name, prefix = recognized
    layout = LAYOUTS[name]
    outer = prefix.removesuffix("backbone.") if layout.body != "van." else prefix.removesuffix("van.")
    head_prefix = f"{outer if name in ('transformers', 'mmpretrain') else prefix}{layout.head}."
    state, original, left_out, unknown = {}, {}, [], []
    for key, tensor in tensors.items():
        if layout.head and key.startswith(head_prefix):
            ours = "head.fc." + key.removeprefix(head_prefix)
        else:
            ours = rename(key.removeprefix(prefix), layout.column, 0, layer_names) if key.startswith(prefix) else None
        if ours is not None:
            state[ours], original[ours] = tensor, key
        elif key.removeprefix(outer).startswith(layout.ignored or ("\0",)):
            left_out.append(key)
        elif name == "van":  # of another attention or an ablation: the model that it is loaded into decides
            state[key.removeprefix(prefix)], original[key.removeprefix(prefix)] = tensor, key
        else:
            unknown.append(key)
    if unknown:
        raise WeightsError(
            f"{source} has {len(unknown)} keys that the {name} layout does not know, first {unknown[0]} "
            f"{tuple(tensors[unknown[0]].shape)}. Remove them, or check that this is a VAN checkpoint."
        )
    stem = state["stages.0.patch_embed.proj.weight"]
    head = state.get("head.fc.weight")
    return Checkpoint(
        state_dict=state,
        format=name,
        variant=_variant_of(state),
        num_classes=0 if head is None else head.shape[0],
        in_chans=stem.shape[1] if stem.ndim == 4 else 0,
        model_args={} if layout.norm_eps is None else {"norm_eps": layout.norm_eps},
        preprocessing=dict(_IMAGENET_USUAL if name == "mmsegmentation" else _IMAGENET_1K),
        original_keys=original,
        left_out=left_out,
        layer_names=layer_names,
        source=source,
    )


def _variant_of(state: Mapping[str, torch.Tensor]) -> str | None:
    """Return the variant whose channels and depths these tensors have."""
    dims, depths = {}, {}
    for key, tensor in state.items():
        if match := re.fullmatch(r"stages\.(\d+)\.patch_embed\.proj\.weight", key):
            dims[int(match[1])] = tensor.shape[0]
        elif match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", key):
            depths[int(match[1])] = max(depths.get(int(match[1]), 0), int(match[2]) + 1)
    found = tuple(dims[i] for i in sorted(dims)), tuple(depths[i] for i in sorted(depths))
    return next((n for n, v in VARIANTS.items() if (v["embed_dims"], v["depths"]) == found), None)


# ------------------------------------------------------------------------------------------------ read


def read_checkpoint(
    path: str | Path, layer_names: tuple[LayerNames, ...] = LargeKernelAttention.layer_names
) -> Checkpoint:
    """Read the weights of a classifier or backbone in any known layout; the layout is recognized from the keys.

    If a training script kept averaged weights beside the last ones, the averaged ones are read, as in timm.

    Args:
        path: File written by torch.save or safetensors, or a folder with weights.safetensors, model.safetensors or
            pytorch_model.bin. A config.json of transformers beside the file gives class names and norm_eps.
        layer_names: Names of the layers of the attention in each layout, for files of another attention.

    Returns:
        The tensors in this package's names and what is known about them.

    Raises:
        WeightsError: the file is missing, damaged, no VAN, for another task, or a pickle that would run code.
    """
    file, content, header = read_file(path)
    if header and header.task != "classification":
        raise WeightsError(
            f"{file} holds a network for the task {header.task}, expected a classifier or backbone. Open it with "
            f"van.load({str(path)!r})."
        )
    result = to_ours(tensors_in(content, str(file)), str(file), layer_names)
    if header:
        result.variant = result.variant or header.model.get("model")
        result.model_args = dict(header.model.get("model_args") or {})
        result.class_names = header.class_names
        result.extra = dict(header.extra)
        preprocessing = result.extra.pop("preprocessing", None) or {}  # JSON has no tuples
        result.preprocessing = {k: tuple(v) if isinstance(v, list) else v for k, v in preprocessing.items()}
    elif result.format == "transformers":
        _read_transformers_config(file.with_name("config.json"), result)
    return result


def _placeholder_names(ckpt: Checkpoint) -> list[str]:
    """Return the names that transformers gives to classes without names."""
    return [f"LABEL_{i}" for i in range(ckpt.num_classes)]


def _read_transformers_config(config: Path, ckpt: Checkpoint) -> None:
    """Take class names and epsilon from the configuration beside the weights, if there is one."""
    if not config.is_file():
        return
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        labels = content.get("id2label") or {}
        if sorted(map(int, labels)) == list(range(ckpt.num_classes)):
            names = [str(labels[str(i)]) for i in range(ckpt.num_classes)]
            ckpt.class_names = None if names == _placeholder_names(ckpt) else names
        ckpt.model_args["norm_eps"] = float(content.get("layer_norm_eps", 1e-6))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise WeightsError(
            f"{config} is not a configuration that transformers writes ({error}). Repair it, or remove it."
        ) from error


# ------------------------------------------------------------------------------------------------ load


def _fitting(
    ckpt: Checkpoint, model: nn.Module, new_head: bool, head_advice: str | None = None
) -> dict[str, torch.Tensor]:
    """Return the tensors to load once every key and shape is known to fit, or raise an error that says what does not.

    With new_head the classifier of the file, if any, is left out. head_advice says what to do where only the
    classifiers differ.
    """
    _refuse_fused(model.state_dict(), "The model")
    trained_as = ckpt.model_args.get("lka_variant", "full")
    for module in model.modules():  # some ablations have the same tensors and compute something else
        if isinstance(module, LargeKernelAttention) and ckpt.format == "van" and module.variant != trained_as:
            raise WeightsError(
                f"{ckpt.source} holds a VAN with lka_variant={trained_as!r}, the model has {module.variant!r}. "
                "Build the model with the variant of the file."
            )
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    state = dict(ckpt.state_dict)
    is_head = re.compile(r"head\.fc\..*").fullmatch
    if new_head or not any(map(is_head, expected)):
        state = {k: v for k, v in state.items() if not is_head(k)}
        expected = {k: v for k, v in expected.items() if not is_head(k)}
    stem = "stages.0.patch_embed.proj.weight"
    if stem in expected and state[stem].ndim == 4 and state[stem].shape[1] == 3 != expected[stem][1]:
        from timm.models import adapt_input_conv  # importing timm registers VAN, which needs this module

        state[stem] = adapt_input_conv(expected[stem][1], state[stem])

    own = _variant_of(model.state_dict())
    advice = "Check that file and model belong together."
    if ckpt.variant and ckpt.variant != own:
        advice = f"The file is a {ckpt.variant}: build van.create_model({ckpt.variant!r}) for it."
    shape = next(
        ((k, tuple(v.shape)) for k, v in state.items() if k in expected and tuple(v.shape) != expected[k]), None
    )
    missing = [k for k in expected if k not in state]
    extra = [k for k in state if k not in expected]
    this = f"this model ({own or type(model).__name__})"

    def named(key: str) -> str:
        """Return the key as the file has or would have it, and ours."""
        theirs = ckpt.original_keys.get(key) or _rename_for(ckpt.format, key, ckpt.layer_names)
        return key if theirs in (None, key) else f"{theirs} (here {key})"

    if shape and not (missing or extra) and is_head(shape[0]):
        raise WeightsError(
            f"{ckpt.source}: {named(shape[0])} has shape {shape[1]}, {this} expects {expected[shape[0]]}: "
            f"the file ({ckpt.describe()}) has another number of classes. "
            + (head_advice or f"Give num_classes={expected[shape[0]][0]} to start with a new classifier.")
        )
    if missing and all(map(is_head, missing)) and not (ckpt.num_classes or shape or extra):
        count = expected["head.fc.weight"]
        raise WeightsError(
            f"{ckpt.source} has no classifier: the model expects head.fc.weight {count}, the file "
            f"({ckpt.describe()}) has none. "
            + (head_advice or f"Give num_classes={count[0]} to start with a new one, or 0 for none.")
        )
    if shape:
        raise WeightsError(
            f"{ckpt.source}: {named(shape[0])} has shape {shape[1]}, {this} expects {expected[shape[0]]}. {advice}"
        )
    if missing:
        raise WeightsError(
            f"{ckpt.source}: {len(missing)} tensors are missing, first {named(missing[0])} of shape "
            f"{expected[missing[0]]} for {this}; the file has none of that name. {advice}"
        )
    if extra:
        raise WeightsError(
            f"{ckpt.source}: {len(extra)} tensors have no place in {this}, first {named(extra[0])} of "
            f"shape {tuple(state[extra[0]].shape)}; the model has none of that name. {advice}"
        )
    return state


def _set_norm_eps(model: nn.Module, ckpt: Checkpoint) -> None:
    """Give the LayerNorms the epsilon that the weights were trained with, if that is known."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = ckpt.model_args.get("norm_eps", module.eps)


def load_weights(model: nn.Module, path: str | Path, num_classes: int | None = None) -> Checkpoint:
    """Load a weight file of any known layout into a model, all of it or nothing.

    A stem trained on three channels is adapted to another number of channels as in timm. The epsilon of the LayerNorms
    becomes that of the weights.

    Args:
        model: A VAN as van.create_model or timm.create_model builds it.
        path: The file, or a folder with one.
        num_classes: The number of classes of the model. If the file has another number or no classifier, the model
            keeps the classifier it has; without this argument that is an error.

    Returns:
        The tensors, and what else the file holds: class names, preprocessing, format.

    Raises:
        WeightsError: the file cannot be read or does not fit; the model is left as it was.
    """
    ckpt = read_checkpoint(path, _layer_names(model))
    own = getattr(model, "num_classes", 0)
    if num_classes not in (None, own):
        raise WeightsError(
            f"num_classes is {num_classes}, but the model has {own} classes. Build the model with num_classes first."
        )
    state = _fitting(ckpt, model, new_head=num_classes is not None and num_classes != ckpt.num_classes)
    model.load_state_dict(state, strict=len(state) == len(model.state_dict()))
    _set_norm_eps(model, ckpt)
    return ckpt


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, torch.Tensor]:
    """Turn a state dict of any known layout into that of this model; timm calls it for every pretrained file.

    Raises:
        WeightsError: a key or shape does not fit; nothing has been loaded then.
    """
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    origins = (cfg.get("file"), cfg.get("hf_hub_filename"), cfg.get("hf_hub_id"), cfg.get("url"))
    source = next((str(o) for o in origins if o), "the state dict")
    ckpt = to_ours(tensors_in(state_dict, source), source, _layer_names(model))
    if cfg.get("file") and not cfg.get("state_dict") and Path(cfg["file"]).is_file():
        ckpt.model_args = read_checkpoint(cfg["file"], ckpt.layer_names).model_args  # timm hands over the tensors alone
    # timm leaves out the classifier exactly if the number of classes is not the configured one
    new_head = getattr(model, "num_classes", 0) != cfg.get("num_classes", 1000)
    advice = f"Add num_classes={ckpt.num_classes} to pretrained_cfg_overlay: timm takes the file's number from there."
    state = _fitting(ckpt, model, new_head, advice)
    stem = "stages.0.patch_embed.proj.weight"
    state[stem] = ckpt.state_dict[stem]  # timm adapts the stem after this
    _set_norm_eps(model, ckpt)
    return state


# ------------------------------------------------------------------------------------------------ write


def to_format(ckpt: Checkpoint, format: WeightsFormat) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint in the names of a format.

    Raises:
        WeightsError: the format has no name for a tensor, or there is no such format.
    """
    if format not in get_args(WeightsFormat):
        raise WeightsError(f"format is {format!r}, expected one of {', '.join(get_args(WeightsFormat))}.")
    _refuse_fused(ckpt.state_dict, ckpt.source)
    if format != "van" and (lka_variant := ckpt.model_args.get("lka_variant", "full")) != "full":
        raise WeightsError(
            f"{ckpt.source}: the {format} format cannot hold lka_variant={lka_variant!r}. Use the van format."
        )
    renamed = {}
    for key, tensor in ckpt.state_dict.items():
        name = _rename_for(format, key, ckpt.layer_names)
        if name is None and key.startswith("head.fc."):
            continue  # a backbone format
        if name is None:
            raise WeightsError(
                f"{ckpt.source}: the {format} format has no name for {key}; only plain VANs can be written in it. "
                "Use the van format."
            )
        renamed[name] = tensor
    if format == "transformers":  # the class of transformers has one more norm, which it never calls
        last = renamed["van.encoder.stages.3.normalization.weight"]
        renamed["van.layernorm.weight"] = torch.ones_like(last)
        renamed["van.layernorm.bias"] = torch.zeros_like(last)
    return {k: v.contiguous() for k, v in renamed.items()}


def _transformers_config(ckpt: Checkpoint) -> dict[str, Any]:
    """Return the config.json that transformers 4.x needs beside the tensors."""
    if ckpt.variant is None:
        raise WeightsError(
            f"{ckpt.source}: its channels and depths fit no variant, so there is no transformers configuration."
        )
    numbers = VARIANTS[ckpt.variant]
    names = ckpt.class_names or _placeholder_names(ckpt)
    return {
        "architectures": ["VanForImageClassification"],
        "model_type": "van",
        "num_channels": ckpt.in_chans,
        "hidden_sizes": list(numbers["embed_dims"]),
        "depths": list(numbers["depths"]),
        "mlp_ratios": list(numbers["mlp_ratios"]),
        "hidden_act": "gelu",
        "layer_norm_eps": ckpt.model_args.get("norm_eps", 1e-6),
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def write_checkpoint(ckpt: Checkpoint, path: str | Path, format: WeightsFormat = "van") -> Path:
    """Write a checkpoint in a format; an existing file is replaced only when the new one is complete.

    Args:
        ckpt: What to write.
        path: A .safetensors file, or another suffix for torch.save; the van format is always safetensors. For
            transformers, a folder (no suffix) that gets model.safetensors and config.json.
        format: "van", "official", "transformers", "mmpretrain" or "mmsegmentation" (a backbone, without classifier).

    Returns:
        The file that was written.

    Raises:
        WeightsError: the format cannot hold the checkpoint, or the file cannot be written.
    """
    path = Path(path)
    tensors = to_format(ckpt, format)
    as_folder = format == "transformers" and (path.is_dir() or not path.suffix)
    if format == "van" and path.suffix != ".safetensors":
        raise WeightsError(f"{path} should end in .safetensors: that is the van format.")
    if as_folder:
        config = json.dumps(_transformers_config(ckpt), indent=2) + "\n"
        write_whole(path / "config.json", lambda file: file.write_text(config))
        path = path / "model.safetensors"
    if path.suffix == ".safetensors":
        return write_weights(ckpt.header(), tensors, path)
    # transformers expects the bare tensors; the others keep them under state_dict
    bare = format == "transformers"
    content = tensors if bare else {"state_dict": tensors, "van": ckpt.header().to_dict()}
    return write_whole(path, lambda file: torch.save(content, file))
