"""Image classification: cross-entropy, mixup and CutMix, top-1 and top-5."""

import torch
from timm.data import Mixup
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from van.tasks.base import Task
from van.tasks.optimization import ClassificationOptimization


class ClassificationTask(Task):
    """Training and validation of a classifier.

    Args:
        model: Maps (B, C, H, W) to logits (B, num_classes).
        num_classes: Number of classes.
        lr: Highest learning rate.
        epochs: Epochs of the schedule without cool-down.
        steps_per_epoch: Optimiser steps in an epoch.
        optimization: Other options of optimiser and schedule.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of CutMix; 0 for none.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        lr: float,
        epochs: int,
        steps_per_epoch: int,
        optimization: ClassificationOptimization,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        super().__init__(model, lr, epochs, steps_per_epoch, optimization)
        self.label_smoothing = optimization.label_smoothing
        # smoothing stays with the loss, which does it alike for mixed and for plain targets
        self.mix = (
            Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=num_classes)
            if mixup > 0.0 or cutmix > 0.0
            else None
        )
        self.val_loss = MeanMetric()
        self.val_top1 = MulticlassAccuracy(num_classes, average="micro")
        self.val_top5 = MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes)."""
        return self.model(images)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss of one batch of images (B, C, H, W) and labels (B,)."""
        images, target = batch
        if self.mix is not None and len(images) > 1:
            even = len(images) // 2 * 2  # timm mixes pairs
            images, target = self.mix(images[:even].clone(), target[:even])
        loss = F.cross_entropy(self.model(images), target, label_smoothing=self.label_smoothing)
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images))
        return self.checked(loss, batch_idx)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        """Count one batch of images (B, C, H, W) and labels (B,) in the validation figures."""
        images, target = batch
        logits = self.model(images)
        self.val_loss(F.cross_entropy(logits, target), weight=len(images))
        self.val_top1(logits, target)
        self.val_top5(logits, target)
        self.log("val_loss", self.val_loss, prog_bar=True)
        self.log("val_top1", self.val_top1, prog_bar=True)
        self.log("val_top5", self.val_top5)
