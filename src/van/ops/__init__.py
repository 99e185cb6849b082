"""Depth-wise convolution, the slow part of large kernel attention, by the fastest exact method for the device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

from van.ops import phase_split, reference, triton_dwconv

__all__ = ["Backend", "can_run", "depthwise_conv2d", "use_backend"]

Backend = Literal["auto", "torch", "phase", "triton"]
_Convolution = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, int], torch.Tensor]

_BACKENDS: dict[str, _Convolution] = {
    "torch": reference.depthwise_conv2d,
    "phase": phase_split.depthwise_conv2d,
    "triton": triton_dwconv.depthwise_conv2d,
}
_WHY_NOT = {"torch": reference.why_not, "phase": phase_split.why_not, "triton": triton_dwconv.why_not}
_forced: Backend = "auto"


def can_run(backend: Backend, x: torch.Tensor, weight: torch.Tensor, dilation: int = 1) -> str | None:
    """Return None where a backend can convolve these tensors, else the reason why it cannot.

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
    """Compute every depth-wise convolution inside the block by one backend, where the call itself names none.

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

    Every backend works under autocast, torch.compile, gradient checkpointing and in several processes (DDP).
    Transforms of torch.func that take gradients (grad, vmap over weights that want one) have the torch backend
    only: `with use_backend("torch")`.

    Args:
        x: Maps (B, C, H, W).
        weight: Kernels (C, 1, k, k), k odd or even.
        bias: One number per channel (C,), or None.
        dilation: Distance between neighbouring weights.
        backend: "torch", "phase" (phase split), "triton" (CUDA kernels, first derivatives only), or "auto": the phase
            split for dilated kernels on the CPU, where it was measured to be faster at every size of the network, else
            torch. It never takes "triton", which nobody has checked on a GPU yet. While a model is exported, always
            torch.

    Returns:
        Maps (B, C, H, W).

    Raises:
        ValueError: there is no such backend, or it was asked for and cannot run; the reason is given.
    """
    if torch.compiler.is_exporting():
        return reference.depthwise_conv2d(x, weight, bias, dilation)
    if backend != "auto":
        if reason := can_run(backend, x, weight, dilation):
            raise ValueError(f"The backend {backend!r} cannot run this convolution: {reason}.")
        return _BACKENDS[backend](x, weight, bias, dilation)
    chosen = _forced if _forced != "auto" else ("phase" if x.device.type == "cpu" else "torch")
    if _WHY_NOT[chosen](x, weight, dilation):
        chosen = "torch"
    return _BACKENDS[chosen](x, weight, bias, dilation)


def _check(backend: str) -> None:
    if backend not in get_args(Backend):
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(get_args(Backend))}.")
