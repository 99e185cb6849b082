"""What the exported file of a panoptic segmentation network computes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from van.engine.graph import Graph
from van.networks.resizing import resize
from van.networks.segmentation.graph import seen_size
from van.networks.segmentation.queries import Segments, segments
from van.networks.segmentation.views import View

if TYPE_CHECKING:
    from van.engine.predictor import Predictor


class PanopticGraph(Graph):
    """images -> class and mask logits of queries, or with postprocess the segments of Segments.

    With preprocess the images are bytes of any size, and the segmentation has that size; without it the images are
    normalized and padded to multiples of 32, and the segmentation has the size of the padded images. The thresholds and
    the countable classes are those of the weights.

    Args:
        predictor: Of a Mask2Former.
        preprocess: See Graph.
        postprocess: Return segments.
    """

    def __init__(self, predictor: "Predictor", preprocess: bool, postprocess: bool) -> None:
        super().__init__(predictor, preprocess, postprocess, Segments._fields if postprocess else None)
        self.inference = predictor.inference
        self.things = [label for label, thing in enumerate(predictor.extra["isthing"]) if thing]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images (B, 3, H, W) to the outputs of the core, or to segments."""
        original = inside = images.shape[-2:]
        if self.preprocess:
            if self.inference.fit:
                images = resize(images, seen_size(original, View(fit=self.inference.fit)))
            inside = images.shape[-2:]
            images = self.network.prepare(images.float() / 255)
        outputs = self.core(images)
        if not self.postprocess:
            return outputs
        logits, masks = outputs
        limits = self.inference
        found = segments(
            logits, masks, (inside[0], inside[1]), self.things, limits.score_threshold, limits.overlap_threshold
        )
        if self.preprocess and self.inference.fit:
            whole = F.interpolate(found.segmentation[:, None].float(), tuple(original), mode="nearest-exact")
            found = found._replace(segmentation=whole[:, 0].to(torch.int32))
        return tuple(found)

    def differences(self, expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> dict[str, float]:
        """Compare segments, whose numbers may be permuted, by the class of each pixel; see Graph."""
        if not self.postprocess or any(one.shape != other.shape for one, other in zip(expected, found, strict=True)):
            return super().differences(expected, found)
        maps = []
        for segmentation, labels, scores, _ in (expected, found):
            at = segmentation.long().flatten(1)
            maps.append([F.pad(rows, (1, 0), value=-1).gather(1, at) for rows in (labels, scores)])
        (labels, scores), (other_labels, other_scores) = maps
        same = labels == other_labels
        return {
            "segmentation": self.difference(labels, other_labels, "segmentation"),
            "labels": self.difference(expected[1].sort(1)[0], found[1].sort(1)[0], "labels"),
            "scores": self.difference(scores[same], other_scores[same], "scores"),
            "best_score": self.difference(expected[3], found[3], "best_score"),
        }
