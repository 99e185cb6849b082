"""Visual Attention Network, VAN-B0 to B6: block, stage, network, and their registration with timm.

Source: Guo, Lu, Liu, Cheng, Hu, "Visual Attention Network", arXiv 2202.09741 (section 3 and T5).
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from timm.layers.classifier import ClassifierHead
from timm.layers.drop import DropPath, calculate_drop_path_rates
from timm.layers.layer_scale import LayerScale2d
from timm.layers.norm import LayerNorm2d
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    group_parameters,
    list_pretrained,
    register_model,
    register_notrace_module,
    resolve_pretrained_cfg,
)
from timm.models._features import feature_take_indices
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from van.errors import VanError, WeightsError
from van.models.attention import GELU, GatedAttention, PointwiseConv2d, SameSizeConv2d
from van.models.lka import LargeKernelAttention, LKAVariant
from van.models.variants import VARIANTS
from van.models.weights import checkpoint_filter_fn
from van.ops.undilated import channels_last

__all__ = ["VAN", "VANBlock", "VANStage"]

for _class in (PointwiseConv2d, GELU):
    register_notrace_module(_class)  # they keep their names in traced graphs, as torch's own do


class OverlapPatchEmbed(nn.Module):
    """Overlapping patch embedding: a strided convolution, then BatchNorm (section 3.2).

    Args:
        in_chans: Channels of the input.
        dim: Channels of the output.
        kernel_size: Odd side of the convolution, wider than its stride.
        stride: Reduction of height and width.
    """

    def __init__(
        self, in_chans: int, dim: int, kernel_size: int, stride: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            in_chans, dim, kernel_size, stride=stride, padding=kernel_size // 2, device=device, dtype=dtype
        )
        self.norm = nn.BatchNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_chans, H, W) to (B, dim, ceil(H/stride), ceil(W/stride)), channels last in memory."""
        return self.norm(self.proj(channels_last(x)))


class FeedForward(nn.Module):
    """Feed-forward half of a VAN block: conv1x1(GELU(dwconv3x3(conv1x1(y)))).

    Args:
        dim: Channels C of input and output.
        hidden_dim: Channels between the two 1x1 convolutions.
        drop: Dropout rate after GELU and at the end.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.fc1 = PointwiseConv2d(dim, hidden_dim, device=device, dtype=dtype)
        self.dw_conv = SameSizeConv2d(hidden_dim, hidden_dim, 3, groups=hidden_dim, device=device, dtype=dtype)
        self.act = GELU()
        self.drop = nn.Dropout(drop)
        self.fc2 = PointwiseConv2d(hidden_dim, dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        x = self.drop(self.act(self.dw_conv(self.fc1(x))))
        return self.drop(self.fc2(x))


class VANBlock(nn.Module):
    """One block: x + s1 * attention(BatchNorm(x)), then x + s2 * ffn(BatchNorm(x)) (section 3.2).

    Args:
        dim: Channels C.
        mlp_ratio: Hidden width of the feed-forward half divided by C.
        attn_layer: Makes the attention from the number of channels, device and dtype: a class, or a partial of one.
        ls_init_value: First value of the layer scales; None or 0 leaves them out (T7, without LayerScale).
        proj_drop: Dropout rate inside the feed-forward half.
        drop_path: Rate of stochastic depth.
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float = 4.0,
        attn_layer: Callable[..., nn.Module] = LargeKernelAttention,
        ls_init_value: float | None = 1e-2,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}

        def scale() -> nn.Module:
            return LayerScale2d(dim, ls_init_value, **dd) if ls_init_value else nn.Identity()

        self.norm1 = nn.BatchNorm2d(dim, **dd)
        self.attn = GatedAttention(dim, attn_layer(dim, **dd), **dd)
        self.ls1 = scale()
        self.norm2 = nn.BatchNorm2d(dim, **dd)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio), proj_drop, **dd)
        self.ls2 = scale()
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


