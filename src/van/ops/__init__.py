"""Depth-wise convolution, the slow part of large kernel attention, by the fastest exact method on each device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

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
            not been run on a GPU yet. While a model is exported or traced (torch.export, torch.jit.trace) it is always
            one plain convolution.

    Returns:
        Maps (B, C, H, W).

    Raises:
        ValueError: there is no such backend, or it cannot run this convolution; the message says why.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return reference.conv2d(x, weight, bias, dilation)
    if backend != "auto":
        if reason := why_not(backend, x, weight, dilation):
            raise ValueError(f"The backend {backend!r} cannot run this convolution: {reason}.")
        return _BACKENDS[backend](x, weight, bias, dilation)
    chosen = _forced if _forced != "auto" else ("phase" if x.device.type == "cpu" else "torch")
    if _WHY_NOT[chosen](x, weight, dilation):
        chosen = "torch"
    return _BACKENDS[chosen](x, weight, bias, dilation)


def _check(backend: str) -> None:
    if backend not in get_args(Backend):
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(get_args(Backend))}.")
