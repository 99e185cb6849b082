"""Undilated depth-wise convolution on the CPU with gradients that oneDNN has fast kernels for.

oneDNN's fast kernel for the weight gradient takes kernels up to three wide, and its kernel for the input gradient is
slower than the forward one in bfloat16. Both gradients are therefore put as what is fast: the weight gradient piece by
piece, three columns of the kernel at a time, and the input gradient as a convolution with the flipped kernel. The sums
are the same ones in another order.
"""

from typing import Any

import torch
from torch.nn import functional as F

_WIDTH = 3  # widest kernel of oneDNN's fast weight gradient
_FEW_ROWS = 8  # maps with fewer rows are stacked: the kernel works through one map at a time


def _stack(maps: torch.Tensor, count: int, gap: int) -> torch.Tensor:
    """Put count maps of the batch one above the other, gap rows of zeros behind each; channels last in memory."""
    batch, channels, _, width = maps.shape
    rows = F.pad(maps, (0, 0, 0, gap)).permute(0, 2, 3, 1)
    return rows.reshape(batch // count, -1, width, channels).permute(0, 3, 1, 2)


def weight_gradient(x: torch.Tensor, gradient: torch.Tensor, kernel_size: int, stack: int = 1) -> torch.Tensor:
    """Return the gradient (C, 1, k, k) of the kernels of a size-preserving convolution.

    Args:
        x: Input (B, C, H, W).
        gradient: Gradient of the output (B, C, H, W).
        kernel_size: k, odd.
        stack: How many neighbours in the batch may be handled as one map; divides B.
    """
    before = kernel_size // 2
    if stack > 1 and x.shape[2] < _FEW_ROWS:
        x, gradient = _stack(x, stack, before), _stack(gradient, stack, before)
    channels, width = x.shape[1], gradient.shape[3]
    padded = F.pad(x, (before, before, 0, 0))
    pieces = []
    for left in range(0, kernel_size, _WIDTH):
        columns = min(_WIDTH, kernel_size - left)
        window = padded[..., left : left + width + columns - 1]
        _, piece, _ = torch.ops.aten.convolution_backward(
            gradient,
            window.contiguous(memory_format=torch.channels_last),
            x.new_empty(channels, 1, kernel_size, columns),
            None,
            [1, 1],
            [before, 0],
            [1, 1],
            False,
            [0, 0],
            channels,
            [False, True, False],
        )
        pieces.append(piece)
    return torch.cat(pieces, dim=-1)


class _Undilated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stack: int) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stack = stack
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        kernel_size = weight.shape[-1]
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = F.conv2d(gradient, weight.flip(2, 3), padding=kernel_size // 2, groups=weight.shape[0])
        if ctx.needs_input_grad[1]:
            for_weight = weight_gradient(x, gradient, kernel_size, ctx.stack).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            for_bias = gradient.sum((0, 2, 3))
        return for_x, for_weight, for_bias, None


def wants_gradient(*inputs: torch.Tensor | None) -> bool:
    """Whether a gradient of one of the inputs may be asked for."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)


def conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stack: int = 1) -> torch.Tensor:
    """Convolve each channel of (B, C, H, W) with its kernel (C, 1, k, k), k odd; height and width stay.

    Args:
        x: Maps.
        weight: Kernels.
        bias: One number per channel, or None.
        stack: As in weight_gradient.
    """
    has_slow_gradient = x.device.type == "cpu" and weight.shape[-1] > _WIDTH
    if not (has_slow_gradient and wants_gradient(x, weight, bias)) or x.shape[0] == 0:
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    if torch.is_autocast_enabled("cpu"):  # what conv2d itself would do, which a function of ours is not asked for
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return _Undilated.apply(x, weight, bias, stack)
