"""Training and validation of saliency."""

from typing import Any

from torch import nn

from van.engine.learner import Learner
from van.networks.segmentation.inference import saliency_maps
from van.tasks.saliency.evaluation import SaliencyEvaluator
from van.tasks.saliency.metrics import METRICS
from van.tasks.saliency.options import SaliencyTrainOptions


class SaliencyLearner(Learner):
    """A saliency network, validated as its options of inference say.

    Args:
        model: Maps images (B, 3, H, W) and masks (B, H, W) to losses by name.
        options: Options of training.
    """

    def __init__(self, model: nn.Module, options: SaliencyTrainOptions) -> None:
        sizes = options.augmentation.image_sizes
        super().__init__(model, METRICS, SaliencyEvaluator(), options, sizes[0] if len(sizes) == 1 else None)
        self.view = options.inference

    def found(self, batch: Any) -> tuple[Any, Any]:
        """Return the maps found on images of any sizes, and the true masks."""
        images, masks = batch
        return saliency_maps(self.model, images, self.view), masks
