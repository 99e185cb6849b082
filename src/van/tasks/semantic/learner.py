"""Training and validation of semantic segmentation."""

from typing import Any

from torch import nn

from van.engine.learner import Learner
from van.networks.segmentation.inference import label_maps
from van.tasks.semantic.evaluation import SemanticEvaluator
from van.tasks.semantic.metrics import METRICS
from van.tasks.semantic.options import SemanticTrainOptions


class SemanticLearner(Learner):
    """A segmentation network, validated as its options of inference say.

    Args:
        model: Maps images (B, 3, H, W) and labels (B, H, W) to losses by name.
        class_names: Names in the order of the labels.
        options: Options of training.
    """

    def __init__(self, model: nn.Module, class_names: list[str], options: SemanticTrainOptions) -> None:
        super().__init__(model, METRICS, SemanticEvaluator(class_names), options, options.augmentation.crop_size)
        self.view = options.inference

    def found(self, batch: Any) -> tuple[Any, Any]:
        """Return the labels found on images of any sizes, and the true ones."""
        images, targets = batch
        return label_maps(self.model, images, self.view), targets
