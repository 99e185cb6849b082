"""What every attention of a VAN block has in common, and the half of the block around it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from van.models.layouts import LayerNames
from van.ops import depthwise_conv2d, pointwise
from van.ops.reference import conv2d

_pointwise_conv2d, _gelu = pointwise.conv2d, pointwise.gelu
for _function in ("depthwise_conv2d", "conv2d", "_pointwise_conv2d", "_gelu"):
    torch.fx.wrap(_function)  # one call in a traced graph, whatever it picks


class SameSizeConv2d(nn.Conv2d):
    """Convolution with stride 1 whose output has the height and width of its input, for every kernel and dilation.

    Depth-wise convolutions are computed by van.ops.depthwise_conv2d.

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
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            padding="same",
            dilation=dilation,
            groups=groups,
            device=device,
            dtype=dtype,
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        if torch.jit.is_tracing():  # the same convolution, with sizes that are constants of the trace
            return super().forward(input)
        is_depthwise = self.groups == self.in_channels == self.out_channels
        return (depthwise_conv2d if is_depthwise else conv2d)(input, self.weight, self.bias, self.dilation[0])


class PointwiseConv2d(nn.Conv2d):
    """1x1 convolution, computed by van.ops.pointwise.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        device: As in torch.nn.Conv2d.
        dtype: As in torch.nn.Conv2d.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, 1, device=device, dtype=dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        return _pointwise_conv2d(input, self.weight, self.bias)


class GELU(nn.GELU):
    """Exact GELU of maps, computed by van.ops.pointwise."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return _gelu(input)


class Attention(nn.Module):
    """Base class of the attentions that a VAN block can be built with (attn_layer).

    A subclass is called with the number of channels and with device and dtype, and implements `attention`. The other
    members describe it to the rest of the package; all of them have defaults. A module that is no subclass works as
    well: it is called as it is, and its layers are labelled by their types.

    Attributes:
        kinds: Labels of its layers in tables of complexity, by name of the submodule; a name stands for all that is
            inside it.
        layer_names: Names of its layers in published weight files.
    """

    kinds: ClassVar[Mapping[str, str]] = {}
    layer_names: ClassVar[tuple[LayerNames, ...]] = ()

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """Return the attention map, shape (B, C, H, W), before the product with x of the same shape."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return x * self.attention(x)

    def forward_fused(self, x: torch.Tensor) -> torch.Tensor:
        """Return what forward returns; fused blocks call it. It may compute in place, but must not change x."""
        return self(x)

    def reach(self) -> int:
        """Return how many neighbours in all, left and right, a position of the output depends on.

        The default is right for layers that follow each other; parallel branches reach as far as the longest.
        """
        return sum(reach(m) for m in self.modules() if isinstance(m, nn.Conv2d))


def reach(conv: nn.Conv2d) -> int:
    """Return how many neighbours in all, left and right, a position of a convolution's output depends on."""
    return (conv.kernel_size[0] - 1) * conv.dilation[0]


class GatedAttention(nn.Module):
    """Attention half of a VAN block: y + conv1x1(LKA(GELU(conv1x1(y)))).

    Args:
        dim: Channels C.
        lka: The attention, built for C channels.
        device: Where the parameters are created.
        dtype: Type of the parameters.
    """

    def __init__(self, dim: int, lka: nn.Module, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.proj_1 = PointwiseConv2d(dim, dim, device=device, dtype=dtype)
        self.act = GELU()
        self.lka = lka
        self.proj_2 = PointwiseConv2d(dim, dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return x + self.proj_2(self.lka(self.act(self.proj_1(x))))
