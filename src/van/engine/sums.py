"""What evaluators of several tasks add up over images and processes."""

from typing import Any

import torch
from torchmetrics import Metric


class Sums(Metric):
    """Sums over images, in double precision; those of all processes once they are computed.

    Args:
        *shape: Shape of the sums.

    Attributes:
        sums: The sums.
    """

    full_state_update = False
    sums: torch.Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def _apply(self, fn: Any, exclude_state: Any = ()) -> Any:
        """Follow the network to its device, except to Apple's, which has no double precision."""
        here = fn(torch.zeros(())).device.type != "mps"
        return super()._apply(fn, exclude_state if here else [*exclude_state, "sums"])
