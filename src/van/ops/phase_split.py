"""Dilated depth-wise convolution as undilated ones on the phases of the map.

A convolution with dilation d never mixes positions whose rows or columns differ modulo d. The d * d phases
x[:, :, i::d, j::d] are therefore convolved separately, stacked in the batch dimension, by an undilated kernel: the
products and sums are the same. oneDNN has fast kernels for undilated depth-wise convolutions only.
"""

from typing import Any

import torch
from torch.nn import functional as F

from van.ops import reference, undilated
from van.ops.reference import padding

# Measured with 2 threads: up to maps of 4 MiB one rearrangement with padding is faster than a copy per phase.
# Without gradients larger ones are processed in chunks of 2 MiB, which stay in the cache between the three steps.
_LARGE_BYTES = 4 * 2**20
_CHUNK_BYTES = 2 * 2**20


def _copy_phases(x: torch.Tensor, dilation: int) -> torch.Tensor:
    """Split by one copy per phase: no padded copy in between."""
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
    """Merge into maps (B, H, W, C) by one copy per phase, without the padding."""
    _, channels, rows, columns = phases.shape
    source = phases.permute(0, 2, 3, 1).reshape(dilation, dilation, -1, rows, columns, channels)
    for i in range(dilation):
        for j in range(dilation):
            target = out[:, i::dilation, j::dilation]
            target.copy_(source[i, j, :, : target.shape[1], : target.shape[2]])


def _is_large(x: torch.Tensor) -> bool:
    return not torch.compiler.is_compiling() and x.numel() * x.element_size() >= _LARGE_BYTES


class _Split(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, dilation: int) -> torch.Tensor:
        return _copy_phases(x, dilation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x, ctx.dilation = inputs
        ctx.size = x.shape[-2:]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Merge.apply(gradients[0], ctx.dilation, *ctx.size), None

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor) -> torch.Tensor:
        return _Split.apply(tangents[0], ctx.dilation)


class _Merge(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(phases: torch.Tensor, dilation: int, height: int, width: int) -> torch.Tensor:
        out = phases.new_empty(len(phases) // dilation**2, height, width, phases.shape[1])
        _copy_map(phases, dilation, out)
        return out.permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.options = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _Split.apply(gradients[0], ctx.options[0]), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor) -> torch.Tensor:
        return _Merge.apply(tangents[0], *ctx.options)


def split(x: torch.Tensor, dilation: int) -> torch.Tensor:
    """Map (B, C, H, W) to its phases (d*d*B, C, ceil(H/d), ceil(W/d)), zero-padded at the end, channels last."""
    if _is_large(x):
        return _Split.apply(x, dilation)
    batch, channels, height, width = x.shape
    x = F.pad(x, (0, -width % dilation, 0, -height % dilation)).permute(0, 2, 3, 1)
    x = x.reshape(batch, x.shape[1] // dilation, dilation, x.shape[2] // dilation, dilation, channels)
    x = x.permute(2, 4, 0, 1, 3, 5)
    return x.reshape(dilation * dilation * batch, x.shape[3], x.shape[4], channels).permute(0, 3, 1, 2)


def merge(phases: torch.Tensor, dilation: int, height: int, width: int) -> torch.Tensor:
    """Invert split: map (d*d*B, C, h, w) to (B, C, height, width)."""
    if _is_large(phases):
        return _Merge.apply(phases, dilation, height, width)
    _, channels, rows, columns = phases.shape
    x = phases.permute(0, 2, 3, 1).reshape(dilation, dilation, -1, rows, columns, channels)
    x = x.permute(2, 3, 0, 4, 1, 5).reshape(-1, rows * dilation, columns * dilation, channels)
    return x[:, :height, :width].permute(0, 3, 1, 2)


def _in_chunks(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int) -> torch.Tensor:
    """Convolve a large batch a few maps at a time, writing each chunk straight into the result."""
    batch, channels, height, width = x.shape
    count = max(1, _CHUNK_BYTES * batch // (x.numel() * x.element_size()))
    out = x.new_empty(batch, height, width, channels)
    for first in range(0, batch, count):
        phases = undilated.conv2d(_copy_phases(x[first : first + count], dilation), weight, bias)
        _copy_map(phases, dilation, out[first : first + count])
    return out.permute(0, 3, 1, 2)


def depthwise_conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int) -> torch.Tensor:
    """Convolve each channel separately; see van.ops.depthwise_conv2d."""
    centred = weight.shape[-1] % 2 == 1
    if dilation == 1:
        return undilated.conv2d(x, weight, bias) if centred else reference.conv2d(x, weight, bias, 1)
    height, width = x.shape[-2:]
    if centred:
        only_result = not (undilated.wants_gradient(x, weight, bias) or torch.is_autocast_enabled(x.device.type))
        if only_result and _is_large(x):
            return _in_chunks(x, weight, bias, dilation)
        phases = undilated.conv2d(split(x, dilation), weight, bias)
    else:  # the kernel's centre lies between phases: pad the map itself
        before, after = padding(weight.shape[-1], dilation)
        padded = F.pad(x, (before, after, before, after))
        phases = F.conv2d(split(padded, dilation), weight, bias, groups=weight.shape[0])
    return merge(phases, dilation, height, width)


def why_not(x: torch.Tensor, weight: torch.Tensor, dilation: int) -> str | None:
    """Return None: every convolution has phases, an undilated one just one."""
    return None
