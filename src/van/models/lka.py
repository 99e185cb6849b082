"""Large kernel attention (LKA): Eq. 1 to 4 of the paper, and its ablations (T3)."""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import nn

from van.models.attention import Attention, PointwiseConv2d, SameSizeConv2d
from van.models.layouts import LayerNames

LKAVariant = Literal["full", "no_dw", "no_dw_d", "no_product", "sum", "no_pointwise", "sigmoid", "dense"]


class Decomposition(NamedTuple):
    """The two small kernels that replace one large kernel."""

    dw_kernel_size: int
    dw_d_kernel_size: int
    dilation: int


def decompose(kernel_size: int, dilation: int | None = None) -> Decomposition:
    """Split a K x K convolution into a depth-wise and a dilated depth-wise one (section 3 of the paper).

    Args:
        kernel_size: K, at least 1.
        dilation: d, from 1 to K. None takes the one that minimises Eq. 3, which does not depend on the channels; of
            equals the smallest.

    Returns:
        The kernel sizes 2d-1 and ceil(K/d), and d.

    Raises:
        ValueError: kernel_size or dilation is out of range.
    """
    if kernel_size < 1:
        raise ValueError(f"kernel_size is {kernel_size}, expected an integer of at least 1.")
    if dilation is None:
        dilation = min(range(1, kernel_size + 1), key=lambda d: math.ceil(kernel_size / d) ** 2 + (2 * d - 1) ** 2)
    elif not 1 <= dilation <= kernel_size:
        raise ValueError(
            f"dilation is {dilation}, expected an integer from 1 to kernel_size ({kernel_size}), or None for the best."
        )
    return Decomposition(2 * dilation - 1, math.ceil(kernel_size / dilation), dilation)


class LargeKernelAttention(Attention):
    """Large kernel attention, Eq. 1 and 2: conv1x1(dw_d_conv(dw_conv(x))) * x.

    Args:
        dim: Channels C.
        kernel_size: K of the kernel that is decomposed.
        dilation: d; None takes the one that minimises Eq. 3 (3 for K = 21).
        variant: "full", or a row of T3: "no_dw", "no_dw_d" and "no_pointwise" leave out one convolution,
            "no_product" returns the attention map, "sum" adds instead of multiplying, "sigmoid" applies a sigmoid to
            the map first, "dense" replaces the three convolutions by one K x K convolution over all channels.
        device: Where the parameters are created.
        dtype: Type of the parameters.

    Raises:
        ValueError: an argument is out of range.
    """

    kinds: ClassVar[Mapping[str, str]] = {
        "dw_conv": "LKA depth-wise",
        "dw_d_conv": "LKA dilated depth-wise",
        "pw_conv": "LKA 1x1",
        "dense_conv": "LKA dense",
    }
    layer_names = (
        LayerNames("dw_conv", "conv0", "depth_wise", "DW_conv"),
        LayerNames("dw_d_conv", "conv_spatial", "depth_wise_dilated", "DW_D_conv"),
        LayerNames("pw_conv", "conv1", "point_wise", "conv1"),
    )

    def __init__(
        self,
        dim: int,
        kernel_size: int = 21,
        dilation: int | None = None,
        variant: LKAVariant = "full",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if variant not in get_args(LKAVariant):
            raise ValueError(f"LKA variant is {variant!r}, expected one of {', '.join(get_args(LKAVariant))}.")
        dw, dw_d, dilation = decompose(kernel_size, dilation)
        self.variant = variant
        dd = {"device": device, "dtype": dtype}
        layers: dict[str, nn.Module] = {}
        if variant == "dense":
            layers["dense_conv"] = SameSizeConv2d(dim, dim, kernel_size, **dd)
        else:
            if variant != "no_dw":
                layers["dw_conv"] = SameSizeConv2d(dim, dim, dw, groups=dim, **dd)
            if variant != "no_dw_d":
                layers["dw_d_conv"] = SameSizeConv2d(dim, dim, dw_d, dilation=dilation, groups=dim, **dd)
            if variant != "no_pointwise":
                layers["pw_conv"] = PointwiseConv2d(dim, dim, **dd)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """Return the attention map of Eq. 1, shape (B, C, H, W), without the product."""
        for layer in self.children():
            x = layer(x)
        return x.sigmoid() if self.variant == "sigmoid" else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        attention = self.attention(x)
        if self.variant == "no_product":
            return attention
        return x + attention if self.variant == "sum" else x * attention

    def forward_fused(self, x: torch.Tensor) -> torch.Tensor:
        """Return what forward returns, with the product or sum in place."""
        # compiled code fuses them anyway, and takes dynamic sizes from the first operand; a sigmoid's output is saved
        if self.variant in ("no_product", "sigmoid") or torch.compiler.is_compiling():
            return self(x)
        attention = self.attention(x)
        return attention.add_(x) if self.variant == "sum" else attention.mul_(x)
