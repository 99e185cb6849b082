"""Large kernel attention (LKA): Eq. 1 to 4 of the paper, and its ablations (T3)."""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import nn
from torch.nn import functional as F

from van.ops import depthwise_conv2d

torch.fx.wrap("depthwise_conv2d")  # one call in a traced graph, whatever it chooses

LKAVariant = Literal["full", "no_dw", "no_dw_d", "no_product", "sum", "no_pointwise", "sigmoid", "dense"]


class Decomposition(NamedTuple):
    """The two inner kernels that stand for one large kernel."""

    dw_kernel_size: int
    dw_d_kernel_size: int
    dilation: int


def decompose(kernel_size: int, dilation: int | None = None) -> Decomposition:
    """Split a K x K convolution into a depth-wise and a dilated depth-wise one (section 3 of the paper).

    Args:
        kernel_size: K, at least 1.
        dilation: d, from 1 to K. None takes the one that minimises Eq. 3, which does not depend on the channels; the
            smaller one of equals.

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


class SameSizeConv2d(nn.Conv2d):
    """Convolution with stride 1 whose output has the height and width of its input, for every kernel and dilation.

    Depth-wise ones are computed by van.ops.depthwise_conv2d.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the kernel; may be even.
        dilation: Distance between neighbouring weights.
        groups: As in torch.nn.Conv2d.
        device: As in torch.nn.Conv2d.
        dtype: As in torch.nn.Conv2d.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dilation: int = 1,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        padding, self.odd = divmod(dilation * (kernel_size - 1), 2)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            padding=padding,
            dilation=dilation,
            groups=groups,
            device=device,
            dtype=dtype,
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        if self.groups == self.in_channels == self.out_channels:
            return depthwise_conv2d(input, self.weight, self.bias, self.dilation[0])
        if self.odd:  # an even kernel with an odd dilation cannot be centred: one more row and column at the end
            return super().forward(F.pad(input, (0, 1, 0, 1)))
        return super().forward(input)


class LargeKernelAttention(nn.Module):
    """Large kernel attention, Eq. 1 and 2: conv1x1(dw_d_conv(dw_conv(x))) * x.

    Args:
        dim: Channels C.
        kernel_size: K of the kernel that is decomposed.
        dilation: d; None takes the one that minimises Eq. 3 (3 for K = 21).
        variant: "full", or a row of T3: "no_dw", "no_dw_d" and "no_pointwise" leave one convolution out,
            "no_product" returns the attention map, "sum" adds instead of multiplying, "sigmoid" squashes the map
            first, "dense" takes one K x K convolution over all channels in place of the three.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ValueError: an argument is out of range.
    """

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
                layers["pw_conv"] = nn.Conv2d(dim, dim, 1, **dd)
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


class GatedAttention(nn.Module):
    """Attention half of a VAN block: y + conv1x1(LKA(GELU(conv1x1(y)))).

    Args:
        dim: Channels C.
        lka: The built LKA layer on C channels.
        device: Where the parameters are made.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        dim: int,
        lka: nn.Module,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, 1, device=device, dtype=dtype)
        self.act = nn.GELU()
        self.lka = lka
        self.proj_2 = nn.Conv2d(dim, dim, 1, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return x + self.proj_2(self.lka(self.act(self.proj_1(x))))
