"""Undilated depth-wise convolution on the CPU with gradients that oneDNN has fast kernels for.

oneDNN's fast kernel for the weight gradient handles kernels up to three wide, on maps with at least as many rows as the
kernel, and its kernel for the input gradient is slower than the forward one in bfloat16. Both gradients are therefore
expressed by fast operations: the weight gradient in pieces of three columns of the kernel, on maps filled up with rows
of zeros, and the input gradient as a convolution with the flipped kernel. Only the order of summation differs.
"""

from typing import Any

import torch
from torch.nn import functional as F

from van.ops import reference

_WIDTH = 3  # widest kernel of oneDNN's fast weight gradient


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Return maps (B, C, H, W) that are channels last in memory.

    Tensor.contiguous says it in one node of an exported graph, but does not work inside torch.func.vmap.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return x.contiguous(memory_format=torch.channels_last)
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def weight_gradient(x: torch.Tensor, gradient: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Return the gradient (C, 1, k, k) of the kernels of a size-preserving convolution.

    Args:
        x: Input (B, C, H, W).
        gradient: Gradient of the output (B, C, H, W).
        kernel_size: k, odd.
    """
    before = kernel_size // 2
    channels, height, width = gradient.shape[1:]
    missing = kernel_size - height if kernel_size > height else 0
    padded = F.pad(x, (before, before, 0, missing))
    gradient = F.pad(gradient, (0, 0, 0, missing)) if missing else gradient
    pieces = []
    for left in range(0, kernel_size, _WIDTH):
        columns = min(_WIDTH, kernel_size - left)
        window = padded[..., left : left + width + columns - 1]
        _, piece, _ = torch.ops.aten.convolution_backward(
            gradient,
            channels_last(window),
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
    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = channels_last(gradients[0])
        kernel_size = weight.shape[-1]
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = F.conv2d(gradient, weight.flip(2, 3), padding=kernel_size // 2, groups=weight.shape[0])
        if ctx.needs_input_grad[1]:
            for_weight = weight_gradient(x, gradient, kernel_size).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            for_bias = gradient.sum((0, 2, 3))
        return for_x, for_weight, for_bias


class _UndilatedInEager(_Undilated):
    """Has forward-mode derivatives as well, which torch.compile refuses to trace."""

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> torch.Tensor:
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = tangents
        out = torch.zeros_like(x)
        if by_x is not None:
            out = out + reference.conv2d(by_x, weight, None, 1)
        if by_weight is not None:
            out = out + reference.conv2d(x, by_weight, None, 1)
        return out if by_bias is None else out + by_bias.view(-1, 1, 1)


def wants_gradient(*inputs: torch.Tensor | None) -> bool:
    """Return whether a gradient of one of the inputs may be needed."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)


def conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Convolve each channel of (B, C, H, W) with its kernel (C, 1, k, k), k odd; height and width stay.

    Args:
        x: Maps.
        weight: Kernels.
        bias: One value per channel, or None.
    """
    kernel_size = weight.shape[-1]
    has_slow_gradient = x.device.type == "cpu" and (kernel_size > _WIDTH or kernel_size > x.shape[-2])
    if not (has_slow_gradient and wants_gradient(x, weight, bias)) or x.shape[0] == 0:
        return F.conv2d(x, weight, bias, padding=kernel_size // 2, groups=weight.shape[0])
    # autocast knows conv2d, but not a function of ours
    x, weight = x.to(reference.autocast_dtype(x)), weight.to(reference.autocast_dtype(weight))
    bias = None if bias is None else bias.to(reference.autocast_dtype(bias))
    function = _Undilated if torch.compiler.is_compiling() else _UndilatedInEager
    return function.apply(x, weight, bias)
