"""Networks to look into: any classifier of timm or VAN weights, its preprocessing, its layers and their maps."""

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import timm.data
import torch
from torch import nn

from van.data.images import ImageLike, mode_for, read_image
from van.errors import VanError, WeightsError
from van.inference.predictor import class_names_of, imagenet_class_names
from van.models import create_model, read_checkpoint
from van.models.factory import model_from_checkpoint
from van.models.variants import VARIANTS

_LISTED = 60  # names of layers in an error


@dataclass
class Network:
    """A classifier with what is needed to show it images.

    Attributes:
        model: In evaluation mode.
        name: What to call it in a picture.
        class_names: Name of each class.
        preprocessing: timm's data configuration.
        trained: Whether it has weights that were trained.
    """

    model: nn.Module
    name: str
    class_names: list[str] = field(default_factory=list)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    trained: bool = True

    def tensors(self, images: Sequence[ImageLike]) -> torch.Tensor:
        """Preprocess images as the network wants them.

        Args:
            images: Of any form that the predictor takes.

        Returns:
            Shape (B, C, H, W).
        """
        mode = mode_for(self.preprocessing["input_size"][0])
        transform: Any = timm.data.create_transform(**self.preprocessing)
        batch = torch.stack([transform(read_image(image, mode)) for image in images])
        return batch.to(next(self.model.parameters()).device)

    def pictures(self, batch: torch.Tensor) -> np.ndarray:
        """Undo the normalisation of preprocessed images.

        Args:
            batch: Shape (B, C, H, W).

        Returns:
            RGB from 0 to 1, shape (B, H, W, 3).
        """
        mean, std = (batch.new_tensor(self.preprocessing[key]).view(-1, 1, 1) for key in ("mean", "std"))
        pictures = (batch * std + mean).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        return np.repeat(pictures, 3, axis=3) if pictures.shape[3] == 1 else pictures

    def class_index(self, name: str | int) -> int:
        """Return the number of a class.

        Args:
            name: Its name, one of the synonyms that ImageNet's names list, or its number.

        Raises:
            VanError: there is no such class, or more than one.
        """
        count = len(self.class_names)
        synonyms = [(part, i) for i, full in enumerate(self.class_names) for part in full.split(", ")]
        found = [i for i, full in enumerate(self.class_names) if full == name]
        found = found or [i for part, i in synonyms if part == name]
        if len(found) > 1:
            raise VanError(f"{self.name} has several classes {name!r}. Give a number: {', '.join(map(str, found))}.")
        if found:
            return found[0]
        if not str(name).lstrip("-").isdecimal():
            close = difflib.get_close_matches(str(name), dict(synonyms), n=3, cutoff=0.5)
            first = [full.split(", ")[0] for full in self.class_names[:5]]
            hint = f" Did you mean {', '.join(close)}?" if close else f" The first are {', '.join(first)}."
            raise VanError(f"{self.name} has no class {str(name)!r}.{hint}")
        if not 0 <= int(name) < count:
            raise VanError(f"Class {name} is out of range: {self.name} has {count} classes, 0 to {count - 1}.")
        return int(name)


