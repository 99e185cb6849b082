"""Networks to look into: classifiers from weights or by name, their preprocessing, their layers and feature maps."""

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
from van.engine.api import header_of, load
from van.engine.device import pick_device, to_device
from van.errors import VanError, WeightsError
from van.models import VAN, create_model
from van.models.variants import VARIANTS
from van.tasks.classification.targets import Target
from van.tasks.classification.task import TASK as CLASSIFICATION
from van.tasks.classification.task import class_names_of

_LISTED = 60  # names of layers in an error


@dataclass
class Network:
    """A classifier, and what it takes to show it images.

    Attributes:
        model: The network, in evaluation mode.
        name: Its name in figures.
        class_names: Names in the order of the labels.
        preprocessing: timm's data configuration.
        trained: Whether its weights are trained, not random.
        target: What its outputs mean; None stands for one class for each image.
    """

    model: nn.Module
    name: str
    class_names: list[str] = field(default_factory=list)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    trained: bool = True
    target: Target | None = None

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of the classes, (B, classes) both."""
        return logits.softmax(dim=1) if self.target is None else self.target.answers(logits)

    @property
    def is_van(self) -> bool:
        """Whether the network is a VAN."""
        return isinstance(self.model, VAN)

    def short_name(self, index: int) -> str:
        """Return the name of a class; ImageNet's names list synonyms, of which this is the first."""
        return self.class_names[index].split(",")[0]

    def tensors(self, images: Sequence[ImageLike]) -> torch.Tensor:
        """Preprocess images for the network.

        Args:
            images: Images in any form that a predictor takes.

        Returns:
            Shape (B, C, H, W).
        """
        mode = mode_for(self.preprocessing["input_size"][0])
        transform: Any = timm.data.create_transform(**self.preprocessing)
        batch = torch.stack([transform(read_image(image, mode)) for image in images])
        return batch.to(next(self.model.parameters()).device)

    def pictures(self, batch: torch.Tensor) -> np.ndarray:
        """Undo the normalization of preprocessed images.

        Args:
            batch: Preprocessed images, shape (B, C, H, W).

        Returns:
            RGB from 0 to 1, shape (B, H, W, 3).
        """
        mean, std = (batch.new_tensor(self.preprocessing[key]).view(-1, 1, 1) for key in ("mean", "std"))
        pictures = (batch * std + mean).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        return np.repeat(pictures, 3, axis=3) if pictures.shape[3] == 1 else pictures

    def class_index(self, name: str | int) -> int:
        """Return the label of a class.

        Args:
            name: Its name, one of the synonyms in ImageNet's names, or its label.

        Raises:
            VanError: there is no such class, or more than one.
        """
        count = len(self.class_names)
        synonyms = [(part, i) for i, full in enumerate(self.class_names) for part in full.split(", ")]
        found = [i for i, full in enumerate(self.class_names) if full == name]
        found = found or [i for part, i in synonyms if part == name]
        if len(found) > 1:
            raise VanError(
                f"{self.name} has several classes {name!r}. Give one of the numbers {', '.join(map(str, found))}."
            )
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
    """Open a classifier.

    Args:
        source: Weight file in any known layout, run folder, or name of a timm model (van_b0, convnext_tiny, ...).
        pretrained: Whether a name stands for published weights, downloaded where needed, or for random ones.
        image_size: Height and width of the images it will see; by default its own.
        device: Where to compute; None takes a GPU if there is one.
        seed: Seed of random weights.
        **model_args: Further arguments of a network that is given by name.

    Raises:
        VanError: there is no such network, its weights are not available or those of another task, or the device is not
            available.
    """
    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        raise VanError(f"image_size is {image_size}, expected a height and a width of at least 1.")
    name, path = str(source), Path(source)
    if path.exists():
        if (task := header_of(source).task) != CLASSIFICATION.name:
            raise WeightsError(f"{source} was trained for {task}. Give weights of the task {CLASSIFICATION}.")
        predictor = load(source, None if device is None else str(device))
        network = Network(predictor.model, path.parent.name if path.name == "weights.safetensors" else path.name)
        network.class_names, network.preprocessing = predictor.class_names, dict(predictor.extra["preprocessing"])
        network.target = predictor.state["target"]
    else:
        chosen = pick_device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = named_network(name, pretrained, image_size, **model_args)
        network = Network(to_device(model, chosen), name, trained=pretrained)
        network.class_names = class_names_of(None, getattr(model, "num_classes", 0))
        network.preprocessing = timm.data.resolve_model_data_config(model)
    if image_size is not None:
        network.preprocessing["input_size"] = (network.preprocessing["input_size"][0], *image_size)
    return network


def is_variant(name: str) -> bool:
    """Return whether a name is that of a VAN variant, with or without the tag of its weights."""
    return name.partition(".")[0] in VARIANTS


