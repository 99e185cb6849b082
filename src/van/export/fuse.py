"""Fold whatever is linear per channel in a trained VAN into its convolutions, for inference."""

import copy
from typing import cast

import torch
from timm.layers.classifier import ClassifierHead
from torch import nn

from van.errors import VanError
from van.models.attention import Attention
from van.models.van import VANBlock, VANStage
from van.ops.pointwise import gelu

__all__ = ["FusedVANBlock", "fuse"]

# A hidden map of this size per thread stays in the cache until the next layer reads it. Without the bound, those of a
# large batch go through memory that the system allocates anew each time, which costs more than the arithmetic.
_HIDDEN_BYTES_PER_THREAD = 4 * 2**20


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    """Return a double precision copy on the CPU: not every device has float64."""
    return tensor.detach().to("meta" if tensor.is_meta else "cpu", torch.float64)


def _affine(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a and b, each (C,), of the a * x + b that a BatchNorm computes in evaluation mode."""
    bn = cast(nn.BatchNorm2d, norm)
    if bn.running_mean is None or bn.running_var is None:
        raise VanError(
            "A BatchNorm of the model has no running statistics, so it depends on the batch and cannot be fused. "
            "Train with track_running_stats=True."
        )
    scale = (_exact(bn.running_var) + bn.eps).rsqrt()
    if bn.weight is not None:
        scale = scale * _exact(bn.weight)
    shift = -scale * _exact(bn.running_mean)
    return scale, shift if bn.bias is None else shift + _exact(bn.bias)


def _layer_scale(module: nn.Module, like: torch.Tensor) -> torch.Tensor:
    """Return the layer scale, shape (C,); ones if the network has none."""
    gamma = getattr(module, "gamma", None)
    return torch.ones_like(like) if gamma is None else _exact(gamma)


def _parts(conv: nn.Conv2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of a convolution in double precision."""
    weight = _exact(conv.weight)
    return weight, weight.new_zeros(len(weight)) if conv.bias is None else _exact(conv.bias)


def _set(conv: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    """Give a convolution new weights, in the dtype and on the device of the old ones."""
    old = conv.weight
    conv.weight = nn.Parameter(weight.to(old), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(old), requires_grad=False)
    return conv


def _after_norm(norm: nn.Module, conv: nn.Module) -> nn.Conv2d:
    """Fold the BatchNorm before an unpadded 1x1 convolution into it."""
    conv = cast(nn.Conv2d, conv)
    scale, shift = _affine(norm)
    weight, bias = _parts(conv)
    return _set(conv, weight * scale[:, None, None], bias + weight.flatten(1) @ shift)


def _before_scale(conv: nn.Module, scale: torch.Tensor, shift: torch.Tensor | None = None) -> nn.Conv2d:
    """Fold scale * x + shift after a convolution into it."""
    conv = cast(nn.Conv2d, conv)
    weight, bias = _parts(conv)
    bias = bias * scale
    return _set(conv, weight * scale[:, None, None, None], bias if shift is None else bias + shift)


class FusedVANBlock(nn.Module):
    """A VANBlock for inference: the same function without BatchNorm, layer scale and inner shortcut.

    With y = BatchNorm(x) = a * x + b, the attention half is

        x + s1 * (y + proj_2(z)) = (1 + s1 * a) * x + [s1 * proj_2(z) + s1 * b],  z = LKA(GELU(proj_1(y))).

    The bracket is one convolution, the rest one multiply-add. Intermediate results are changed in place, the input
    is not. The attention runs its own fused form (Attention.forward_fused). On the CPU in eager mode a large batch is
    processed a few images at a time.

    Args:
        block: A VANBlock in evaluation mode; the new block takes over its convolutions and changes their weights.
    """

    shortcut_scale: torch.Tensor

    def __init__(self, block: VANBlock) -> None:
        super().__init__()
        scale, shift = _affine(block.norm1)
        s1, s2 = _layer_scale(block.ls1, scale), _layer_scale(block.ls2, scale)
        shortcut = (1 + s1 * scale).to(block.attn.proj_1.weight)
        self.proj_1 = _after_norm(block.norm1, block.attn.proj_1)
        self.lka = block.attn.lka
        self.proj_2 = _before_scale(block.attn.proj_2, s1, s1 * shift)
        self.register_buffer("shortcut_scale", shortcut[:, None, None])
        self.fc1 = _after_norm(block.norm2, block.mlp.fc1)
        self.dw_conv = block.mlp.dw_conv
        self.fc2 = _before_scale(block.mlp.fc2, s2)

    def _attention(self, x: torch.Tensor) -> torch.Tensor:
        """First half of the block."""
        gate = gelu(self.proj_1(x), inplace=True)
        out = self.lka.forward_fused(gate) if isinstance(self.lka, Attention) else self.lka(gate)
        out = self.proj_2(out)
        # compiled code fuses these anyway, and takes the sizes of dynamic dimensions from the first operand
        if torch.compiler.is_compiling():
            return x * self.shortcut_scale + out
        if out.dtype != x.dtype:  # autocast: the sum is wider than the product
            return torch.addcmul(out, x, self.shortcut_scale)
        return out.addcmul_(x, self.shortcut_scale)

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """Second half of the block."""
        hidden = self.dw_conv(self.fc1(x))
        out = self.fc2(gelu(hidden, inplace=True))
        return x + out if out.dtype != x.dtype or torch.compiler.is_compiling() else out.add_(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        # a trace must not depend on the size of the batch
        if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._feed_forward(self._attention(x))
        batch, _, height, width = x.shape
        image_bytes = self.fc1.out_channels * height * width * x.element_size()
        at_once = max(1, _HIDDEN_BYTES_PER_THREAD * torch.get_num_threads() // max(1, image_bytes))
        if batch <= at_once:
            return self._feed_forward(self._attention(x))
        return torch.cat([self._feed_forward(self._attention(chunk)) for chunk in x.split(at_once)])


def _fuse_stage(stage: VANStage) -> None:
    """Fuse the layers of a stage in place."""
    embed = stage.patch_embed
    embed.proj = _before_scale(embed.proj, *_affine(embed.norm))
    embed.norm = nn.Identity()  # type: ignore[assignment]
    stage.blocks = nn.Sequential(*(FusedVANBlock(b) if isinstance(b, VANBlock) else b for b in stage.blocks))


def fuse(model: nn.Module) -> nn.Module:
    """Return a faster copy of a trained VAN for inference, within rounding of the same outputs.

    BatchNorm, layer scale and the inner shortcut of the attention are folded into the neighbouring convolutions;
    dropout and stochastic depth are removed; the convolutions have channels_last weights. On the CPU in eager mode each
    block also processes a large batch a few images at a time, so that the wide maps stay in the cache.

    The copy has the methods of the model and can be compiled, exported, traced, copied and pickled. It is not for
    training: it has no BatchNorm, and no parameter requires a gradient (gradients of the image are right). Its state
    dict is no VAN checkpoint, and van.load_weights refuses it in both directions: keep the weights of the model itself,
    and fuse after loading them.

    Args:
        model: A VAN in evaluation mode, timm's features_only version of one, or a network with a VAN inside, of any
            dtype and on any device. It is left unchanged.

    Returns:
        The copy, of the class of the model.

    Raises:
        VanError: the model is in training mode, has no VAN inside, or is fused or compiled already.
    """
    if hasattr(model, "_orig_mod"):
        raise VanError(
            "The model is compiled and can no longer be fused. Fuse it first: torch.compile(van.fuse(model))."
        )
    if any(isinstance(m, FusedVANBlock) for m in model.modules()):
        raise VanError("The model is fused already. Use it as it is, or fuse the model that it was made from.")
    stages = [m for m in model.modules() if isinstance(m, VANStage)]
    if not stages:
        raise VanError(
            f"{type(model).__name__} has no VAN inside. Give a model of van.create_model or "
            "timm.create_model('van_b0') (features_only: feature_cls='list', 'dict' or 'getter')."
        )
    if model.training or any(m.training for stage in stages for m in stage.modules()):
        raise VanError(
            "The model is in training mode, where BatchNorm depends on the batch and cannot be fused. Call "
            "model.eval() first."
        )
    fused = copy.deepcopy(model)
    for module in fused.modules():
        if isinstance(module, VANStage):
            _fuse_stage(module)
        elif isinstance(module, ClassifierHead):
            module.drop = nn.Identity()  # type: ignore[assignment]
    for parameter in fused.parameters():
        parameter.requires_grad_(False).grad = None
    return fused.eval().to(memory_format=torch.channels_last)  # new modules start in training mode
