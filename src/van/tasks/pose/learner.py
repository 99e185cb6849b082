"""Training a pose network on crops of persons."""

from typing import Any

import torch
from torchmetrics import MeanMetric

from van.engine.learner import Learner
from van.engine.progressive import resize
from van.networks.pose import SimpleBaseline
from van.tasks.pose.evaluation import PoseEvaluator
from van.tasks.pose.metrics import KEYPOINT
from van.tasks.pose.options import PoseTrainOptions


class PoseLearner(Learner):
    """Training and validation of a pose network.

    Args:
        model: Maps crops and keypoints to the loss of its heat maps, and crops alone to heat maps.
        evaluator: Compares heat maps with the annotations.
        options: Options of training.
    """

    columns = ("val_loss",)
    model: SimpleBaseline

    def __init__(self, model: SimpleBaseline, evaluator: PoseEvaluator, options: PoseTrainOptions) -> None:
        super().__init__(model, KEYPOINT[:3], evaluator, options, options.model.image_size)
        self.val_loss = MeanMetric()

    def losses(self, batch: dict[str, Any]) -> Any:
        """Return the loss of a batch of a PoseDataset."""
        return self.model(batch["image"], batch["keypoints"])

    def resized(self, batch: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        """Return crops of another height and width, with the keypoints in their pixels."""
        height, width = batch["image"].shape[-2:]
        factors = batch["keypoints"].new_tensor([size[1] / width, size[0] / height, 1.0])
        return {**batch, "image": resize(batch["image"], size, smooth=True), "keypoints": batch["keypoints"] * factors}

    def found(self, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return heat maps (B, K, h, w) and the batch, and count the loss."""
        maps = self.model(batch["image"])
        self.val_loss(self.model.loss(maps, batch["keypoints"]), weight=len(maps))
        self.log("val_loss", self.val_loss, prog_bar=True)
        return maps, batch

    def samples(self, batch: dict[str, Any]) -> int:
        """Return the number of crops in a batch."""
        return len(batch["image"])
