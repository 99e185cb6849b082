"""Counting what a network costs in parameters and multiply-accumulates, and the paper's formulas (Eq. 3 and 4)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from van.errors import VanError
from van.models import VAN, Attention, LargeKernelAttention, create_model, decompose
from van.models.attention import reach
from van.models.variants import VARIANTS


class Complexity(NamedTuple):
    """What a network costs: parameters, and multiply-accumulates for one image."""

    params: int
    macs: int


def complexity(model: nn.Module, input_size: tuple[int, int, int]) -> Complexity:
    """Count parameters, and multiply-accumulates of one image.

    Convolutions, linear layers and matrix products count, biases and element-wise operations do not: the paper's
    "FLOPs" (Eq. 4). The model is moved to the meta device, so pass one that is no longer needed, or build it there.

    Args:
        model: Any network that takes (1, C, H, W), or has a counted_forward that does.
        input_size: Size (C, H, W) of the image.
    """
    model = model.to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        _forward(model, input_size)
    return Complexity(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)


def _forward(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Run every layer on one image. Postprocessing that depends on values cannot run on the meta device."""
    forward = getattr(model, "counted_forward", model)
    forward(torch.empty(1, *input_size, device="meta"))


# ------------------------------------------------------------------------------------------------ by layer


class LayerCost(NamedTuple):
    """What one module costs for one image, without its submodules.

    Attributes:
        name: Name in the network.
        stage: "stage 1", ... by the network's feature_info; "stem" before the first stage, "head" after the last.
        kind: What the layer does; see KINDS for a VAN.
        params: Number of parameters.
        macs: Multiply-accumulates of convolutions, linear layers and matrix products (Eq. 4).
        bias_and_norm: Additions of biases, and two operations for each output of a norm.
    """

    name: str
    stage: str
    kind: str
    params: int
    macs: int
    bias_and_norm: int


# Kinds of layers of a VAN outside its attention, by a part of their names
_VAN_KINDS = {
    "patch_embed.proj": "patch embedding",
    "attn.proj": "attention projections",
    "mlp.dw_conv": "feed-forward depth-wise",
    "mlp.fc": "feed-forward 1x1",
    "head.fc": "classifier",
}
_NORM_AND_SCALE = "norms and scales"
_EMBEDDING, *_OTHER_KINDS = _VAN_KINDS.values()
KINDS = (_EMBEDDING, *LargeKernelAttention.kinds.values(), *_OTHER_KINDS, _NORM_AND_SCALE)


def _kinds(model: nn.Module) -> Callable[[str, nn.Module], str]:
    """Return the function that labels a layer by its name."""
    if not isinstance(model, VAN):
        return lambda name, module: _general_kind(module)
    attentions = {name: module for name, module in model.named_modules() if name.endswith("attn.lka")}

    def kind(name: str, module: nn.Module) -> str:
        for path, attention in attentions.items():
            if f"{name}.".startswith(f"{path}."):
                labels = attention.kinds if isinstance(attention, Attention) else {}
                inner = name[len(path) + 1 :]
                return next((k for n, k in labels.items() if f"{inner}.".startswith(f"{n}.")), _general_kind(module))
        return next((kind for part, kind in _VAN_KINDS.items() if part in name), _NORM_AND_SCALE)

    return kind


def _general_kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        if module.groups > 1 and module.groups == module.in_channels:
            return "depth-wise convolution"
        return "1x1 convolution" if module.kernel_size == (1, 1) else "convolution"
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm) or "Norm" in type(module).__name__:
        return "norm"
    return "other"


def _stages(model: nn.Module) -> list[str]:
    """Return the module names of the stages that have weights; none for a network that does not list its stages."""
    info: Any = getattr(model, "feature_info", None)
    info = getattr(info, "info", info)
    names = [entry["module"] for entry in info] if isinstance(info, list) else []
    modules = dict(model.named_modules())
    return [name for name in names if name in modules and any(True for _ in modules[name].parameters())]


def _stage_of(name: str, stages: Sequence[str], passed: int) -> str:
    number = next((i for i, stage in enumerate(stages) if f"{name}.".startswith(f"{stage}.")), None)
    if number is not None:
        return f"stage {number + 1}"
    return "stem" if passed == 0 else "head" if passed == len(stages) else "other"


