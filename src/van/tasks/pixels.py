"""Semantic and panoptic segmentation and saliency: the network's own losses, figures of whoever measures."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from van.tasks.base import Task
from van.tasks.optimization import Optimization

Looking = Callable[[nn.Module, Sequence[torch.Tensor]], list[Any]]
Batch = tuple[Any, Any]


class Evaluator(Protocol):
    """What validation asks of the one who measures."""

    def reset(self) -> None:
        """Forget all results."""

    def update(self, outputs: Any, targets: Any, /) -> None:
        """Add what was found on images, and the targets of these."""

    def compute(self) -> dict[str, float]:
        """Return the figures by name, those of all processes."""
        ...


class PixelTask(Task):
    """Training and validation of a network that labels pixels.

    Args:
        model: Maps images (B, 3, H, W) and their targets to losses by name in training.
        lr: Highest learning rate.
        epochs: Epochs of the schedule without cool-down.
        steps_per_epoch: Optimiser steps in an epoch.
        optimization: Other options of optimiser and schedule.
        evaluator: Measures what was found; its figures are logged as val_NAME.
        look: Maps the model and images (3, H, W) of any sizes to what the evaluator compares with their targets.
        key: Name of the figure for the progress bar.
        by_steps: Whether the length was given in steps.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        epochs: int,
        steps_per_epoch: int,
        optimization: Optimization,
        evaluator: Evaluator,
        look: Looking,
        key: str,
        by_steps: bool = False,
    ) -> None:
        super().__init__(model, lr, epochs, steps_per_epoch, optimization, by_steps)
        self.evaluator = evaluator
        self.look = look
        self.key = key

    def forward(self, images: torch.Tensor) -> Any:
        """Map images (B, 3, H, W) to what the network gives for them."""
        return self.model(images)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the sum of the losses of one batch of images (B, 3, H, W) and their targets."""
        images, targets = batch
        losses: dict[str, torch.Tensor] = self.model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        epoch = {"on_step": False, "on_epoch": True, "batch_size": len(images)}
        self.log("train_loss", loss.detach(), prog_bar=True, **epoch)
        if len(losses) > 1:
            self.log_dict({f"train_{name}": part.detach() for name, part in losses.items()}, **epoch)
        return self.checked(loss, batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Start anew."""
        self.evaluator.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Hand what was found on a list of images to the evaluator, with the list of their targets."""
        images, targets = batch
        self.evaluator.update(self.look(self.model, images), targets)

    def on_validation_epoch_end(self) -> None:
        """Log the figures, which are the same in all processes, and how many steps have been taken."""
        for name, value in self.evaluator.compute().items():
            self.log(f"val_{name}", value, prog_bar=name == self.key, sync_dist=True)
        self.log("iteration", float(self.global_step), sync_dist=True)
