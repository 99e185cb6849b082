"""Training a classifier: cross-entropy, mixup and CutMix, top-1 and top-5."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from van.data.augmentation import ClassificationAugmentation
from van.engine.learner import Learner
from van.networks.class_loss import ClassLoss
from van.tasks.classification.evaluation import AccuracyEvaluator
from van.tasks.classification.options import ClassificationTrainOptions


class BatchChanges:
    """Mixup, CutMix and, where they come first, random erasing: random changes of whole batches.

    Args:
        augmentation: The options.
        num_classes: Number of classes.
    """

    def __init__(self, augmentation: ClassificationAugmentation, num_classes: int) -> None:
        mixup, cutmix = augmentation.mixup, augmentation.cutmix
        # smoothing stays with the loss, which does it alike for mixed and for plain targets
        self.mix = (
            Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=num_classes)
            if mixup > 0.0 or cutmix > 0.0
            else None
        )
        erasing = augmentation.random_erasing if augmentation.erase_mixed else 0.0
        self.erase = RandomErasing(erasing, mode="pixel") if erasing else None

    def __bool__(self) -> bool:
        return self.mix is not None or self.erase is not None

    def __call__(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (B, C, H, W) with labels (B,), or probabilities (B, classes) where images were mixed."""
        images, target = batch
        if self.mix is not None and len(images) > 1:
            even = len(images) // 2 * 2  # timm mixes pairs
            images, target = self.mix(images[:even].clone(), target[:even])
        if self.erase is not None:
            self.erase.device = images.device
            images = self.erase(images.clone())
        return images, target


class ClassificationLearner(Learner):
    """Training and validation of a classifier.

    Args:
        model: Maps (B, C, H, W) to logits (B, num_classes).
        num_classes: Number of classes.
        options: Options of training.
        image_size: Height and width of the training images.
    """

    columns = ("val_loss",)

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        options: ClassificationTrainOptions,
        image_size: Sequence[int] | None = None,
    ) -> None:
        evaluator = AccuracyEvaluator(num_classes)
        stages = [f"stages.{stage}" for stage in range(options.frozen_stages)]
        super().__init__(model, evaluator.metrics, evaluator, options, image_size, frozen=stages)
        self.class_loss = ClassLoss()
        self.label_smoothing = options.optimization.label_smoothing
        self.change = BatchChanges(options.augmentation, num_classes)
        self.val_loss = MeanMetric()

    def losses(self, batch: Any) -> dict[str, torch.Tensor]:
        """Return the cross-entropy of images (B, C, H, W) and labels (B,), mixed and then erased where asked for."""
        images, target = self.change(batch)
        return {"cross_entropy": self.class_loss(self.model(images), target, self.label_smoothing)}

    def found(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (B, classes) and labels (B,), and count the loss."""
        images, target = batch
        logits = self.model(images)
        self.val_loss(F.cross_entropy(logits, target), weight=len(images))
        self.log("val_loss", self.val_loss, prog_bar=True)
        return logits, target
