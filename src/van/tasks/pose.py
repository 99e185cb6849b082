"""Pose estimation from crops of persons: mean squared error of heat maps, COCO's average precision."""

from typing import Any, Protocol

import torch
from torchmetrics import MeanMetric

from van.networks.pose import SimpleBaseline, coco_results
from van.tasks.base import Task
from van.tasks.optimization import Optimization


class Evaluator(Protocol):
    """What counts results, such as van.analysis.coco.CocoEvaluator."""

    def reset(self) -> None:
        """Forget all results."""
        ...

    def update(self, results: list[dict[str, Any]]) -> None:
        """Add results as COCO writes them."""
        ...

    def compute(self) -> dict[str, float]:
        """Return AP, AP50 and the others, of the results of all processes."""
        ...


class PoseTask(Task):
    """Training and validation of a pose network.

    Args:
        model: Maps crops (B, 3, H, W) to heat maps (B, K, h, w).
        lr: Highest learning rate.
        epochs: Epochs of the schedule without cool-down.
        steps_per_epoch: Optimiser steps in an epoch.
        optimization: Other options of optimiser and schedule.
        evaluator: Compares the results with the annotations.
    """

    model: SimpleBaseline

    def __init__(
        self,
        model: SimpleBaseline,
        lr: float,
        epochs: int,
        steps_per_epoch: int,
        optimization: Optimization,
        evaluator: Evaluator,
    ) -> None:
        super().__init__(model, lr, epochs, steps_per_epoch, optimization)
        self.evaluator = evaluator
        self.val_loss = MeanMetric()
        self._seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map crops (B, 3, H, W) to heat maps (B, K, h, w)."""
        return self.model(images)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Return the loss of one batch of a PoseDataset."""
        loss = self.model(batch["image"], batch["keypoints"])["heat_map"]
        size = len(batch["image"])
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, batch_size=size)
        return self.checked(loss, batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Forget the persons of the epoch before."""
        self.evaluator.reset()
        self._seen = 0

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Count one batch of a PoseDataset, in order, in the validation figures."""
        maps = self.model(batch["image"])
        self.val_loss(self.model.loss(maps, batch["keypoints"]), weight=len(maps))
        self.log("val_loss", self.val_loss, prog_bar=True)
        # the sampler of several processes repeats the first persons at the end, and twice found is once wrong
        places = torch.arange(self._seen, self._seen + len(maps)) * self.trainer.world_size + self.global_rank
        repeated = batch["index"].cpu() < places
        results = coco_results(maps, batch, self.model.stride)
        self.evaluator.update([result for result, again in zip(results, repeated.tolist(), strict=True) if not again])
        self._seen += len(maps)

    def on_validation_epoch_end(self) -> None:
        """Log COCO's figures."""
        figures = self.evaluator.compute()
        self.log_dict({"val_ap": figures["AP"], "val_ap50": figures["AP50"]}, prog_bar=True)
