"""Build a VAN by name or from a weight file."""

import pickle
from pathlib import Path
from typing import Any, cast

import safetensors
import timm

from van.errors import VanError, WeightsError, nearest
from van.models.lka import LargeKernelAttention
from van.models.van import VAN
from van.models.variants import VARIANTS
from van.models.weights import Checkpoint, _fitting, read_checkpoint


def create_model(
    name: str | None = None, pretrained: bool | str | Path = False, num_classes: int | None = None, **kwargs: Any
) -> VAN:
    """Build a VAN.

    Args:
        name: "van_b0" to "van_b6", optionally with one of timm's tags after a dot; None takes it from the file.
        pretrained: False for random weights, True or "hub" for the published ones, else a weight file of any known
            layout or a folder with one.
        num_classes: Classes of the head, 0 for none; None keeps those of the weights. If the weights have another
            number, the head is new.
        **kwargs: Arguments of van.models.VAN, such as in_chans, drop_path_rate, output_stride or attn_layer.

    Returns:
        The model in training mode, its preprocessing in pretrained_cfg.

    Raises:
        VanError: there is no such model, or the weights do not exist, cannot be read, do not fit or are for another
            task.
    """
    if pretrained not in (True, False, "hub"):
        attn_layer = kwargs.get("attn_layer", LargeKernelAttention)
        layer_names = getattr(getattr(attn_layer, "func", attn_layer), "layer_names", ())  # of a class, or a partial
        ckpt = read_checkpoint(cast(str, pretrained), layer_names)
        return model_from_checkpoint(ckpt, name, num_classes, **kwargs)
    if name is None or name.partition(".")[0] not in VARIANTS or not timm.is_model(name.partition(".")[0]):
        hint = nearest(str(name), VARIANTS)
        raise VanError(f"There is no model {name!r}, expected one of {', '.join(VARIANTS)}.{hint}")
    tagged = timm.list_models(f"{name.partition('.')[0]}*", include_tags=True)
    if "." in name and name not in tagged:
        raise VanError(f"There are no weights {name!r}, expected one of {', '.join(t for t in tagged if '.' in t)}.")
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    if kwargs.get("ls_init_value", ...) is None:
        kwargs["ls_init_value"] = 0.0  # timm drops what is None
    try:
        return cast(VAN, timm.create_model(name, pretrained=bool(pretrained), **kwargs))
    except OSError as error:
        if not pretrained:
            raise
        reason = error.strerror or type(error).__name__
        raise WeightsError(
            f"The weights of {name} could not be downloaded ({reason}). Check the network, or give a weight file "
            "instead."
        ) from error
    except (RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        if not pretrained:
            raise
        raise WeightsError(
            f"The downloaded weights of {name} cannot be read, the file may be truncated or damaged ({error}). Remove "
            "it from the cache and download it again."
        ) from error


def model_from_checkpoint(
    ckpt: Checkpoint, name: str | None = None, num_classes: int | None = None, **kwargs: Any
) -> VAN:
    """Build the VAN that a checkpoint belongs to and load it; arguments as in create_model."""
    name = name or ckpt.variant
    if name is None:
        raise WeightsError(f"{ckpt.source}: its channels and depths fit none of {', '.join(VARIANTS)}. Name the model.")
    cfg = {k: v for k, v in ckpt.preprocessing.items() if v is not None} | {"num_classes": ckpt.num_classes}
    cfg |= kwargs.pop("pretrained_cfg_overlay", None) or {}
    args = {"in_chans": ckpt.in_chans, **ckpt.model_args, **kwargs}
    classes = ckpt.num_classes if num_classes is None else num_classes
    model = create_model(name, num_classes=classes, pretrained_cfg_overlay=cfg, **args)
    state = _fitting(ckpt, model, new_head=classes != ckpt.num_classes)
    model.load_state_dict(state, strict=len(state) == len(model.state_dict()))
    return model
