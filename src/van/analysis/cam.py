"""What a classifier looks at: Grad-CAM of any layer and class (Fig. 6), and attention maps of a VAN (Fig. 9)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import nn

from van.analysis.networks import check_size, default_layer, find_layer, frozen, recorded, taking, to_maps
from van.errors import VanError
from van.models import Attention

# sums of terms that cancel leave about 1e-7 of the terms in float32, and so do gradients
_ROUNDING = 1e-5
_LOGITS = 1e-6


class ClassMaps(NamedTuple):
    """Grad-CAM of a batch.

    Attributes:
        maps: Evidence for the class at each position, at least 0, shape (B, h, w). Zero everywhere if no position is
            evidence for the class.
        classes: The explained class of each image, shape (B,).
        probabilities: Probabilities that the network predicts, shape (B, classes).
        layer: Name of the layer.
    """

    maps: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    layer: str

    @property
    def is_zero(self) -> np.ndarray:
        """Whether the map of each image is zero everywhere, shape (B,)."""
        return self.maps.max(axis=(1, 2)) == 0


def grad_cam(
    model: nn.Module,
    images: torch.Tensor,
    classes: int | Sequence[int] | None = None,
    layer: str | None = None,
    probabilities: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> ClassMaps:
    """Compute Grad-CAM (Selvaraju et al., 2017): a layer's channels weighted by the mean gradient of the class's logit.

    Rounding errors become zero: maps below 1e-5 of the sum of their terms' absolute values, and maps of layers that
    change the logit by less than 1e-6 in total.

    Args:
        model: Any classifier whose output has shape (B, classes); it runs in evaluation mode and is then restored.
        images: Preprocessed images, shape (B, C, H, W).
        classes: Class to explain, one for all images or one for each; None for the predicted class.
        layer: Name of the layer whose output is weighted; None for the last feature map.
        probabilities: Gives the probabilities for logits, (B, classes) both; None is softmax.

    Raises:
        VanError: there is no such layer or class, the layer outputs no feature map, the images are smaller than its
            stride, or the class does not depend on it.
    """
    name = default_layer(model) if layer is None else layer
    module = find_layer(model, name)
    check_size(model, images.shape[-2:], name)
    # gradients of the images give every layer gradients, even if its parameters are frozen
    with (
        frozen(model),
        torch.enable_grad(),
        taking(model, images.shape[-2:]),
        recorded(module, lambda _, output: output) as outputs,
    ):
        logits = model(images.detach().clone().requires_grad_())
    if not outputs:
        raise VanError(f"Layer {name} of {type(model).__name__} is not used in its forward pass. Choose another layer.")
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise VanError(f"{type(model).__name__} outputs {tuple(logits.shape)}, expected (images, classes).")
    chosen = _chosen(classes, logits)
    output = outputs[-1]
    maps = to_maps(output, model, name).detach()
    score = logits.gather(1, chosen[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, output, allow_unused=True)
    if gradient is None:
        raise VanError(f"The classes of {type(model).__name__} do not depend on layer {name}. Choose another layer.")
    weights = to_maps(gradient, model, name).float().mean(dim=(2, 3), keepdim=True)
    parts = weights * maps.float()
    cam = parts.sum(dim=1).relu()
    bound = parts.abs().sum(dim=1).amax(dim=(1, 2), keepdim=True)
    real = (cam.amax(dim=(1, 2), keepdim=True) > _ROUNDING * bound) & (bound * cam[0].numel() > _LOGITS)
    cam = torch.where(real, cam, torch.zeros_like(cam))
    logits = logits.detach().float()
    found = logits.softmax(dim=1) if probabilities is None else probabilities(logits)
    return ClassMaps(cam.cpu().numpy(), chosen.cpu().numpy(), found.cpu().numpy(), name)


def _chosen(classes: int | Sequence[int] | None, logits: torch.Tensor) -> torch.Tensor:
    count = logits.shape[1]
    if classes is None:
        return logits.detach().argmax(dim=1)
    several = [classes] * len(logits) if isinstance(classes, int) else list(classes)
    if len(several) != len(logits):
        raise VanError(f"{len(several)} classes are given for {len(logits)} images. Give one, or one for each.")
    for index in several:
        if not 0 <= index < count:
            raise VanError(f"Class {index} is out of range: there are {count} classes, 0 to {count - 1}.")
    return torch.tensor(several, device=logits.device)


def _keep_input(kept: dict[str, torch.Tensor], name: str, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    kept[name] = inputs[0]


def lka_attention(model: nn.Module, images: torch.Tensor, block: int = -1) -> dict[str, np.ndarray]:
    """Return the attention maps (Eq. 1) of one block per stage: absolute values, mean over channels.

    Args:
        model: A VAN of any variant; it runs in evaluation mode and is restored afterwards.
        images: Preprocessed images, shape (B, C, H, W).
        block: Block of each stage; -1 is the last one.

    Returns:
        Maps by the name of the layer, shape (B, h, w) (Fig. 9).

    Raises:
        VanError: the network has no such attention, a stage has no such block, or the images are smaller than
            the stride.
    """
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            found.setdefault(name.partition(".blocks.")[0], []).append(name)
    if not found:
        raise VanError(f"{type(model).__name__} has no large kernel attention. Use a VAN.")
    check_size(model, images.shape[-2:])
    for stage, names in found.items():
        if not -len(names) <= block < len(names):
            raise VanError(f"Block {block} is out of range: {stage} has {len(names)} blocks, 0 to {len(names) - 1}.")
    layers = {names[block]: cast(Attention, model.get_submodule(names[block])) for names in found.values()}
    inputs: dict[str, torch.Tensor] = {}
    handles = [layer.register_forward_pre_hook(partial(_keep_input, inputs, name)) for name, layer in layers.items()]
    try:
        with frozen(model), torch.no_grad():
            model(images)
            return {
                name: layer.attention(inputs[name]).float().abs().mean(dim=1).cpu().numpy()
                for name, layer in layers.items()
            }
    finally:
        for handle in handles:
            handle.remove()
