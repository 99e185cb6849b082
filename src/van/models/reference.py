"""The published network in plain torch.nn calls: the specification that every fast path is tested against.

Nothing here is clever: NCHW, a clone where the published code clones, flatten and transpose around each LayerNorm.
Names of parameters are those of the official checkpoints, so that these load without any mapping. Not for use in a
product.
"""

import torch
from torch import nn

from van.models.variants import VARIANTS


class _LKA(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv_spatial = nn.Conv2d(dim, dim, 7, padding=9, dilation=3, groups=dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = x.clone()
        return gate * self.conv1(self.conv_spatial(self.conv0(x)))


class _Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = _LKA(dim)
        self.proj_2 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x.clone()
        return self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x)))) + shortcut


class _DepthwiseConv(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dwconv(x)


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden_dim, 1)
        self.dwconv = _DepthwiseConv(hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden_dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x))))


class _Block(nn.Module):
    def __init__(self, dim: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = _Attention(dim)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = _FeedForward(dim, dim * mlp_ratio)
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), 1e-2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.layer_scale_1[:, None, None] * self.attn(self.norm1(x))
        return x + self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x))


class _PatchEmbed(nn.Module):
    def __init__(self, in_chans: int, dim: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size, stride=stride, padding=kernel_size // 2)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(x))


class ReferenceVAN(nn.Module):
    """VAN as the paper writes it, without drop path and dropout.

    Args:
        variant: "van_b0" to "van_b6".
        num_classes: Classes of the linear head.

    Raises:
        KeyError: there is no such variant.
    """

    def __init__(self, variant: str = "van_b0", num_classes: int = 1000) -> None:
        super().__init__()
        numbers = VARIANTS[variant]
        in_chans = 3
        for i, dim in enumerate(numbers["embed_dims"], start=1):
            kernel_size, stride = (7, 4) if i == 1 else (3, 2)
            depth, ratio = numbers["depths"][i - 1], numbers["mlp_ratios"][i - 1]
            setattr(self, f"patch_embed{i}", _PatchEmbed(in_chans, dim, kernel_size, stride))
            setattr(self, f"block{i}", nn.ModuleList([_Block(dim, ratio) for _ in range(depth)]))
            setattr(self, f"norm{i}", nn.LayerNorm(dim, eps=1e-6))
            in_chans = dim
        self.head = nn.Linear(in_chans, num_classes)

    def forward_stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the four normalised maps (B, C, h, w) of images (B, 3, H, W)."""
        maps = []
        for i in range(1, 5):
            x = getattr(self, f"patch_embed{i}")(x)
            for block in getattr(self, f"block{i}"):
                x = block(x)
            batch, dim, height, width = x.shape
            x = getattr(self, f"norm{i}")(x.flatten(2).transpose(1, 2))
            x = x.transpose(1, 2).reshape(batch, dim, height, width).contiguous()
            maps.append(x)
        return maps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to logits (B, num_classes)."""
        return self.head(self.forward_stages(x)[-1].flatten(2).mean(dim=2))
