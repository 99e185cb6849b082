"""Dilated depth-wise convolution as undilated ones on the phases of the map.

A convolution with dilation d never mixes positions whose rows or columns differ modulo d. The d * d phases
x[:, :, i::d, j::d] are therefore convolved by themselves, stacked in the batch dimension, by an undilated kernel: the
same products and sums. oneDNN has fast kernels for undilated depth-wise convolutions only.
"""

from typing import Any

import torch
from torch.nn import functional as F

from van.ops import reference, undilated
from van.ops.reference import padding

# Measured with 2 threads: one rearrangement with its padding is faster than a copy per phase up to maps of 4 MiB.
# Larger ones are taken in parts of 2 MiB where no gradient is wanted: these stay in the cache between the three steps.
_LARGE_BYTES = 4 * 2**20
_PART_BYTES = 2 * 2**20


def _copy_phases(x: torch.Tensor, dilation: int) -> torch.Tensor:
    """Split by one copy per phase: nothing is padded first and copied again."""
    batch, channels, height, width = x.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    phases = x.new_empty(dilation, dilation, batch, rows, columns, channels)
    source = x.permute(0, 2, 3, 1)
    for i in range(dilation):
        for j in range(dilation):
            phase, target = source[:, i::dilation, j::dilation], phases[i, j]
            target[:, : phase.shape[1], : phase.shape[2]].copy_(phase)
            target[:, phase.shape[1] :].zero_()
            target[:, :, phase.shape[2] :].zero_()
    return phases.view(-1, rows, columns, channels).permute(0, 3, 1, 2)


def _copy_map(phases: torch.Tensor, dilation: int, out: torch.Tensor) -> None:
    """Merge into maps (B, H, W, C) by one copy per phase: what was padded is never copied."""
    _, channels, rows, columns = phases.shape
    source = phases.permute(0, 2, 3, 1).reshape(dilation, dilation, -1, rows, columns, channels)
    for i in range(dilation):
        for j in range(dilation):
            target = out[:, i::dilation, j::dilation]
            target.copy_(source[i, j, :, : target.shape[1], : target.shape[2]])


def _is_large(x: torch.Tensor) -> bool:
    return not torch.compiler.is_compiling() and x.numel() * x.element_size() >= _LARGE_BYTES


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dilation: int) -> torch.Tensor:
        ctx.options = dilation, *x.shape[-2:]
        return _copy_phases(x, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Merge.apply(gradients[0], *ctx.options), None


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, phases: torch.Tensor, dilation: int, height: int, width: int) -> torch.Tensor:
        ctx.dilation = dilation
        out = phases.new_empty(len(phases) // dilation**2, height, width, phases.shape[1])
        _copy_map(phases, dilation, out)
        return out.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _Split.apply(gradients[0], ctx.dilation), None, None, None


def split(x: torch.Tensor, dilation: int) -> torch.Tensor:
    """Map (B, C, H, W) to its phases (d*d*B, C, ceil(H/d), ceil(W/d)), zeros behind, channels last in memory."""
    if _is_large(x):
        return _Split.apply(x, dilation)
    batch, channels, height, width = x.shape
    x = F.pad(x, (0, -width % dilation, 0, -height % dilation)).permute(0, 2, 3, 1)
    x = x.reshape(batch, x.shape[1] // dilation, dilation, x.shape[2] // dilation, dilation, channels)
    x = x.permute(2, 4, 0, 1, 3, 5)
    return x.reshape(dilation * dilation * batch, x.shape[3], x.shape[4], channels).permute(0, 3, 1, 2)


def merge(phases: torch.Tensor, dilation: int, height: int, width: int) -> torch.Tensor:
    """Undo split: map (d*d*B, C, h, w) to (B, C, height, width)."""
    if _is_large(phases):
        return _Merge.apply(phases, dilation, height, width)
    _, channels, rows, columns = phases.shape
    x = phases.permute(0, 2, 3, 1).reshape(dilation, dilation, -1, rows, columns, channels)
    x = x.permute(2, 3, 0, 4, 1, 5).reshape(-1, rows * dilation, columns * dilation, channels)
    return x[:, :height, :width].permute(0, 3, 1, 2)


def _in_parts(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int) -> torch.Tensor:
    """Convolve a large batch a few maps at a time, each part straight into its place of the result."""
    batch, channels, height, width = x.shape
    count = max(1, _PART_BYTES * batch // (x.numel() * x.element_size()))
    out = x.new_empty(batch, height, width, channels)
    for first in range(0, batch, count):
        phases = undilated.conv2d(_copy_phases(x[first : first + count], dilation), weight, bias)
        _copy_map(phases, dilation, out[first : first + count])
    return out.permute(0, 3, 1, 2)


def depthwise_conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int) -> torch.Tensor:
    """Convolve each channel by itself; see van.ops.depthwise_conv2d."""
    centred = weight.shape[-1] % 2 == 1
    if dilation == 1:
        return undilated.conv2d(x, weight, bias) if centred else reference.depthwise_conv2d(x, weight, bias, 1)
    height, width = x.shape[-2:]
    if centred:
        only_result = not (undilated.wants_gradient(x, weight, bias) or torch.is_autocast_enabled(x.device.type))
        if only_result and _is_large(x):
            return _in_parts(x, weight, bias, dilation)
        phases = undilated.conv2d(split(x, dilation), weight, bias, stack=dilation * dilation)
    else:  # the kernel's centre lies between phases: pad the map itself
        before, behind = padding(weight.shape[-1], dilation)
        padded = F.pad(x, (before, behind, before, behind))
        phases = F.conv2d(split(padded, dilation), weight, bias, groups=weight.shape[0])
    return merge(phases, dilation, height, width)


def why_not(x: torch.Tensor, weight: torch.Tensor, dilation: int) -> str | None:
    """Return None: every convolution has phases, an undilated one a single one."""
    return None
