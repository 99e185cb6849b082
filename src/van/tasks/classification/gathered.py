"""Outputs and targets of all images, for metrics that need them together."""

import torch
from torchmetrics import Metric as State
from torchmetrics.utilities import dim_zero_cat


class Gathered(State):
    """Keeps what is found on images beside the truth; over all processes once a metric is computed.

    Args:
        columns: Numbers of each image.
    """

    full_state_update = False
    found: list[torch.Tensor]
    truth: list[torch.Tensor]

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        # flat: a process without any images has nothing of the right shape to gather
        self.add_state("found", [], dist_reduce_fx="cat")
        self.add_state("truth", [], dist_reduce_fx="cat")

    def update(self, found: torch.Tensor, truth: torch.Tensor) -> None:
        """Keep what was found on images, (B, columns), and the truth, (B, columns)."""
        self.found.append(found.float().flatten())
        self.truth.append(truth.float().flatten())

    def arrays(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what was found and the truth of all images, (N, columns) each, on the CPU."""
        found, truth = (
            dim_zero_cat(part).view(-1, self.columns).cpu() if len(part) else torch.zeros(0, self.columns)
            for part in (self.found, self.truth)
        )
        return found, truth
