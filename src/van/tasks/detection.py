"""Detection and instance segmentation: the detector's own losses, COCO's figures."""

from typing import Any, Protocol

import torch
from torch import nn

from van.tasks.base import Task
from van.tasks.optimization import Optimization

Batch = tuple[list[torch.Tensor], list[dict[str, Any]]]


class Evaluator(Protocol):
    """What validation asks of the one who measures."""

    def reset(self) -> None:
        """Forget all results."""

    def update(self, outputs: list[dict[str, torch.Tensor]], targets: list[dict[str, Any]]) -> None:
        """Add what the detector found on images, and the targets of these."""

    def compute(self) -> dict[str, float]:
        """Return the figures by name, those of all processes."""
        ...


class DetectionTask(Task):
    """Training and validation of a detector.

    Args:
        model: Maps lists of images and targets to losses by name (training), and a list of images to what is on them.
        lr: Highest learning rate.
        epochs: Epochs of the schedule without cool-down.
        steps_per_epoch: Optimiser steps in an epoch.
        optimization: Other options of optimiser and schedule.
        evaluator: Measures what was found; its figures are logged as val_NAME.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        epochs: int,
        steps_per_epoch: int,
        optimization: Optimization,
        evaluator: Evaluator,
    ) -> None:
        super().__init__(model, lr, epochs, steps_per_epoch, optimization)
        self.evaluator = evaluator

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Map images (3, H, W) of uint8 to boxes, labels, scores and masks of each."""
        return self.model(images)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the sum of the losses of one batch."""
        images, targets = batch
        losses: dict[str, torch.Tensor] = self.model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        epoch = {"on_step": False, "on_epoch": True, "batch_size": len(images)}
        self.log("train_loss", loss.detach(), prog_bar=True, **epoch)
        self.log_dict({f"train_{name.removeprefix('loss_')}": part.detach() for name, part in losses.items()}, **epoch)
        return self.checked(loss, batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Start anew."""
        self.evaluator.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Hand what was found on one batch to the evaluator."""
        images, targets = batch
        self.evaluator.update(self.model(images), targets)

    def on_validation_epoch_end(self) -> None:
        """Log the figures; they are the same in all processes."""
        figures = self.evaluator.compute()
        for name, value in figures.items():
            self.log(f"val_{name}", value, prog_bar=name in ("AP", "mask_AP"), sync_dist=True)