def named_network(
    name: str, pretrained: bool = False, image_size: Sequence[int] | None = None, **model_args: Any
) -> nn.Module:
    """Build a timm model.

    Args:
        name: Name of the model, such as van_b0 or convnext_tiny.
        pretrained: Whether to load its published weights.
        image_size: Height and width of the images, for models that are built for one size.
        **model_args: Further arguments of the model.

    Raises:
        VanError: there is no such model, or its weights are not available.
    """
    if is_variant(name):
        return create_model(name, pretrained=pretrained, **model_args)
    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    if cfg is None:
        close = difflib.get_close_matches(name, [*VARIANTS, *timm.list_models()], n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise VanError(f"There is no model {name!r}, and no file or run folder of this name.{hint}")
    if image_size is not None and cfg.fixed_input_size and tuple(cfg.input_size[1:]) != tuple(image_size):
        model_args = {"img_size": tuple(image_size), **model_args}
    try:
        return timm.create_model(name, pretrained=pretrained, **model_args)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        # the hub's OSError is long; timm raises RuntimeError where there are no weights
        reason = type(error).__name__ if isinstance(error, OSError) else str(error).strip().split("\n")[0].rstrip(".")
        raise WeightsError(
            f"The published weights of {name} are not available ({reason}). Check the network connection, or use "
            "random weights (--no-pretrained; pretrained=False in Python)."
        ) from error


# ------------------------------------------------------------------------------------------------ layers and their maps


def _feature_info(model: nn.Module) -> list[dict[str, Any]]:
    info: Any = getattr(model, "feature_info", None)
    info = getattr(info, "info", info)
    return info if isinstance(info, list) else []


def layer_names(model: nn.Module, depth: int = 4) -> list[str]:
    """Return the names of a network's layers down to a depth of nesting."""
    return [name for name, _ in model.named_modules() if name and name.count(".") < depth]


def default_layer(model: nn.Module) -> str:
    """Return the name of the last layer that outputs a feature map, the usual choice for Grad-CAM.

    For transformers that classify by a class token, that is the norm before the last attention: after it the other
    tokens have no influence.

    Raises:
        VanError: the network does not list its feature maps.
    """
    info = _feature_info(model)
    if not info:
        raise VanError(f"{type(model).__name__} does not list its feature maps. Give the name of a layer.")
    name = info[-1]["module"]
    if getattr(model, "global_pool", None) == "token" and hasattr(model.get_submodule(name), "norm1"):
        return f"{name}.norm1"
    return name


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Return a layer by name.

    Raises:
        VanError: there is no such layer; the message lists the layers that exist.
    """
    modules = dict(model.named_modules())
    if name and name in modules:
        return modules[name]
    close = difflib.get_close_matches(name, modules, n=3)
    hint = f" Did you mean {', '.join(close)}?" if close else ""
    names, depth = list(modules)[1:], 4
    while len(names) > _LISTED and depth > 1:
        names, depth = layer_names(model, depth), depth - 1
    more = f", and layers inside these, {len(modules) - 1} in all" if len(names) < len(modules) - 1 else ""
    raise VanError(f"{type(model).__name__} has no layer {name!r}.{hint} It has {', '.join(names)}{more}.")


def check_size(model: nn.Module, size: Sequence[int], layer: str | None = None) -> None:
    """Refuse images smaller than the stride of a layer: their feature map would be a single padded position.

    Args:
        model: The network.
        size: Height and width of the images.
        layer: Name of the layer; None for the last one.

    Raises:
        VanError: the images are smaller.
    """
    inside = [
        e["reduction"] for e in _feature_info(model) if layer is None or f"{layer}.".startswith(f"{e['module']}.")
    ]
    stride = max(inside, default=1)
    if min(size) < stride:
        raise VanError(
            f"Images of {size[0]} x {size[1]} pixels are smaller than the stride {stride} of "
            f"{layer or 'the last feature map'}. Give at least {stride} x {stride}, or an earlier layer."
        )


def to_maps(output: Any, model: nn.Module, name: str) -> torch.Tensor:
    """Return the output of a layer as feature maps (B, C, h, w), whatever the network's own layout is.

    Args:
        output: Maps (B, C, h, w), maps (B, h, w, C) of networks that declare it, or tokens (B, n, C) on a known grid.
        model: The network that contains the layer.
        name: Name of the layer.

    Raises:
        VanError: the output has no spatial positions.
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
        f"Layer {name} of {type(model).__name__} outputs {shape}, no map with height and width. Choose a layer with "
        "spatial positions, or another network."
    )


@contextmanager
def taking(model: nn.Module, size: Sequence[int]) -> Iterator[None]:
    """Turn what a network raises for an image size into one sentence.

    Args:
        model: The network that is called inside.
        size: Height and width of the images.

    Raises:
        VanError: the network cannot take images of this size.
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
    """Collect what keep(inputs, output) returns for each call of a layer."""
    found: list[Any] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: found.append(keep(inputs, output)))
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode without gradients of the parameters, and restore everything afterwards."""
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
