"""Depth-wise convolution by Triton kernels: forward, input gradient, weight and bias gradient, for CUDA.

One kernel convolves (and, with the kernel rotated by 180 degrees, gives the input gradient), another computes partial
sums of the weight gradient, which are added in a fixed order: results are reproducible.

The kernels were checked in Triton's interpreter and compile for GPUs, but have never run on one: their speed is
unmeasured. benchmarks/tune_triton.py checks and measures them there.

The operators have no second derivative (torch raises an error that says so) and no rule for torch.func.vmap, which
processes one map after the other and warns.
"""

import importlib.util
import os
from typing import Any, Literal, NamedTuple

import torch

from van.ops.reference import autocast_dtype, padding

Job = Literal["convolve", "weight_gradient"]


class Tiles(NamedTuple):
    """How the work is split into programs: pixels and channels of a tile, warps, and tiles that one program sums."""

    pixels: int
    channels: int
    warps: int
    steps: int = 1


# By job, kernel size (the next larger one listed) and whether maps are wider than 16. UNTUNED: reasoned, not measured.
# A thread holds 32 sums in "convolve" (64 spill when compiled for compute capability 9.0) and 64 in "weight_gradient",
# where the taps of a row lie side by side; 32 channels are 64 bytes of bf16, two sectors; large kernels on wide maps
# want many pixels, to read their margin less often; a weight gradient's steps pay for adding up across threads, but
# small maps leave fewer pixels to share out.
TILES: dict[tuple[Job, int, bool], Tiles] = {
    ("convolve", 3, False): Tiles(64, 64, 4),
    ("convolve", 3, True): Tiles(64, 64, 4),
    ("convolve", 5, False): Tiles(128, 32, 4),
    ("convolve", 5, True): Tiles(128, 32, 4),
    ("convolve", 7, False): Tiles(128, 32, 4),
    ("convolve", 7, True): Tiles(256, 32, 8),
    ("weight_gradient", 3, False): Tiles(32, 64, 4, 8),
    ("weight_gradient", 3, True): Tiles(32, 64, 4, 32),
    ("weight_gradient", 5, False): Tiles(32, 32, 4, 8),
    ("weight_gradient", 5, True): Tiles(32, 32, 4, 32),
    ("weight_gradient", 7, False): Tiles(32, 32, 4, 8),
    ("weight_gradient", 7, True): Tiles(32, 32, 4, 32),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_INSTALLED = importlib.util.find_spec("triton") is not None  # finds it without importing it
# Triton itself reads the variable once, when its kernels are defined.
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def choose_tiles(job: Job, kernel: int, width: int) -> Tiles:
    """Return the tiles for a kernel size and a width of map."""
    return TILES[job, 3 if kernel <= 3 else 5 if kernel <= 5 else 7, width > 16]


def why_not(x: torch.Tensor, weight: torch.Tensor, dilation: int) -> str | None:
    """Return why the kernels cannot convolve these tensors, or None."""
    if not _INSTALLED:
        return "triton is not installed (pip install triton; it exists for Linux only)"
    if x.device.type != "cuda" and not (_INTERPRETED and x.device.type == "cpu"):
        return f"x is on {x.device.type}, expected a CUDA tensor (or TRITON_INTERPRET=1, set before van is imported)"
    if weight.device != x.device:
        return f"x is on {x.device} and weight on {weight.device}, expected one device"
    x_dtype, weight_dtype = autocast_dtype(x), autocast_dtype(weight)
    if x_dtype not in DTYPES:
        return f"x is {x_dtype}, expected float32, bfloat16 or float16"
    if x_dtype != weight_dtype:
        return f"x is {x_dtype} and weight {weight_dtype}, expected one type"
    if x.ndim != 4:
        return f"x has {x.ndim} dimensions, expected (B, C, H, W)"
    if weight.ndim != 4 or weight.shape[:2] != (x.shape[1], 1) or weight.shape[2] != weight.shape[3]:
        return f"weight is {tuple(weight.shape)}, expected ({x.shape[1]}, 1, k, k)"
    if dilation < 1:
        return f"dilation is {dilation}, expected at least 1"
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    if pixels >= 2**31:
        return f"x has {pixels} pixels, expected less than 2**31"
    return None


def depthwise_conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int) -> torch.Tensor:
    """Convolve each channel by itself; see van.ops.depthwise_conv2d."""
    x, weight = x.to(autocast_dtype(x)), weight.to(autocast_dtype(weight))
    if bias is not None:
        bias = bias.to(autocast_dtype(bias))
        if bias.shape != weight.shape[:1] or bias.dtype != x.dtype:  # a wrong size would be read past its end
            raise ValueError(
                f"bias is {tuple(bias.shape)} in {bias.dtype}, expected ({weight.shape[0]},) in {x.dtype}, as x is."
            )
    return _forward(x, weight, bias, dilation)


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    dilation: int,
    flip: bool = False,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """Launch the convolution; flip rotates the kernel by 180 degrees. tiles=None takes those of the table.

    Nothing is checked here: see why_not.
    """
    from van.ops import triton_kernels as kernels

    out = torch.empty_like(x)
    if not x.numel():
        return out
    batch, channels, height, width = x.shape
    kernel = weight.shape[-1]
    tiles = _fit(tiles or choose_tiles("convolve", kernel, width), channels)
    before, after = padding(kernel, dilation)
    pixels = batch * height * width
    launch: Any = kernels.convolve[_cdiv(pixels, tiles.pixels), _cdiv(channels, tiles.channels)]
    with torch.cuda.device_of(x):  # triton launches on the current device; nothing happens on the CPU
        launch(
            x,
            weight.reshape(channels, kernel * kernel).t().float().contiguous(),
            bias,
            out,
            pixels,
            channels,
            height,
            width,
            *x.stride(),
            *out.stride(),
            KERNEL=kernel,
            DILATION=dilation,
            BEFORE=after if flip else before,
            FLIP=flip,
            HAS_BIAS=bias is not None,
            BLOCK_P=tiles.pixels,
            BLOCK_C=tiles.channels,
            num_warps=tiles.warps,
            enable_fp_fusion=True,  # one rounding a product and sum; triton warns where it is left to the default
        )
    return out