def layer_costs(model: nn.Module, input_size: tuple[int, int, int]) -> list[LayerCost]:
    """Count parameters and multiply-accumulates of each layer for one image.

    Args:
        model: Any network that takes (1, C, H, W); it is moved to the meta device.
        input_size: Size (C, H, W) of the image.

    Returns:
        Layers with parameters or multiply-accumulates, in the network's order. They add up to what complexity counts.
    """
    model = model.to("meta").eval()
    extra: dict[str, int] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _: Any, output: torch.Tensor) -> None:
            norm = isinstance(module, _BatchNorm | nn.LayerNorm)
            biased = getattr(module, "bias", None) is not None
            extra[name] = extra.get(name, 0) + (2 if norm else int(biased)) * output.numel()

        return hook

    counted = (nn.Conv2d, nn.Linear, _BatchNorm, nn.LayerNorm)
    hooks = [m.register_forward_hook(record(n)) for n, m in model.named_modules() if isinstance(m, counted)]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            _forward(model, input_size)
    finally:
        for handle in hooks:
            handle.remove()
    root = type(model).__name__
    flops = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    flops[root] = counter.get_total_flops()
    kind, stages = _kinds(model), _stages(model)
    rows, seen = [], set()
    for name, module in model.named_modules():
        full = f"{root}.{name}" if name else root
        inside = sum(flops.get(f"{full}.{child}", 0) for child, _ in module.named_children())
        macs = (flops.get(full, 0) - inside) // 2
        params = sum(p.numel() for p in module.parameters(recurse=False))
        seen |= {stage for stage in stages if f"{name}.".startswith(f"{stage}.")}
        if params or macs:
            stage = _stage_of(name, stages, len(seen))
            rows.append(LayerCost(name, stage, kind(name, module), params, macs, extra.get(name, 0)))
    return rows


def total_costs(costs: Sequence[LayerCost]) -> tuple[int, int, int]:
    """Return the sums of parameters, of multiply-accumulates, and of multiply-accumulates with biases and norms.

    The paper does not say how it counts. The multiply-accumulates of Eq. 4, plus one operation for each output with a
    bias, plus two for each output of a BatchNorm or LayerNorm match T3, T5, T6 and T8 exactly (VAN-B0: 0.880 G,
    printed 0.88; Eq. 4 alone gives 0.864 G), except for B6 in T5: 38.4 G, which T8 prints as 38.9.

    Args:
        costs: Costs of all layers of a network.
    """
    macs = sum(cost.macs for cost in costs)
    return sum(cost.params for cost in costs), macs, macs + sum(cost.bias_and_norm for cost in costs)


def grouped_costs(costs: Sequence[LayerCost], by: str) -> dict[str, Complexity]:
    """Sum parameters and multiply-accumulates by "stage" or "kind", in the network's order.

    Args:
        costs: Costs of the layers of a network.
        by: "stage" or "kind".

    Raises:
        ValueError: by is neither.
    """
    if by not in ("stage", "kind"):
        raise ValueError(f"by is {by!r}, expected 'stage' or 'kind'.")
    groups: dict[str, Complexity] = {}
    for cost in costs:
        old = groups.get(getattr(cost, by), Complexity(0, 0))
        groups[getattr(cost, by)] = Complexity(old.params + cost.params, old.macs + cost.macs)
    return groups


def variant_costs(image_size: tuple[int, int] = (224, 224), num_classes: int = 1000) -> dict[str, list[LayerCost]]:
    """Count every layer of VAN-B0 to B6.

    Args:
        image_size: Height and width in pixels.
        num_classes: Number of classes.
    """
    return {
        name: layer_costs(create_model(name, num_classes=num_classes, device="meta"), (3, *image_size))
        for name in VARIANTS
    }


# ------------------------------------------------------------------------------------------------ formulas


def _check_channels(channels: int) -> None:
    if channels < 1:
        raise VanError(f"channels is {channels}, expected an integer of at least 1.")


def lka_parameters(kernel_size: int, channels: int, dilation: int | None = None) -> int:
    """Return P(K, d) = C (ceil(K/d)^2 + (2d-1)^2 + C), the parameters without biases (Eq. 3).

    Args:
        kernel_size: K.
        channels: C.
        dilation: d, from 1 to K; None for the best.

    Raises:
        VanError: an argument is out of range.
    """
    _check_channels(channels)
    try:
        dw, dw_d, _ = decompose(kernel_size, dilation)
    except ValueError as error:
        raise VanError(str(error)) from error
    return channels * (dw_d**2 + dw**2 + channels)


def lka_macs(kernel_size: int, channels: int, height: int, width: int, dilation: int | None = None) -> int:
    """Return F(K, d) = P(K, d) H W, the paper's "FLOPs" of the three convolutions (Eq. 4).

    Args:
        kernel_size: K.
        channels: C.
        height: Height H of the feature map.
        width: Width W of the feature map.
        dilation: d, from 1 to K; None for the best.

    Raises:
        VanError: an argument is out of range.
    """
    if min(height, width) < 1:
        raise VanError(f"The feature map is {height} x {width}, expected a height and a width of at least 1.")
    return lka_parameters(kernel_size, channels, dilation) * height * width


