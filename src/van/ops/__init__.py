"""Depth-wise convolution, the slow part of large kernel attention, by the fastest exact method on each device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch.nn import functional as F

from van.ops import phase_split, reference, triton_dwconv

__all__ = ["Backend", "depthwise_conv2d", "use_backend", "why_not"]

Backend = Literal["auto", "torch", "phase", "triton"]
_Convolution = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, int], torch.Tensor]

_BACKENDS: dict[str, _Convolution] = {
    "torch": reference.conv2d,
    "phase": phase_split.depthwise_conv2d,
    "triton": triton_dwconv.depthwise_conv2d,
}
_WHY_NOT = {"torch": reference.why_not, "phase": phase_split.why_not, "triton": triton_dwconv.why_not}
_forced: Backend = "auto"


def why_not(backend: Backend, x: torch.Tensor, weight: torch.Tensor, dilation: int = 1) -> str | None:
    """Return why a backend cannot convolve these tensors, or None if it can.

    Args:
        backend: "torch", "phase" or "triton"; "auto" always can.
        x: Maps (B, C, H, W).
        weight: Kernels (C, 1, k, k).
        dilation: Distance between neighbouring weights.

    Raises:
        ValueError: there is no such backend.
    """
    _check(backend)
    return None if backend == "auto" else _WHY_NOT[backend](x, weight, dilation)


@contextmanager
def use_backend(backend: Backend) -> Iterator[None]:
    """Compute every depth-wise convolution inside the block with one backend, unless the call itself names one.

    Args:
        backend: "auto", "torch", "phase" or "triton". A convolution that it cannot run falls back to torch.

    Raises:
        ValueError: there is no such backend.
    """
    global _forced
    _check(backend)
    before, _forced = _forced, backend
    try:
        yield
    finally:
        _forced = before


def depthwise_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    dilation: int = 1,
    backend: Backend = "auto",
) -> torch.Tensor:
    """Convolve each channel with its own kernel; height and width stay.

    Weights that lie at least the longer side of the map away from the kernel's centre meet nothing but the zeros around
    the map. They are left out, whatever the backend, and their gradient is 0.

    Every backend works under autocast, torch.compile, gradient checkpointing and DDP. With "auto", "torch" and "phase"
    so do the transforms of torch.func (vmap, grad, vjp, jacrev, jvp, jacfwd, hessian) and forward-mode derivatives;
    "triton" has first derivatives in reverse mode only.

    Args:
        x: Maps (B, C, H, W).
        weight: Kernels (C, 1, k, k), k odd or even.
        bias: One value per channel (C,), or None.
        dilation: Distance between neighbouring weights.
        backend: "torch", "phase" (phase split), "triton" (CUDA kernels), or "auto": the phase split on the CPU, which
            was measured to be faster at every map size of the network, else torch. It never picks "triton", which has
            not been run on a GPU yet. While a model is exported or traced (torch.export, torch.jit.trace), and on the
            meta device, it is always one plain convolution with the whole kernel.

    Returns:
        Maps (B, C, H, W).

    Raises:
        ValueError: there is no such backend, or it cannot run this convolution; the message says why.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing() or x.device.type == "meta":
        return reference.conv2d(x, weight, bias, dilation)  # on the meta device all that it costs is counted
    chosen = backend
    if backend == "auto":
        chosen = _forced if _forced != "auto" else ("phase" if x.device.type == "cpu" else "torch")
        if _WHY_NOT[chosen](x, weight, dilation):
            chosen = "torch"
    elif reason := why_not(backend, x, weight, dilation):
        raise ValueError(f"The backend {backend!r} cannot run this convolution: {reason}.")
    weight = _crop(weight, max(x.shape[-2:]), dilation)
    if weight.shape[-1] == 1:
        return _scale(x, weight, bias)
    return _BACKENDS[chosen](x, weight, bias, dilation)


def _crop(weight: torch.Tensor, side: int, dilation: int) -> torch.Tensor:
    """Leave out the outer weights of a kernel that lie beyond every map of this side."""
    outer, size = 0, weight.shape[-1]
    while size > 2 and reference.padding(size, dilation)[0] >= side:  # a formula would give torch.compile a variable
        outer, size = outer + 1, size - 2
    return F.pad(weight, (-outer,) * 4) if outer else weight


def _scale(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Convolve with kernels of one weight."""
    x, weight = x.to(reference.autocast_dtype(x)), weight.to(reference.autocast_dtype(weight))
    scaled = x * weight.view(-1, 1, 1)
    return scaled if bias is None else scaled + bias.to(scaled.dtype).view(-1, 1, 1)


def _check(backend: str) -> None:
    if backend not in get_args(Backend):
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(get_args(Backend))}.")