def open_network(
    source: str | Path,
    *,
    pretrained: bool = True,
    image_size: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    **model_args: Any,
) -> Network:
    """Build a network from weights or by name.

    Args:
        source: VAN weights of any known layout, a run folder, or any name that timm knows (van_b0, convnext_tiny, ...).
        pretrained: Whether a name stands for published weights (downloaded where needed) or random ones.
        image_size: Height and width of the images it will see; its own by default.
        device: Where to compute; None takes a GPU if there is one.
        seed: Of random weights.
        **model_args: More arguments of a network that is named.

    Raises:
        VanError: there is no such network, its weights cannot be had, or it cannot take images of this size.
    """
    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        raise VanError(f"image_size is {image_size}, expected a height and a width of at least 1.")
    name, trained = str(source), True
    if Path(source).exists():
        ckpt = read_checkpoint(source)
        model, class_names = model_from_checkpoint(ckpt), class_names_of(ckpt)
        if model.num_classes == 0:
            raise WeightsError(f"{source} has no classifier. Give weights that were trained to classify.")
        path = Path(source)
        name = path.parent.name if path.name == "weights.safetensors" else path.name
    else:
        trained = pretrained
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = named_network(name, pretrained, image_size, **model_args)
        count = getattr(model, "num_classes", 0)
        class_names = imagenet_class_names() if count == 1000 else [str(i) for i in range(count)]
    preprocessing = timm.data.resolve_model_data_config(model)
    if image_size is not None:
        preprocessing["input_size"] = (preprocessing["input_size"][0], *image_size)
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model = model.to(device, memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise VanError(f"The device {str(device)!r} cannot be used here ({reason}). Try cpu.") from error
    return Network(model, name, class_names, preprocessing, trained)


def named_network(
    name: str, pretrained: bool = False, image_size: Sequence[int] | None = None, **model_args: Any
) -> nn.Module:
    """Build a network by its name in timm.

    Args:
        name: Such as van_b0 or convnext_tiny.
        pretrained: Whether with published weights.
        image_size: Height and width of the images, for networks that are built for one size.
        **model_args: More arguments of the network.

    Raises:
        VanError: there is no such network, or its weights cannot be had.
    """
    if name.partition(".")[0] in VARIANTS:
        return create_model(name, pretrained=pretrained, **model_args)
    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    if cfg is None:
        close = difflib.get_close_matches(name, [*VARIANTS, *timm.list_models()], n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise VanError(f"There is no model {name!r}, nor a file or run folder of this name.{hint}")
    if image_size is not None and cfg.fixed_input_size and tuple(cfg.input_size[1:]) != tuple(image_size):
        model_args = {"img_size": tuple(image_size), **model_args}
    try:
        return timm.create_model(name, pretrained=pretrained, **model_args)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        # what the hub says to an OSError is long; a RuntimeError is timm's word that there are none
        reason = type(error).__name__ if isinstance(error, OSError) else str(error).strip().split("\n")[0].rstrip(".")
        raise WeightsError(
            f"The weights of {name} could not be had ({reason}). Check the network, or take random ones "
            "(--no-pretrained; from Python pretrained=False)."
        ) from error


# ------------------------------------------------------------------------------------------------ layers and their maps


def _feature_info(model: nn.Module) -> list[dict[str, Any]]:
    info: Any = getattr(model, "feature_info", None)
    info = getattr(info, "info", info)
    return info if isinstance(info, list) else []


def layer_names(model: nn.Module, depth: int = 4) -> list[str]:
    """Return the names of the layers of a network, those whose names have up to `depth` parts."""
    return [name for name, _ in model.named_modules() if name and name.count(".") < depth]


def default_layer(model: nn.Module) -> str:
    """Return the name of the last layer that puts out a map, which is what Grad-CAM usually looks at.

    For networks of tokens that read a class token, that is the norm before the last attention: behind it the other
    tokens have no influence.

    Raises:
        VanError: the network does not tell.
    """
    info = _feature_info(model)
    if not info:
        raise VanError(f"{type(model).__name__} does not tell which layer is the last with a map. Name a layer.")
    name = info[-1]["module"]
    if getattr(model, "global_pool", None) == "token" and hasattr(model.get_submodule(name), "norm1"):
        return f"{name}.norm1"
    return name


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Return a layer by name.

    Raises:
        VanError: there is none of this name; the message lists those that there are.
    """
    modules = dict(model.named_modules())
    if name and name in modules:
        return modules[name]
    close = difflib.get_close_matches(name, modules, n=3)
    hint = f" Did you mean {', '.join(close)}?" if close else ""
    names, depth = list(modules)[1:], 4
    while len(names) > _LISTED and depth > 1:
        names, depth = layer_names(model, depth), depth - 1
    more = f"; and what is inside them, {len(modules) - 1} in all" if len(names) < len(modules) - 1 else ""
    raise VanError(f"{type(model).__name__} has no layer {name!r}.{hint} It has {', '.join(names)}{more}.")


def check_size(model: nn.Module, size: Sequence[int], layer: str | None = None) -> None:
    """Refuse images that are smaller than the stride of a layer: their map would be one padded position.

    Args:
        model: The network.
        size: Height and width of the images.
        layer: Name of the layer; None for the last one.

    Raises:
        VanError: they are smaller.
    """
    inside = [
        e["reduction"] for e in _feature_info(model) if layer is None or f"{layer}.".startswith(f"{e['module']}.")
    ]
    stride = max(inside, default=1)
    if min(size) < stride:
        raise VanError(
            f"Images of {size[0]} x {size[1]} pixels are smaller than the stride {stride} of "
            f"{layer or 'the last map'}. Give at least {stride} x {stride}, or an earlier layer."
        )


def to_maps(output: Any, model: nn.Module, name: str) -> torch.Tensor:
    """Return the output of a layer as maps (B, C, h, w), whatever the network's own order is.

    Args:
        output: Maps (B, C, h, w), maps (B, h, w, C) of networks that say so, or tokens (B, n, C) on a known grid.
        model: The network that the layer is in.
        name: Name of the layer.

    Raises:
        VanError: the output has no positions.
    """
    if isinstance(output, torch.Tensor) and output.ndim == 4:
        return output.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "NCHW") == "NHWC" else output
    if isinstance(output, torch.Tensor) and output.ndim == 3:
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        tokens = output[:, getattr(model, "num_prefix_tokens", 0) :]
        if grid is not None and math.prod(grid) == tokens.shape[1]:
            return tokens.transpose(1, 2).unflatten(2, tuple(grid))
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    raise VanError(
        f"Layer {name} of {type(model).__name__} puts out {shape}, no map with height and width. Name a layer that has "
        "positions, or take another network."
    )


@contextmanager
def taking(model: nn.Module, size: Sequence[int]) -> Iterator[None]:
    """Say in a sentence that a network cannot take images of a size, whatever it raises then.

    Args:
        model: The network that is called inside.
        size: Height and width of the images.

    Raises:
        VanError: it cannot.
    """
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise VanError(
            f"{type(model).__name__} cannot take images of {size[0]} x {size[1]} pixels ({reason}). Give another size."
        ) from error


@contextmanager
def recorded(layer: nn.Module, keep: Callable[[Any, Any], Any]) -> Iterator[list[Any]]:
    """Collect what keep(inputs, output) returns at each call of a layer."""
    found: list[Any] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: found.append(keep(inputs, output)))
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients of the parameters; as it was afterwards."""
    modes = {module: module.training for module in model.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, grad in wanted.items():
            parameter.requires_grad_(grad)