def weight_gradient(
    gradient: torch.Tensor, x: torch.Tensor, kernel: int, dilation: int, tiles: Tiles | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Launch the gradients of the weights (C, 1, k, k) and the bias (C,). tiles=None takes those of the table.

    Nothing is checked here: see why_not.
    """
    from van.ops import triton_kernels as kernels

    batch, channels, height, width = x.shape
    tiles = _fit(tiles or choose_tiles("weight_gradient", kernel, width), channels)
    pixels = batch * height * width
    programs = _cdiv(pixels, tiles.pixels * tiles.steps)
    taps = _power_of_two(kernel + 1)  # a row of weights and the bias
    shares = torch.empty(programs, kernel, taps, channels, dtype=torch.float32, device=x.device)
    if x.numel():
        launch: Any = kernels.weight_gradient[programs, _cdiv(channels, tiles.channels), kernel]
        with torch.cuda.device_of(x):
            launch(
                x,
                gradient,
                shares,
                pixels,
                channels,
                height,
                width,
                tiles.steps,
                *x.stride(),
                *gradient.stride(),
                KERNEL=kernel,
                TAPS=taps,
                DILATION=dilation,
                BEFORE=padding(kernel, dilation)[0],
                BLOCK_P=tiles.pixels,
                BLOCK_C=tiles.channels,
                num_warps=tiles.warps,
                enable_fp_fusion=True,
            )
    total = shares[:, :, : kernel + 1].sum(0)
    by_weight = torch.empty(channels, 1, kernel, kernel, dtype=x.dtype, device=x.device)
    by_weight[:, 0].copy_(total[:, :kernel].permute(2, 0, 1))
    return by_weight, total[0, kernel].to(x.dtype, copy=True)


@torch.library.custom_op("van::depthwise_conv2d", mutates_args=())
def _forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int) -> torch.Tensor:
    return convolve(x, weight, bias, dilation)


@torch.library.custom_op("van::depthwise_conv2d_input_gradient", mutates_args=())
def _input_gradient(gradient: torch.Tensor, weight: torch.Tensor, dilation: int) -> torch.Tensor:
    return convolve(gradient, weight, None, dilation, flip=True)


@torch.library.custom_op("van::depthwise_conv2d_weight_gradient", mutates_args=())
def _weight_gradient(
    gradient: torch.Tensor, x: torch.Tensor, kernel: int, dilation: int
) -> tuple[torch.Tensor, torch.Tensor]:
    return weight_gradient(gradient, x, kernel, dilation)


@_forward.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int) -> torch.Tensor:
    return torch.empty_like(x)


@_input_gradient.register_fake
def _(gradient: torch.Tensor, weight: torch.Tensor, dilation: int) -> torch.Tensor:
    return torch.empty_like(gradient)


@_weight_gradient.register_fake
def _(gradient: torch.Tensor, x: torch.Tensor, kernel: int, dilation: int) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape[1], 1, kernel, kernel), x.new_empty(x.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, _, ctx.dilation = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
    by_x = by_weight = by_bias = None
    if needs_x:
        by_x = _input_gradient(gradient, weight, ctx.dilation)
    if needs_weight or needs_bias:
        by_weight, by_bias = _weight_gradient(gradient, x, weight.shape[-1], ctx.dilation)
    return by_x, by_weight, by_bias if needs_bias else None, None


_forward.register_autograd(_backward, setup_context=_keep)


def _fit(tiles: Tiles, channels: int) -> Tiles:
    """Limit the channels of a tile to those that exist."""
    return tiles._replace(channels=min(tiles.channels, _power_of_two(channels)))


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)
