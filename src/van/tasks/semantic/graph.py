"""What the exported file of a semantic segmentation network computes."""

from typing import TYPE_CHECKING

import torch

from van.engine.graph import ViewGraph
from van.networks.segmentation.graph import enlarged, scaled

if TYPE_CHECKING:
    from van.engine.predictor import Predictor


class SemanticGraph(ViewGraph):
    """images -> logits (B, K, h, w), or labels (B, H, W) with postprocess.

    With preprocess the images are bytes of any size, and labels have that size; without it labels have the size of the
    padded images.

    Args:
        predictor: Of a network whose core gives logits of classes.
        preprocess: See Graph.
        postprocess: Return labels, uint8.

    Raises:
        VanError: The weights see an image in windows or at several scales.
    """

    def __init__(self, predictor: "Predictor", preprocess: bool, postprocess: bool) -> None:
        super().__init__(predictor, preprocess, postprocess, ("labels",))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images (B, 3, H, W) to logits or labels."""
        prepared = seen = images
        if self.preprocess:
            seen = scaled(images, self.view)
            prepared = self.network.prepare(seen, self.view.to_multiple != "none")
        if not self.postprocess:
            return self.core(prepared)
        scores = self.network.full_scores(self.core(prepared), prepared.shape, seen.shape)
        if self.view.flip_test:
            other = self.core(self._mirrored(prepared, seen))
            mirrored = self.network.full_scores(other, prepared.shape, seen.shape).flip(-1)
            scores, mirrored = (self.network.normalized(enlarged(x, images.shape[-2:])) for x in (scores, mirrored))
            scores = (scores + mirrored) / 2
        elif self.preprocess:
            scores = enlarged(scores, images.shape[-2:])
        return (scores.argmax(1).to(torch.uint8),)

    def _mirrored(self, prepared: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return the prepared mirror images: the padding stays on the right."""
        if not self.preprocess:
            return prepared.flip(-1)
        return self.network.prepare(seen.flip(-1), self.view.to_multiple != "none")
