"""Count what a network costs: parameters and multiply-accumulates."""

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Complexity(NamedTuple):
    """Size of a network for one image."""

    params: int
    macs: int


def complexity(model: nn.Module, input_size: tuple[int, int, int]) -> Complexity:
    """Count parameters, and multiply-accumulates of one image.

    Convolutions, linear layers and matrix products count, biases and element-wise operations do not: the paper's
    "FLOPs" (Eq. 4). The model is moved to the meta device: give one that is not needed any more, best built there.

    Args:
        model: Any network that maps (1, C, H, W).
        input_size: (C, H, W).
    """
    model = model.to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, *input_size, device="meta"))
    return Complexity(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)
