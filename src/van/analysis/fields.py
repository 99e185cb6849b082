"""Effective receptive fields: the pixels that the central position of a feature map depends on (Fig. 8)."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from van.analysis.networks import check_size, default_layer, find_layer, frozen, recorded, taking, to_maps
from van.errors import VanError
from van.models import VAN, VANStage

SHARES = (0.2, 0.3, 0.5, 0.99)


@dataclass
class ReceptiveField:
    """How much each pixel of the image influences the central position of a feature map.

    Attributes:
        energy: Absolute gradient summed over the channels, averaged over the images, shape (H, W); its sum is 1.
        images: Number of images.
        layer: Name of the layer.
    """

    energy: np.ndarray
    images: int
    layer: str

    def area_ratios(self, shares: Sequence[float] = SHARES) -> dict[float, float]:
        """Return the area of the smallest central squares that hold each share of the energy.

        Args:
            shares: Shares of the energy, above 0 and at most 1.

        Returns:
            Area by share, relative to the area of the image, without what lies outside the image.
        """
        ratios = {}
        for share in shares:
            half = square_side(self.energy, share) // 2
            sides = [min(n // 2 + half + 1, n) - max(n // 2 - half, 0) for n in self.energy.shape]
            ratios[share] = sides[0] * sides[1] / self.energy.size
        return ratios


def square_side(energy: np.ndarray, share: float) -> int:
    """Return the side of the smallest square around the image's center that holds a share of a map.

    The center is the pixel (H // 2, W // 2), the one after the middle where a size is even. Center and shares are
    those of RepLKNet's script (Ding et al., 2022, erf/analyze_erf.py). That script takes only positive gradients and
    sums the logarithm of 1 + energy, so its numbers differ from these.

    Args:
        energy: Values of at least 0, shape (H, W).
        share: Share of the sum, above 0 and at most 1.

    Returns:
        An odd number of pixels; the square may extend beyond the image.

    Raises:
        VanError: the share is out of range, or the energy is zero everywhere.
    """
    if not 0 < share <= 1:
        raise VanError(f"share is {share}, expected a number above 0 and at most 1.")
    if not energy.sum() > 0:
        raise VanError("The energy is zero everywhere, so no square holds a share of it.")
    rows, columns = (np.abs(np.arange(n) - n // 2) for n in energy.shape)
    rings = np.maximum(rows[:, None], columns[None, :])
    inside = np.cumsum(np.bincount(rings.ravel(), weights=energy.ravel().astype(float)))
    return 2 * int(np.argmax(inside >= share * inside[-1] * (1 - 1e-12))) + 1


def receptive_field(
    model: nn.Module,
    images: Iterable[torch.Tensor],
    layer: str | None = None,
    max_seconds: float | None = None,
    progress: Callable[[int], Any] | None = None,
) -> ReceptiveField:
    """Measure the effective receptive field of a network (Luo et al., 2016; as in Fig. 8).

    This is the gradient of the sum of the positive channels at the central position of a feature map, with respect to
    the image. (The sum of all channels does not work: right after a LayerNorm it is constant.) Images are processed one
    at a time, without gradients of the weights and for a VAN with gradient checkpointing, which bounds the memory:
    VAN-B2 takes 2.6 GB for 1120 x 1120 pixels.

    Args:
        model: Any network; it runs in evaluation mode and is restored afterwards.
        images: Preprocessed images, each of shape (C, H, W), all of one size.
        layer: Name of the layer; None for the last feature map.
        max_seconds: Start no further image after this time.
        progress: Called with the number of finished images.

    Raises:
        VanError: there are no images or no such layer, the layer outputs no feature map, an image is smaller than its
            stride, or the gradient is zero everywhere.
    """
    name = default_layer(model) if layer is None else layer
    module = find_layer(model, name)
    device = next(model.parameters()).device
    total: torch.Tensor | None = None
    count, started = 0, time.perf_counter()
    with frozen(model), _checkpointed(model), torch.enable_grad():
        for image in images:
            check_size(model, image.shape[-2:], name)
            x = image[None].detach().to(device, memory_format=torch.channels_last, copy=True).requires_grad_()
            with recorded(module, lambda _, output: output) as outputs, taking(model, image.shape[-2:]):
                model.forward_features(x) if hasattr(model, "forward_features") else model(x)  # pyright: ignore
            if not outputs:
                raise VanError(
                    f"Layer {name} of {type(model).__name__} does not contribute to its features. Choose another layer."
                )
            maps = to_maps(outputs[-1], model, name)
            centre = maps[0, :, maps.shape[2] // 2, maps.shape[3] // 2]
            (gradient,) = torch.autograd.grad(centre.relu().sum(), x)
            energy = gradient[0].abs().sum(dim=0, dtype=torch.float64)
            if total is not None and total.shape != energy.shape:
                raise VanError(f"Images of {tuple(total.shape)} and {tuple(energy.shape)} pixels, expected one size.")
            total = energy if total is None else total + energy
            del x, outputs, maps, gradient
            count += 1
            if progress:
                progress(count)
            if max_seconds is not None and time.perf_counter() - started > max_seconds:
                break
    if total is None:
        raise VanError("There are no images. Give at least one.")
    amount = float(total.sum())
    if not (amount > 0 and math.isfinite(amount)):
        raise VanError(
            f"The gradient of layer {name} of {type(model).__name__} is {'zero' if amount == 0 else 'not finite'} "
            "everywhere: there is no receptive field to show. Try another layer, other images or trained weights."
        )
    return ReceptiveField((total / amount).cpu().numpy(), count, name)


@contextmanager
def _checkpointed(model: nn.Module) -> Iterator[None]:
    """Switch on gradient checkpointing of a VAN; other networks may bypass their stages then."""
    stages = model.stages if isinstance(model, VAN) else ()
    switched = [stage for stage in stages if isinstance(stage, VANStage) and not stage.grad_checkpointing]
    for module in switched:
        module.grad_checkpointing = True
    try:
        yield
    finally:
        for module in switched:
            module.grad_checkpointing = False


def random_crops(pictures: Sequence[Any], count: int, size: tuple[int, int], seed: int = 0) -> Iterable[Any]:
    """Return random crops of pictures, scaled and mirrored at random.

    Args:
        pictures: PIL images.
        count: Number of crops.
        size: Height and width of each crop.
        seed: The same seed gives the same crops.

    Returns:
        PIL images, made one at a time.
    """
    from PIL import Image, ImageOps

    rng = np.random.default_rng(seed)
    for i in range(count):
        picture = pictures[i % len(pictures)]
        scale = rng.uniform(0.4, 1.0) * min(picture.width / size[1], picture.height / size[0])
        width, height = round(scale * size[1]), round(scale * size[0])
        left = int(rng.integers(picture.width - width + 1))
        top = int(rng.integers(picture.height - height + 1))
        part = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        yield ImageOps.mirror(part) if rng.random() < 0.5 else part
