"""Convolution that keeps height and width, as torch computes it: the specification of every other backend."""

import torch
from torch.nn import functional as F


def padding(kernel_size: int, dilation: int) -> tuple[int, int]:
    """Return the zeros before and after a row that keep its length; an even kernel may need one more after it."""
    total = dilation * (kernel_size - 1)
    return total // 2, total - total // 2


def autocast_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Return the type that torch.autocast gives to the inputs of a convolution; it leaves float64 alone."""
    device = tensor.device.type
    if tensor.is_floating_point() and tensor.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int) -> torch.Tensor:
    """Convolve (B, C, H, W) with square kernels (C', C / groups, k, k) to (B, C', H, W).

    It computes what torch calls padding="same", without the warning of torch for an even kernel with an odd dilation.
    """
    before, after = padding(weight.shape[-1], dilation)
    if before != after:
        x = F.pad(x, (0, after - before, 0, after - before))
    return F.conv2d(x, weight, bias, padding=before, dilation=dilation, groups=x.shape[1] // weight.shape[1])


def why_not(x: torch.Tensor, weight: torch.Tensor, dilation: int) -> str | None:
    """Return None: torch can always compute it."""
    return None
