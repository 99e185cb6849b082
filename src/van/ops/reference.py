"""Depth-wise convolution as torch computes it: the specification of every other backend."""

import torch
from torch.nn import functional as F


def padding(kernel_size: int, dilation: int) -> tuple[int, int]:
    """Return the zeros before and behind a row that keep its length; an even kernel may need one more behind."""
    total = dilation * (kernel_size - 1)
    return total // 2, total - total // 2


def depthwise_conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int) -> torch.Tensor:
    """Convolve each channel by itself; see van.ops.depthwise_conv2d."""
    before, behind = padding(weight.shape[-1], dilation)
    if before != behind:
        x = F.pad(x, (0, behind - before, 0, behind - before))
    return F.conv2d(x, weight, bias, padding=before, dilation=dilation, groups=weight.shape[0])


def why_not(x: torch.Tensor, weight: torch.Tensor, dilation: int) -> str | None:
    """Return None: torch can always compute it."""
    return None