def standard_parameters(kernel_size: int, channels: int) -> int:
    """Return the parameters of a K x K convolution from C to C channels, K^2 C^2 (T2)."""
    _check_channels(channels)
    return kernel_size**2 * channels**2


def mobilenet_parameters(kernel_size: int, channels: int) -> int:
    """Return the parameters of a depth-wise K x K and a 1 x 1 convolution, C (K^2 + C) (T2)."""
    _check_channels(channels)
    return channels * (kernel_size**2 + channels)


def parameter_curve(kernel_size: int, channels: int) -> list[int]:
    """Return P(K, d) for d = 1 to K (Eq. 3); its minimum is at decompose(K).dilation.

    Args:
        kernel_size: K.
        channels: C.

    Raises:
        VanError: an argument is out of range.
    """
    lka_parameters(kernel_size, channels)  # checks
    return [lka_parameters(kernel_size, channels, d) for d in range(1, kernel_size + 1)]


def theoretical_extent(model: nn.Module) -> int:
    """Return the theoretical receptive field of a VAN: the side in pixels of the square that one output position sees.

    Each convolution on the longest path adds (k-1) * dilation steps of its input.

    Args:
        model: A VAN.

    Raises:
        VanError: it is not a VAN.
    """
    if not isinstance(model, VAN):
        raise VanError(f"The theoretical extent is known for VAN, not for {type(model).__name__}.")
    extent, step = 1, 1
    inside = ""
    for name, module in model.stages.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(module, Attention):
            inside = f"{name}."
            extent += module.reach() * step
        elif isinstance(module, nn.Conv2d):
            extent += reach(module) * step
            step *= module.stride[0]
    return extent


# -------------------------------------------------------------------------------------------- against self-attention


def gated_attention_macs(positions: int, channels: int, kernel_size: int = 21) -> int:
    """Return the cost of the attention part of a VAN block: Eq. 4 and two 1 x 1 convolutions, linear in the positions.

    Args:
        positions: Number of positions n = H W.
        channels: C.
        kernel_size: K.
    """
    return positions * (lka_parameters(kernel_size, channels) + 2 * channels**2)


def self_attention_macs(positions: int, channels: int) -> int:
    """Return the cost of global self-attention: four projections, 4 n C^2, and two products, 2 n^2 C.

    Args:
        positions: Number of positions n = H W.
        channels: C.
    """
    return positions * 4 * channels**2 + 2 * positions**2 * channels


class SizeCosts(NamedTuple):
    """Multiply-accumulates for square images of several sizes.

    Attributes:
        sides: Height and width of each image in pixels.
        lka: Cost of the attention part of one block of the first stage.
        self_attention: Its cost with global self-attention instead.
        network_lka: Cost of the whole network.
        network_self_attention: Its cost with global self-attention in every block.
        windowed: Cost of the attention part with self-attention inside windows of 7 x 7 positions.
    """

    sides: list[int]
    lka: list[int]
    self_attention: list[int]
    network_lka: list[int]
    network_self_attention: list[int]
    windowed: list[int]


def size_costs(name: str = "van_b2", sides: Sequence[int] = (224, 384, 512, 768, 1024, 1536, 2048)) -> SizeCosts:
    """Count what a VAN costs on larger and larger images, and what it would cost with self-attention.

    Args:
        name: Variant.
        sides: Heights and widths in pixels, multiples of 32.

    Raises:
        VanError: a side is not a multiple of 32, or there is no such variant.
    """
    if not sides or any(side < 32 or side % 32 for side in sides):
        raise VanError(f"Image sides are {list(sides)}, expected multiples of 32.")
    if name not in VARIANTS:
        raise VanError(f"There is no variant {name!r}, expected one of {', '.join(VARIANTS)}.")
    dims, depths = VARIANTS[name]["embed_dims"], VARIANTS[name]["depths"]
    result = SizeCosts(list(sides), [], [], [], [], [])
    for side in sides:
        maps = [(side // (4 * 2**i)) ** 2 for i in range(len(dims))]
        result.lka.append(gated_attention_macs(maps[0], dims[0]))
        result.self_attention.append(self_attention_macs(maps[0], dims[0]))
        result.windowed.append(maps[0] * (4 * dims[0] ** 2 + 2 * 49 * dims[0]))
        total = complexity(create_model(name, device="meta"), (3, side, side)).macs
        result.network_lka.append(total)
        for n, dim, depth in zip(maps, dims, depths, strict=True):
            total += depth * (self_attention_macs(n, dim) - gated_attention_macs(n, dim))
        result.network_self_attention.append(total)
    return result