@contextmanager
def _frozen_batch_norm_statistics(module: nn.Module) -> Iterator[None]:
    """Keep running statistics unchanged: recomputing a checkpointed block must not count the batch twice."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    saved = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None  # not incremented then
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, saved, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


def _checkpoint_contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Return the contexts of a checkpointed block: none in the forward pass, frozen statistics in the recomputation."""
    return nullcontext(), _frozen_batch_norm_statistics(block)


class VANStage(nn.Module):
    """One stage: patch embedding, blocks, LayerNorm over the channels.

    Args:
        in_chans: Channels of the input.
        dim: Channels C of the stage.
        kernel_size: Side of the patch embedding.
        stride: Stride of the patch embedding.
        blocks: The built blocks on C channels.
        norm_eps: Epsilon of the LayerNorm.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        kernel_size: int,
        stride: int,
        blocks: Sequence[nn.Module],
        norm_eps: float = 1e-6,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.patch_embed = OverlapPatchEmbed(in_chans, dim, kernel_size, stride, device=device, dtype=dtype)
        self.blocks = nn.Sequential(*blocks)
        self.norm = LayerNorm2d(dim, eps=norm_eps, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_chans, H, W) to (B, C, ceil(H/stride), ceil(W/stride))."""
        x = self.patch_embed(x)
        if self.grad_checkpointing:
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_checkpoint_contexts, block))
        else:
            x = self.blocks(x)
        return self.norm(x)


def _bind(attn_layer: Callable[..., nn.Module], **options: Any) -> Callable[..., nn.Module]:
    """Give an attention the options that are not None; one that it does not take is an error."""
    given = {name: value for name, value in options.items() if value is not None}
    parameters = inspect.signature(attn_layer).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in given:
        if not (takes_any or name in parameters):
            layer = getattr(attn_layer, "__name__", type(attn_layer).__name__)
            argument = "lka_variant" if name == "variant" else name
            raise ValueError(
                f"{argument} is {given[name]!r}, but {layer} (attn_layer) has no argument {name!r}. Leave it out."
            )
    return partial(attn_layer, **given) if given else attn_layer


