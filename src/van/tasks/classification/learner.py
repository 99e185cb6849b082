"""Training a classifier: cross-entropy, mixup and CutMix, top-1 and top-5; several classes; numbers."""

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
from van.tasks.classification.multi_label import MultiLabelEvaluator
from van.tasks.classification.options import ClassificationTrainOptions
from van.tasks.classification.regression import RegressionEvaluator
from van.tasks.classification.targets import MultiLabel, Regression, SingleLabel


class BatchChanges:
    """Mixup, CutMix and, where they come first, random erasing: random changes of whole batches.

    Args:
        augmentation: The options.
        num_classes: Number of classes.
        dense: Whether targets have a number for each output, (B, num_classes).
    """

    def __init__(self, augmentation: ClassificationAugmentation, num_classes: int, dense: bool = False) -> None:
        mixup, cutmix = augmentation.mixup, augmentation.cutmix
        # smoothing stays with the loss, which does it alike for mixed and for plain targets
        self.mix = (
            Mixup(
                mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=num_classes, multi_label=dense
            )
            if mixup > 0.0 or cutmix > 0.0
            else None
        )
        erasing = augmentation.random_erasing if augmentation.erase_mixed else 0.0
        self.erase = RandomErasing(erasing, mode="pixel") if erasing else None

    def __bool__(self) -> bool:
        return self.mix is not None or self.erase is not None

    def __call__(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (B, C, H, W) with targets; labels (B,) become shares (B, classes) where images were mixed."""
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
        evaluator: What is measured, by default accuracies.
    """

    columns = ("val_loss",)
    loss_name = "cross_entropy"
    smoothing: float = SingleLabel.label_smoothing
    dense: bool = SingleLabel.dense

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        options: ClassificationTrainOptions,
        image_size: Sequence[int] | None = None,
        evaluator: Any = None,
    ) -> None:
        evaluator = evaluator or AccuracyEvaluator(num_classes)
        stages = [f"stages.{stage}" for stage in range(options.frozen_stages)]
        super().__init__(model, evaluator.metrics, evaluator, options, image_size, frozen=stages)
        given = options.optimization.label_smoothing
        self.label_smoothing = self.smoothing if given is None else given
        self.change = BatchChanges(options.augmentation, num_classes, self.dense)
        self.val_loss = MeanMetric()
        self.class_loss = None if self.dense else ClassLoss()

    def loss(self, outputs: torch.Tensor, target: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Return the cross-entropy of logits (B, classes) and labels (B,) or shares (B, classes)."""
        return F.cross_entropy(outputs, target, label_smoothing=smoothing)

    def losses(self, batch: Any) -> dict[str, torch.Tensor]:
        """Return the loss of images (B, C, H, W) and targets (B, ...), mixed and then erased where asked for."""
        images, target = self.change(batch)
        loss = self.class_loss or self.loss
        return {self.loss_name: loss(self.model(images), target, self.label_smoothing)}

    def found(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (B, classes) and labels (B,), and count the loss."""
        images, target = batch
        outputs = self.model(images)
        self.val_loss(self.loss(outputs, target, 0.0), weight=len(images))
        self.log("val_loss", self.val_loss, prog_bar=True)
        return outputs, target


class MultiLabelLearner(ClassificationLearner):
    """Training and validation of a classifier that finds any number of classes on an image.

    Targets (B, classes) are 1 where a class is there, else 0. Mixed images have shares of both targets, and label
    smoothing moves each target towards 1/2.

    Args:
        model: Maps (B, C, H, W) to logits (B, num_classes).
        num_classes: Number of classes.
        options: Options of training.
        image_size: Height and width of the training images.
    """

    loss_name = "binary_cross_entropy"
    smoothing = MultiLabel.label_smoothing
    dense = MultiLabel.dense

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        options: ClassificationTrainOptions,
        image_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model, num_classes, options, image_size, MultiLabelEvaluator(num_classes))

    def loss(self, outputs: torch.Tensor, target: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Return the binary cross-entropy of logits and targets (B, classes), mean over images and classes."""
        return F.binary_cross_entropy_with_logits(outputs, target * (1 - smoothing) + smoothing / 2)

    def found(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return probabilities and targets, (B, classes) both, and count the loss."""
        logits, target = super().found(batch)
        return logits.float().sigmoid(), target


class RegressionLearner(ClassificationLearner):
    """Training and validation of a network that predicts numbers.

    Its outputs are learned with mean 0 and standard deviation 1.

    Args:
        model: Maps (B, C, H, W) to outputs (B, numbers).
        target: The numbers.
        options: Options of training.
        image_size: Height and width of the training images.
    """

    loss_name = "regression"
    smoothing = Regression.label_smoothing
    dense = Regression.dense
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        target: Regression,
        options: ClassificationTrainOptions,
        image_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model, len(target.names), options, image_size, RegressionEvaluator(target.std))
        self.target = target
        self.absolute = options.optimization.regression_loss == "l1"
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(target, name)), persistent=False)

    def loss(self, outputs: torch.Tensor, target: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Return the squared or absolute difference of outputs and standardized numbers (B, numbers), mean of all."""
        wanted = (target - self.mean) / self.std
        return F.l1_loss(outputs, wanted) if self.absolute else F.mse_loss(outputs, wanted)

    def found(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return predicted and true numbers, (B, numbers) both, and count the loss."""
        outputs, target = super().found(batch)
        return self.target.answers(outputs.float()), target
