"""What the exported file of a saliency network computes."""

from typing import TYPE_CHECKING

import torch

from van.engine.graph import ViewGraph
from van.networks.dense import full_size
from van.networks.segmentation.graph import enlarged, scaled

if TYPE_CHECKING:
    from van.engine.predictor import Predictor


class SaliencyGraph(ViewGraph):
    """images -> logits (B, 1, h, w), or saliency (B, H, W) from 0 to 1 with postprocess.

    With preprocess the images are bytes of any size, and saliency has that size; without it the size of the padded
    images.

    Args:
        predictor: Of a saliency network.
        preprocess: See Graph.
        postprocess: Return saliency.

    Raises:
        VanError: The weights see an image in windows or at several scales.
    """

    def __init__(self, predictor: "Predictor", preprocess: bool, postprocess: bool) -> None:
        super().__init__(predictor, preprocess, postprocess, ("saliency",))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images (B, 3, H, W) to logits or saliency."""
        seen = scaled(images, self.view) if self.preprocess else images
        if not self.postprocess:
            return self.core(self.network.prepare(seen) if self.preprocess else seen)
        found = self._probabilities(seen)
        if self.view.flip_test:
            found = (found + self._probabilities(seen.flip(-1)).flip(-1)) / 2
        if self.preprocess:
            found = enlarged(found, images.shape[-2:])
        return (found[:, 0].clamp(0, 1),)

    def _probabilities(self, seen: torch.Tensor) -> torch.Tensor:
        prepared = self.network.prepare(seen) if self.preprocess else seen
        return full_size(self.core(prepared)[0], prepared.shape, seen.shape).sigmoid()
