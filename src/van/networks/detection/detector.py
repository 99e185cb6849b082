"""One interface for every detector: lists of images in, losses or detections in the pixels of those images out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from van.errors import DataError
from van.networks.detection.options import DetectorOptions


class Detector(nn.Module):
    """A detector. Labels count from 0 in all of them.

    Args:
        network: What DetectorOptions.detector returns.
        options: What it was built from, with everything that came with the weights.
        num_classes: Number of classes without the background.

    Attributes:
        has_masks: Whether it predicts masks, and needs them in training.
        input_size: (3, H, W) to count with: 8:5, the short edge as in evaluation (1280 x 800 in the paper's table 9),
            multiples of 32.
    """

    def __init__(self, network: nn.Module, options: DetectorOptions, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.options = options
        self.num_classes = num_classes
        self.has_masks: bool = getattr(network, "has_masks", False)
        short = options.min_size[-1]
        high, wide = (-(-edge // 32) * 32 for edge in (short, min(options.max_size, short * 8 // 5)))
        self.input_size: tuple[int, int, int] = (3, high, wide)

    @property
    def core(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """Everything that has weights, between resizing and decoding; an inference engine can take its place.

        It takes normalized images (B, 3, H, W), padded to multiples of 32, and where core_inputs says so their sizes
        (B, 2) without the padding, int64, and returns what core_outputs names. core_batched says whether it takes
        several images at once.
        """
        return cast(Any, self.network).core

    @core.setter
    def core(self, engine: Callable[..., tuple[torch.Tensor, ...]]) -> None:
        self.network.core = engine  # type: ignore[assignment]

    @property
    def core_inputs(self) -> tuple[str, ...]:
        """Names of what core takes."""
        return cast(Any, self.network).core_inputs

    @property
    def core_outputs(self) -> tuple[str, ...]:
        """Names of what core returns."""
        return cast(Any, self.network).core_outputs

    @property
    def core_batched(self) -> bool:
        """Whether core takes several images at once."""
        return cast(Any, self.network).core_batched

    def forward(
        self, images: Sequence[torch.Tensor], targets: Sequence[Mapping[str, Any]] | None = None
    ) -> dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]:
        """Return the losses in training, and detections otherwise.

        The values of the targets are not checked: that would wait for the device. The loader does it, on the CPU.

        Args:
            images: (3, H, W) each, of any sizes, integers from 0 to 255 or floats from 0 to 1. Training takes them at
                these sizes; evaluation resizes them.
            targets: In training one for each image: boxes (N, 4) as x1, y1, x2, y2 in its pixels, labels (N,) from 0,
                and masks (N, H, W) of 0 and 1 where has_masks. N may be 0. Anything else in it is ignored.

        Returns:
            The losses by name, to be added; or for each image boxes (N, 4), labels (N,), scores (N,), best first, and
            masks (N, 1, H, W) with probabilities where has_masks.

        Raises:
            DataError: There is not one target for each image in training.
        """
        images = list(images)
        if not self.training:
            return self.network(images)
        if targets is None or len(targets) != len(images):
            raise DataError(f"There are {len(targets or ())} targets for {len(images)} images, expected one for each.")
        wanted = []
        for target in targets:
            one = {"boxes": target["boxes"].float().reshape(-1, 4), "labels": target["labels"].long()}
            wanted.append({**one, "masks": target["masks"]} if self.has_masks else one)
        return self.network(images, wanted)

    def counted_forward(self, images: torch.Tensor) -> None:
        """Run every layer on (B, 3, H, W), for counting; works on the meta device.

        Two-stage heads see 1000 regions per image and their mask heads 100, as in OpenMMLab's counts, which the paper
        quotes.
        """
        self.network.counted_forward(images)  # type: ignore[operator]