def _dilate(module: nn.Module, factor: int) -> None:
    """Spread the weights of every convolution: what it computes on a map, it then computes on each of its phases."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            conv.dilation = tuple(d * factor for d in conv.dilation)
            if not isinstance(conv.padding, str):
                conv.padding = tuple(p * factor for p in conv.padding)


class VAN(nn.Module):
    """Visual Attention Network with timm's model interface.

    It takes images of any size, so there is no img_size and no set_input_size. torch.compile, torch.export and
    torch.jit.trace work; torch.jit.script, which torch has deprecated, does not. timm's AttentionExtract finds the maps
    of Eq. 1 under names=["*.attn.lka.pw_conv"], with either of its methods.

    Args:
        in_chans: Channels of the image.
        num_classes: Classes of the linear head; 0 for none.
        global_pool: timm's name of the pooling before the head; "" for none.
        output_stride: Stride of the last map: 32, 16 or 8. Stages that would exceed it keep the size of their input,
            and their convolutions are dilated instead (for dense prediction, as in timm's ConvNeXt).
        embed_dims: Channels of each stage (T5).
        depths: Blocks of each stage (T5).
        mlp_ratios: Expansion ratio of each stage (T5).
        attn_layer: Makes the attention of a block, called with the number of channels, device and dtype: a class such
            as a subclass of van.models.Attention, or a partial of one. Its convolutions and linear layers are
            initialized like all others.
        kernel_size: K of every large kernel attention, 21 by default (T6).
        dilation: d of every large kernel attention; None for the one that minimises Eq. 3 (T6).
        lka_variant: "full" (the default) or a row of T3, in every block; see LargeKernelAttention.
        ls_init_value: First value of the layer scales; None or 0 leaves them out (T7). Pass 0 to timm.create_model,
            which drops arguments that are None.
        norm_eps: Epsilon of the four LayerNorms.
        drop_rate: Dropout rate before the classifier.
        proj_drop_rate: Dropout rate inside the feed-forward halves.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0 over all blocks.
        head_init_scale: Factor on the first weights of the classifier (fine-tuning recipe of the paper: 0.001).
        device: Where the parameters are created; "meta" allocates none.
        dtype: Type of the parameters.

    Raises:
        ValueError: embed_dims, depths and mlp_ratios differ in length, output_stride or an argument of the attention is
            out of range, or the attention has no such argument.
        VanError: in_chans is the name of a model.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        output_stride: int = 32,
        embed_dims: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (3, 3, 5, 2),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        attn_layer: Callable[..., nn.Module] = LargeKernelAttention,
        kernel_size: int | None = None,
        dilation: int | None = None,
        lka_variant: LKAVariant | None = None,
        ls_init_value: float | None = 1e-2,
        norm_eps: float = 1e-6,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        head_init_scale: float = 1.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(in_chans, str):
            raise VanError(
                f"VAN's first argument is in_chans, a number, not {in_chans!r}. To build a network by its name, call "
                f"van.create_model({in_chans!r})."
            )
        if not len(embed_dims) == len(depths) == len(mlp_ratios):
            raise ValueError(
                f"embed_dims, depths and mlp_ratios have {len(embed_dims)}, {len(depths)} and {len(mlp_ratios)} "
                "entries, expected one per stage in each."
            )
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}, expected 8, 16 or 32.")
        dd = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.head_init_scale = head_init_scale
        self.num_features = embed_dims[-1]
        self.feature_info = []

        attn_layer = _bind(attn_layer, kernel_size=kernel_size, dilation=dilation, variant=lka_variant)
        drop_path_rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        reduction = factor = 1
        for i, dim in enumerate(embed_dims):
            blocks = [
                VANBlock(dim, mlp_ratios[i], attn_layer, ls_init_value, proj_drop_rate, drop_path_rates[i][j], **dd)
                for j in range(depths[i])
            ]
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            embed_factor = factor  # positions that a stride would have left out are left out from here on
            if reduction * stride > output_stride:
                factor, stride = factor * stride, 1
            reduction *= stride
            stage = VANStage(in_chans, dim, kernel, stride, blocks, norm_eps, **dd)
            _dilate(stage.patch_embed, embed_factor)
            _dilate(stage.blocks, factor)
            stages.append(stage)
            in_chans = dim
            self.feature_info.append({"num_chs": dim, "reduction": reduction, "module": f"stages.{i}"})
        self.stages = nn.Sequential(*stages)
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        self.apply(_init_weights)
        self._scale_head()

    def _scale_head(self) -> None:
        if isinstance(self.head.fc, nn.Linear):
            with torch.no_grad():
                self.head.fc.weight.mul_(self.head_init_scale)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the layer scales, to which no optimizer should apply weight decay."""
        return {name for name, _ in self.named_parameters() if name.endswith(".gamma")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that group the parameters from stem to head, by stage (coarse) or by block."""
        return {
            "stem": r"^stages\.0\.patch_embed",
            "blocks": r"^stages\.(\d+)"
            if coarse
            else [
                (r"^stages\.(\d+)\.patch_embed", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^stages\.(\d+)\.norm", (99999,)),
            ],
        }

    def layer_depths(self) -> dict[str, int]:
        """Return the depth of each parameter but the classifier's: 0 for the stem, then one more for each block."""
        depths = cast(dict[str, int], group_parameters(self, self.group_matcher(), reverse=True))
        return {name: depth for name, depth in depths.items() if not name.startswith("head.")}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations.

        The statistics of BatchNorm count each batch once all the same.
        """
        for stage in self.stages:
            cast(VANStage, stage).grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Return the linear layer of the head (torch.nn.Identity without classes)."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier with a freshly initialized one.

        Args:
            num_classes: Classes of the new classifier; 0 for none.
            global_pool: timm's name of the pooling, "" for none; None keeps the current one.
        """
        reference = next(self.parameters())
        self.num_classes = num_classes
        self.head.reset(
            num_classes,
            global_pool,
            in_features=self.num_features,
            device=reference.device,
            dtype=reference.dtype,
        )
        self.head_hidden_size = self.head.num_features
        self.head.apply(_init_weights)
        self._scale_head()

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the maps after the stages, each after its LayerNorm.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Stages to return: the last n for an integer, those listed, or all for None.
            norm: Part of timm's interface; every stage ends in its LayerNorm, so the maps are normalized either way.
            stop_early: Skip the stages after the last one asked for.
            output_fmt: Only "NCHW".
            intermediates_only: Return the list alone.

        Returns:
            The output of the last stage that ran and the list of maps, or the list alone.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}, expected 'NCHW'.")
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        intermediates = []
        stages = self.stages[: max_index + 1] if stop_early else self.stages
        for i, stage in enumerate(stages):
            x = stage(x)
            if i in take_indices:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last one in indices, and the head where it no longer fits.

        Args:
            indices: Stages to keep, as in forward_intermediates.
            prune_norm: Part of timm's interface; there is no norm outside the stages to remove.
            prune_head: Remove pooling and classifier even if every stage stays.

        Returns:
            The indices of the stages kept for output.
        """
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        removes_stages = max_index + 1 < len(self.stages)
        self.stages = self.stages[: max_index + 1]
        self.num_features = self.feature_info[max_index]["num_chs"]
        if prune_head or removes_stages:
            self.reset_classifier(0, "")
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (B, in_chans, H, W) to the last stage's normalized map (B, C, ceil(H/32), ceil(W/32))."""
        return self.stages(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map (B, C, h, w) to logits (B, num_classes), or to pooled features (B, C) for pre_logits."""
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (B, in_chans, H, W) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


def _init_weights(module: nn.Module) -> None:
    """Initialize one layer as the published code (van.py, _init_weights) does; called once for the whole network."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _cfg(**kwargs: Any) -> dict[str, Any]:
    """Configuration of the ImageNet-1K weights: mean and std 0.5, bicubic, crop 0.9."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        # the published code was trained with the default configuration of ViT in timm 0.4.12
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "stages.0.patch_embed.proj",
        "classifier": "head.fc",
        "license": "apache-2.0",
        "paper_name": "Visual Attention Network",
        "paper_ids": "arXiv:2202.09741",
        "origin_url": "https://github.com/Visual-Attention-Network/VAN-Classification",
        **kwargs,
    }


def _official(size: str, top1: int) -> dict[str, Any]:
    return _cfg(
        hf_hub_id=f"Visual-Attention-Network/VAN-{size}-original",
        hf_hub_filename=f"van_{size.lower()}_{top1}.pth.tar",
    )


def _transformers(size: str) -> dict[str, Any]:
    return _cfg(hf_hub_id=f"Visual-Attention-Network/van-{size.lower()}", hf_hub_filename="pytorch_model.bin")


def _mmseg(filename: str) -> dict[str, Any]:
    """Backbones of OpenMMLab's segmentation models: no classifier, ImageNet mean and std, LayerNorm epsilon 1e-5."""
    return _cfg(
        url=f"https://download.openmmlab.com/mmsegmentation/v0.5/van_3rdparty/{filename}",
        num_classes=0,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


default_cfgs = generate_default_cfgs(
    {
        "van_b0.in1k": _official("Tiny", 754),
        "van_b0.transformers_in1k": _transformers("Tiny"),
        "van_b0.mmseg_in1k": _mmseg("van-b0_3rdparty_20230522-956f5e0d.pth"),
        "van_b1.in1k": _official("Small", 811),
        "van_b1.transformers_in1k": _transformers("Small"),
        "van_b1.mmseg_in1k": _mmseg("van-b1_3rdparty_20230522-3adb117f.pth"),
        "van_b2.in1k": _official("Base", 828),
        "van_b2.transformers_in1k": _transformers("Base"),
        "van_b2.mmseg_in1k": _mmseg("van-b2_3rdparty_20230522-636fac93.pth"),
        "van_b3.in1k": _official("Large", 839),
        "van_b3.transformers_in1k": _transformers("Large"),
        "van_b3.mmseg_in1k": _mmseg("van-b3_3rdparty_20230522-a184e051.pth"),
        # B4 to B6 have no published classifier: the star makes the entry without weights the default.
        "van_b4.mmseg_in22k": _mmseg("van-b4-in22k_3rdparty_20230522-5e31cafb.pth"),
        "van_b4.*": _cfg(),
        "van_b5.mmseg_in22k": _mmseg("van-b5-in22k_3rdparty_20230522-b26134d7.pth"),
        "van_b5.*": _cfg(),
        "van_b6.mmseg_in22k": _mmseg("van-b6-in22k_3rdparty_20230522-5e5172a3.pth"),
        "van_b6.*": _cfg(),
    }
)


def _create_van(variant: str, pretrained: bool = False, **kwargs: Any) -> VAN:
    if "img_size" in kwargs:
        raise VanError(
            f"{variant} has no img_size ({kwargs['img_size']}): it takes images of any size. Leave it out; timm's "
            "transforms take their size from input_size in pretrained_cfg_overlay."
        )
    stages = len(kwargs.get("depths", VARIANTS[variant]["depths"]))
    out_indices = kwargs.get("out_indices", ())
    wanted = range(-out_indices, 0) if isinstance(out_indices, int) else out_indices  # timm: the last n
    if kwargs.get("features_only") and not all(-stages <= index < stages for index in wanted):
        raise VanError(f"out_indices is {out_indices}, expected stages from 0 to {stages - 1} (or -{stages} to -1).")
    cfg = resolve_pretrained_cfg(
        variant, kwargs.get("pretrained_cfg"), dict(kwargs.get("pretrained_cfg_overlay") or {})
    )
    if pretrained and not (cfg.has_weights or cfg.state_dict):
        raise WeightsError(
            f"No classifier weights of {variant} have been published. These have: "
            f"{', '.join(list_pretrained('van_*'))} (mmseg: backbone without classifier). Name one of them, give a "
            "file of your own, or use pretrained=False."
        )
    return build_model_with_cfg(
        VAN,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        **{**VARIANTS[variant], **kwargs},
    )


@register_model
def van_b0(pretrained: bool = False, **kwargs: Any) -> VAN:
    """VAN-B0 (Tiny on the hub): 4.1 M parameters."""
    return _create_van("van_b0", pretrained, **kwargs)


@register_model
def van_b1(pretrained: bool = False, **kwargs: Any) -> VAN:
    """VAN-B1 (Small on the hub): 13.9 M parameters."""
    return _create_van("van_b1", pretrained, **kwargs)


@register_model
def van_b2(pretrained: bool = False, **kwargs: Any) -> VAN:
    """VAN-B2 (Base on the hub): 26.6 M parameters."""
    return _create_van("van_b2", pretrained, **kwargs)


@register_model
def van_b3(pretrained: bool = False, **kwargs: Any) -> VAN:
    """VAN-B3 (Large on the hub): 44.8 M parameters."""
    return _create_van("van_b3", pretrained, **kwargs)


@register_model
def van_b4(pretrained: bool = False, **kwargs: Any) -> VAN:
    """VAN-B4: 60.3 M parameters."""
    return _create_van("van_b4", pretrained, **kwargs)


@register_model
def van_b5(pretrained: bool = False, **kwargs: Any) -> VAN:
    """VAN-B5: 90.0 M parameters."""
    return _create_van("van_b5", pretrained, **kwargs)


@register_model
def van_b6(pretrained: bool = False, **kwargs: Any) -> VAN:
    """VAN-B6: 200 M parameters."""
    return _create_van("van_b6", pretrained, **kwargs)
