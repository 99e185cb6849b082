"""Training and validation of panoptic segmentation."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from van.engine.learner import Learner
from van.engine.progressive import resize
from van.tasks.panoptic.evaluation import PanopticEvaluator, find_segments
from van.tasks.panoptic.metrics import METRICS
from van.tasks.panoptic.options import PanopticTrainOptions


class PanopticLearner(Learner):
    """A network that finds segments, validated as its options of inference say.

    Args:
        model: Maps images (B, 3, H, W) and the masks and labels of their segments to losses by name.
        class_names: Names in the order of the labels.
        isthing: Whether each class is countable.
        options: Options of training.
    """

    def __init__(
        self, model: nn.Module, class_names: list[str], isthing: Sequence[bool], options: PanopticTrainOptions
    ) -> None:
        evaluator = PanopticEvaluator(class_names, isthing)
        super().__init__(model, METRICS, evaluator, options, options.augmentation.crop_size)
        self.inference = options.inference

    def resized(self, batch: Any, size: tuple[int, int]) -> Any:
        """Return images and masks of their segments at another height and width."""
        images, targets = batch
        smaller = [{**target, "masks": resize(target["masks"], size)} for target in targets]
        return resize(images, size, smooth=True), smaller

    def found(self, batch: Any) -> tuple[Any, Any]:
        """Return the segments found on images of any sizes, and the true ones."""
        images, targets = batch
        return find_segments(self.model, images, self.evaluator.isthing, self.inference), targets
