"""What networks share that give every pixel a class: their forward pass, targets and loss."""

from collections.abc import Sequence

import torch

from van.errors import DataError
from van.models.backbone import Backbone
from van.networks.class_loss import ClassLoss, mean_of
from van.networks.dense import DenseNetwork, full_size
from van.networks.options import IGNORED
from van.networks.segmentation.options import SemanticOptions


class SemanticNetwork(DenseNetwork):
    """A network whose heads give logits of classes.

    Args:
        backbone: With four feature maps.
        num_classes: Number of classes K.
        options: What the network is built from.
    """

    def __init__(self, backbone: Backbone, num_classes: int, options: SemanticOptions) -> None:
        super().__init__(backbone, options)
        self.num_classes = num_classes
        self.loss_over = options.loss_over
        self.class_loss = ClassLoss()

    def decode(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Map the backbone's feature maps to logits (B, K, h, w)."""
        raise NotImplementedError

    def auxiliary(self, maps: Sequence[torch.Tensor]) -> tuple[float, torch.Tensor] | None:
        """Map the backbone's feature maps to the weight and the logits (B, K, h, w) of a second loss; None for none."""
        return None

    def core(self, images: torch.Tensor) -> torch.Tensor:
        """Map prepared images (B, 3, H, W) to logits (B, K, h, w)."""
        return self.decode(self.backbone(images))

    def full_scores(self, outputs: Sequence[torch.Tensor], padded: torch.Size, size: torch.Size) -> torch.Tensor:
        """Return class scores (B, K, H, W) of what core returned, in exported graphs.

        Args:
            outputs: Of core.
            padded: Shape of the prepared images.
            size: Shape of the images.
        """
        return full_size(outputs[0], padded, size)

    def forward(
        self, images: torch.Tensor, targets: torch.Tensor | None = None, pad: bool = True
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Label every pixel.

        Args:
            images: (B, 3, H, W), bytes or floats from 0 to 1.
            targets: In training labels (B, H, W), 255 for ignored pixels.
            pad: Pad images whose sides are no multiples of 32.

        Returns:
            In training with targets, the losses by name, to be added; otherwise logits (B, K, H, W).

        Raises:
            DataError: Images or targets have the wrong shape or type.
        """
        x = self.prepare(images, pad)
        if not self.training or targets is None:
            return full_size(self.core(x), x.shape, images.shape)
        maps = self.backbone(x)
        logits = full_size(self.decode(maps), x.shape, images.shape)
        labels = label_maps(targets, images)
        losses = {"segmentation": semantic_loss(logits, labels, self.loss_over, self.class_loss)}
        if second := self.auxiliary(maps):
            weight, logits = second
            logits = full_size(logits, x.shape, images.shape)
            losses["auxiliary"] = weight * semantic_loss(logits, labels, self.loss_over, self.class_loss)
        return losses

    def scores(self, images: torch.Tensor, pad: bool = True) -> torch.Tensor:
        """Map images (B, 3, H, W) to logits (B, K, H, W); see forward."""
        return self(images, pad=pad)

    def normalized(self, scores: torch.Tensor) -> torch.Tensor:
        """Make class probabilities of logits (B, K, H, W)."""
        return scores.softmax(1)

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to class probabilities (B, K, H, W)."""
        return self.normalized(self.scores(images))


def label_maps(labels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return labels (B, H, W) as int64. Their values are not looked at: that would wait for the device.

    Raises:
        DataError: The labels are no integers, or their shape is not that of the images.
    """
    expected = (len(images), *images.shape[-2:])
    if labels.is_floating_point() or tuple(labels.shape) != expected:
        raise DataError(
            f"Targets are {labels.dtype} of shape {tuple(labels.shape)}, expected integers of shape {expected}."
        )
    return labels.long()


def semantic_loss(
    logits: torch.Tensor, labels: torch.Tensor, over: str = "labeled", class_loss: ClassLoss | None = None
) -> torch.Tensor:
    """Return the cross-entropy, averaged over pixels; 0 where no pixel counts.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W), classes or 255.
        over: Pixels to average over: those that are labeled, by the weights of their classes, or all, ignored ones with
            a loss of 0.
        class_loss: Has weights of the classes and gamma; None is plain cross-entropy.
    """
    total, amount = (class_loss or ClassLoss()).sums(logits, labels, IGNORED)
    return total / labels.numel() if over == "all" else mean_of(total, amount)
