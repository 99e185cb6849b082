"""Dilated depth-wise convolution as undilated ones on the phases of the map.

A convolution with dilation d never mixes positions whose rows or columns differ modulo d. The d * d phases
x[:, :, i::d, j::d] are therefore convolved by themselves, stacked in the batch dimension, by an undilated kernel: the
same products and sums. oneDNN has fast kernels for undilated depth-wise convolutions only.
"""

import torch
from torch.nn import functional as F

from van.ops import reference, undilated
from van.ops.reference import padding


def split(x: torch.Tensor, dilation: int) -> torch.Tensor:
    """Map (B, C, H, W) to its phases (d*d*B, C, ceil(H/d), ceil(W/d)), zeros behind, channels last in memory."""
    batch, channels, height, width = x.shape
    rows, columns = -height % dilation, -width % dilation
    if torch.compiler.is_compiling() or rows or columns:  # no branch on sizes while compiling: it would be a guard
        x = F.pad(x, (0, columns, 0, rows))
    x = x.permute(0, 2, 3, 1)
    x = x.reshape(batch, x.shape[1] // dilation, dilation, x.shape[2] // dilation, dilation, channels)
    x = x.permute(2, 4, 0, 1, 3, 5)
    return x.reshape(dilation * dilation * batch, x.shape[3], x.shape[4], channels).permute(0, 3, 1, 2)


def merge(phases: torch.Tensor, dilation: int, height: int, width: int) -> torch.Tensor:
    """Undo split: map (d*d*B, C, h, w) to (B, C, height, width)."""
    _, channels, rows, columns = phases.shape
    x = phases.permute(0, 2, 3, 1).reshape(dilation, dilation, -1, rows, columns, channels)
    x = x.permute(2, 3, 0, 4, 1, 5).reshape(-1, rows * dilation, columns * dilation, channels)
    return x[:, :height, :width].permute(0, 3, 1, 2)


def depthwise_conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int) -> torch.Tensor:
    """Convolve each channel by itself; see van.ops.depthwise_conv2d."""
    centred = weight.shape[-1] % 2 == 1
    if dilation == 1:
        return undilated.conv2d(x, weight, bias) if centred else reference.depthwise_conv2d(x, weight, bias, 1)
    height, width = x.shape[-2:]
    if centred:
        phases = undilated.conv2d(split(x, dilation), weight, bias, stack=dilation * dilation)
    else:  # the kernel's centre lies between phases: pad the map itself
        before, behind = padding(weight.shape[-1], dilation)
        padded = F.pad(x, (before, behind, before, behind))
        phases = F.conv2d(split(padded, dilation), weight, bias, groups=weight.shape[0])
    return merge(phases, dilation, height, width)


def why_not(x: torch.Tensor, weight: torch.Tensor, dilation: int) -> str | None:
    """Return None: every convolution has phases, an undilated one a single one."""
    return None
