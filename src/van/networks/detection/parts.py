"""What the detectors share: image resizing, the feature pyramid, pooling, full precision outside convolutions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_map
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, roi_align
from torchvision.ops._utils import convert_boxes_to_roi_format
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.poolers import LevelMapper

from van.errors import VanError
from van.models.backbone import Backbone
from van.networks.dense import full_precision
from van.networks.detection.options import DetectorOptions

if TYPE_CHECKING:
    from van.networks.detection.faster_rcnn import FasterRCNNOptions


class Transform(GeneralizedRCNNTransform):
    """torchvision's resizing and padding, which also takes bytes.

    Only evaluation resizes: training images have the size that they were loaded with.

    Args:
        options: min_size, max_size, mean and std.
    """

    def __init__(self, options: DetectorOptions) -> None:
        super().__init__(cast(Any, options.min_size), options.max_size, cast(Any, options.mean), cast(Any, options.std))

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        """Map (3, H, W) from 0..255 (integers) or 0..1 (floats) to mean 0 and standard deviation 1."""
        unit = 1.0 if image.is_floating_point() else 255.0
        mean = torch.tensor(self.image_mean, device=image.device).mul_(unit)
        std = torch.tensor(self.image_std, device=image.device).mul_(unit)
        return (image - mean[:, None, None]).div_(std[:, None, None])

    def resized(self, height: Any, width: Any) -> tuple[Any, Any]:
        """Return the size that evaluation gives an image: the last of min_size, or less to keep within max_size."""
        low, high = torch.sym_min(height, width), torch.sym_max(height, width)
        short = cast(Any, self.min_size)[-1]

        def side(length: Any) -> Any:  # whole numbers: a factor 800 / length times length may be less than 800
            return torch.sym_min(length * short // low, length * self.max_size // high)

        return side(height), side(width)

    def resize(
        self, image: torch.Tensor, target: dict[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
        """Resize an image in evaluation."""
        size = tuple(image.shape[-2:]) if self.training else self.resized(*image.shape[-2:])
        if size == tuple(image.shape[-2:]):
            return image, target
        return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0], target


def level_sizes(height: Any, width: Any) -> list[tuple[Any, Any]]:
    """Return height and width of the levels of a pyramid on strides 8 to 32, and of two more with stride 2 each.

    Args:
        height: Height of the images, a multiple of 32.
        width: Their width, a multiple of 32.
    """
    sizes = [(height // stride, width // stride) for stride in (8, 16, 32)]
    for _ in range(2):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


class Pyramid(nn.Module):
    """A backbone and the feature pyramid on it (Lin et al. 2017, arXiv 1612.03144).

    Args:
        backbone: Its feature maps are what the pyramid is built on.
        channels: Channels of every level.
        extra: Levels on top: "pool" (every second position of the last level, for RPNs), "input" (two convolutions
            with stride 2 on the backbone's last map, as RetinaNet) or "output" (on the pyramid's last level, as FCOS).
    """

    def __init__(self, backbone: Backbone, channels: int, extra: Literal["pool", "input", "output"]) -> None:
        super().__init__()
        block: ExtraFPNBlock
        if extra == "pool":
            block = LastLevelMaxPool()
        else:
            block = LastLevelP6P7(backbone.channels[-1] if extra == "input" else channels, channels)
            block.use_P5 = extra == "output"  # torchvision guesses it from the channels
        self.backbone = backbone
        self.fpn = FeaturePyramidNetwork(backbone.channels, channels, block)
        self.out_channels = channels

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map (B, 3, H, W) to the levels, finest first, each (B, channels, h, w)."""
        return self.fpn({str(i): m for i, m in enumerate(self.backbone(x))})


class RoIAlign(MultiScaleRoIAlign):
    """torchvision's pooling with fixed strides 4 to 32, not guessed from the padding of the first batch.

    Args:
        output_size: Side length of the result.
        options: canonical_scale, sampling_ratio and aligned.
    """

    def __init__(self, output_size: int, options: "FasterRCNNOptions") -> None:
        scale = options.canonical_scale
        super().__init__(["0", "1", "2", "3"], output_size, options.sampling_ratio, canonical_scale=scale)
        self.scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
        self.map_levels = LevelMapper(2, 5, scale, canonical_level=4)
        self.aligned = options.aligned

    def forward(
        self, x: dict[str, torch.Tensor], boxes: list[torch.Tensor], image_shapes: list[tuple[int, int]]
    ) -> torch.Tensor:
        """Pool regions (N, 4) of each image from the level that fits their size: (all N, C, output_size twice)."""
        if not self.aligned:  # torchvision does not align regions on several levels
            return super().forward(x, boxes, image_shapes)
        regions, levels = convert_boxes_to_roi_format(boxes), cast(LevelMapper, self.map_levels)(boxes)
        pooled = x["0"].new_zeros(len(regions), x["0"].shape[1], *self.output_size)
        for level, (name, scale) in enumerate(zip(self.featmap_names, cast(Any, self.scales), strict=True)):
            at = torch.where(levels == level)[0]
            one = roi_align(x[name], regions[at], self.output_size, scale, self.sampling_ratio, aligned=True)
            pooled[at] = one.to(pooled.dtype)
        return pooled


def _float_hook(module: nn.Module, args: Any, output: Any) -> Any:
    return tree_map(lambda value: full_precision(value) if isinstance(value, torch.Tensor) else value, output)


def float_outputs(*modules: nn.Module) -> None:
    """Make modules return float32 under autocast too: pixels up to 1333 need more than the 8 bits of bfloat16."""
    for module in modules:
        module.register_forward_hook(_float_hook)


def group_norm(channels: int) -> Callable[[int], nn.Module]:
    """Return a constructor of GroupNorm with 8 channels per group: 32 groups at the usual 256 channels.

    Raises:
        VanError: The channels are no multiple of 8.
    """
    if channels % 8:
        raise VanError(f"pyramid_channels is {channels}, expected a multiple of 8: the head normalizes groups of 8.")
    return partial(nn.GroupNorm, channels // 8)


def sizes_per_level(sizes: Sequence[float | Sequence[float]], levels: int) -> tuple[tuple[float, ...], ...]:
    """Return the anchor sizes of each level in torchvision's form; an entry is a number or a list of several."""
    if len(sizes) != levels:
        raise VanError(f"anchor_sizes has {len(sizes)} entries, expected {levels}: one (a number or a list) per level.")
    return tuple(tuple(s) if isinstance(s, Sequence) else (s,) for s in sizes)
