"""Cross-entropy over classes with weights of classes and focusing, for every network that chooses among classes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


def mean_of(total: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """Return a sum of losses divided by the sum of the weights of their targets; 0 where nothing counts."""
    return total / amount.where(amount > 0, 1)


class ClassLoss(nn.Module):
    """Cross-entropy, -sum w t (1 - p)^gamma log p over the classes, averaged by the weights of the targets.

    Without smoothing and gamma, hard targets give what torch's cross_entropy with weights gives. gamma is that of the
    focal loss (Lin et al., 2017, arXiv 1708.02002).

    Args:
        background: Whether the first class stands for nothing, and keeps weight 1.

    Attributes:
        weights: Weight of each class, (K,); None weighs all alike. No part of the state dict.
        gamma: How much less classes count that are predicted well already; 0 is plain cross-entropy.
    """

    weights: torch.Tensor | None

    def __init__(self, background: bool = False) -> None:
        super().__init__()
        self.background = background
        self.gamma = 0.0
        self.register_buffer("weights", None, persistent=False)

    def use(self, weights: Sequence[float] | None, gamma: float) -> None:
        """Take weights of the classes (without background), and gamma."""
        self.gamma = gamma
        if weights is not None:
            self.weights = torch.tensor([1.0] * self.background + list(weights))

    def sums(
        self, logits: torch.Tensor, targets: torch.Tensor, ignored: int = -100, smoothing: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the losses, and the sum of the weights of the targets, by which a mean divides it.

        Args:
            logits: (B, K, ...).
            targets: Labels (B, ...), or probabilities (B, K, ...).
            ignored: Label that does not count.
            smoothing: Share of the targets that is spread over all classes.
        """
        hard = not targets.is_floating_point()
        counted = targets != ignored if hard else None
        if self.weights is None and not self.gamma:
            total = F.cross_entropy(logits, targets, ignore_index=ignored, reduction="sum", label_smoothing=smoothing)
            amount = counted.sum() if counted is not None else targets.sum()
            return total, amount
        log = F.log_softmax(logits, dim=1)
        places = targets.where(counted, 0).unsqueeze(1) if counted is not None else None
        if places is not None:
            target_weights = self._weights_at(places, log)
            target_weights = target_weights * counted.to(log)  # type: ignore[union-attr]
        else:
            target_weights = (targets * self._weights_like(log)).sum(1)
        if places is not None and not smoothing:
            own = log.gather(1, places)[:, 0]
            return -(target_weights * self._focus(own) * own).sum(), target_weights.sum()
        wanted = torch.zeros_like(log).scatter_(1, places, 1.0) if places is not None else targets
        wanted = (1 - smoothing) * wanted + smoothing / log.shape[1]
        losses = -(wanted * self._weights_like(log) * self._focus(log) * log).sum(1)
        return (losses if counted is None else losses * counted).sum(), target_weights.sum()

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """Return the mean loss of logits (B, K) and labels (B,) or probabilities (B, K)."""
        if self.weights is None and not self.gamma:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)
        total, amount = self.sums(logits, targets, smoothing=smoothing)
        return mean_of(total, amount)

    def _focus(self, log: torch.Tensor) -> torch.Tensor | float:
        """Return (1 - p)^gamma of log p; away from 0, where the slope of a power below 1 is infinite."""
        return (-torch.expm1(log)).clamp(min=torch.finfo(log.dtype).eps) ** self.gamma if self.gamma else 1.0

    def _weights_like(self, log: torch.Tensor) -> torch.Tensor:
        """Return the weights in the shape that multiplies (B, K, ...)."""
        weights = log.new_ones(log.shape[1]) if self.weights is None else self.weights.to(log)
        return weights.view(1, -1, *[1] * (log.ndim - 2))

    def _weights_at(self, places: torch.Tensor, log: torch.Tensor) -> torch.Tensor:
        """Return the weights (B, ...) of labels (B, 1, ...)."""
        return log.new_ones(places[:, 0].shape) if self.weights is None else self.weights.to(log)[places[:, 0]]
