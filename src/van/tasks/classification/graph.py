"""What the exported file of a classifier computes."""

import math
from typing import TYPE_CHECKING, Any, cast

import torch

from van.engine.graph import Graph
from van.errors import VanError
from van.networks.resizing import apply_weights, number, weights
from van.tasks.classification.targets import target_of

if TYPE_CHECKING:
    from van.engine.predictor import Predictor

LEVELS = ("stride_4", "stride_8", "stride_16", "stride_32")


class ClassificationGraph(Graph):
    """images -> logits, or with postprocess probabilities, or values where the network predicts numbers.

    With preprocess the images are bytes of any size, and timm's evaluation transform is part of the graph.

    Args:
        predictor: Of a classifier.
        preprocess: See Graph.
        postprocess: Return probabilities (B, classes) or values (B, numbers).
        features: Return the four feature maps instead of anything about classes.

    Raises:
        VanError: The pre-processing of these weights cannot be part of a graph.
    """

    multiple = 1
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, predictor: "Predictor", preprocess: bool, postprocess: bool, features: bool = False) -> None:
        self.target = target_of(predictor.class_names, predictor.extra)
        outputs = LEVELS if features else (self.target.output if postprocess else "logits",)
        super().__init__(predictor, preprocess, postprocess, outputs)
        self.features = features
        self.temperature: float = predictor.inference.temperature
        self.options: dict[str, Any] = predictor.extra["preprocessing"]
        self.channels = self.options["input_size"][0]
        self.size = cast(tuple[int, int], tuple(self.options["input_size"][1:]))
        if preprocess and (interpolation := self.options["interpolation"]) not in ("bilinear", "bicubic"):
            raise VanError(
                f"interpolation is {interpolation!r} for these weights, expected bilinear or bicubic. Export "
                "them without preprocess."
            )
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(self.options[name]).view(-1, 1, 1), persistent=False)

    def run(self, *inputs: torch.Tensor) -> Any:
        """Return logits, or the feature maps."""
        if self.features:
            return tuple(self.network.forward_intermediates(inputs[0], intermediates_only=True))
        return self.network(*inputs)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images (B, C, H, W) to logits, probabilities, values or feature maps."""
        if self.preprocess:
            images = (self._cropped(images) / 255 - self.mean) / self.std
        outputs = self.core(images)
        if not self.postprocess or self.features:
            return outputs
        return (self.target.answers(outputs[0] if self.temperature == 1 else outputs[0] / self.temperature),)

    def _cropped(self, images: torch.Tensor) -> torch.Tensor:
        """Resize images (B, C, H, W) of bytes, and crop or pad them, as timm's transform with these options does."""
        crop, options = self.size, self.options
        wanted = [math.floor(side / options["crop_pct"]) for side in crop]
        sides = [number(side, images) for side in images.shape[-2:]]
        ratios = [side / target for side, target in zip(sides, wanted, strict=True)]
        mode = options["crop_mode"]
        if mode == "squash":
            sizes = [torch.full_like(side, target) for side, target in zip(sides, wanted, strict=True)]
        elif mode == "border":
            sizes = [(side / torch.maximum(*ratios)).round() for side in sides]
        elif wanted[0] == wanted[1]:
            # the short edge gets this length exactly; the long one is cut off, not rounded
            sizes = [(side * wanted[0] / torch.minimum(*sides) + 1e-4).floor() for side in sides]
        else:
            sizes = [(side / torch.minimum(*ratios)).round() for side in sides]
        matrices, inside = [], []
        for length, side, size, target in zip(images.shape[-2:], sides, sizes, crop, strict=True):
            # where the image is smaller it is padded, one pixel more at the end
            start = torch.where(size < target, -((target - size) / 2).floor(), ((size - target) / 2).round())
            scale = side / size
            matrices.append(weights(length, target, scale, start, options["interpolation"]))
            places = torch.arange(target, device=images.device) + start
            inside.append((places >= 0) & (places < size))
        fill = (255 * self.mean).round() if mode == "border" else torch.zeros_like(self.mean)
        return torch.where(inside[0][:, None] & inside[1], apply_weights(images, *matrices), fill)
