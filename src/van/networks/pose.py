"""SimpleBaseline (Xiao et al. 2018, arXiv 1804.06208): keypoints as heat maps, from persons cut out of the image."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from van.errors import VanError
from van.models.backbone import Backbone

CONFIDENT = 0.2  # of Xiao et al.: lower values of a heat map do not count for a person
_SUPPORT = 3.0  # a Gaussian ends, for the eye, after three standard deviations


@dataclass
class PoseOptions:
    """The pose network.

    Attributes:
        backbone: van_b0 to van_b6, or any network of timm with feature maps.
        backbone_args: More arguments of the backbone, such as drop_path_rate or embed_dims.
        image_size: Height and width of the crop around a person.
        sigma: Standard deviation of the Gaussians in the target heat maps, in pixels of the heat maps.
        deconvolutions: How many times the backbone's last map is doubled.
        channels: Channels of each deconvolution.
        frozen_stages: Stages of the backbone that stay as they are.
        freeze_norm: Whether all BatchNorm of the backbone stays as it is.
        mean: Mean of each colour, images from 0 to 1; null takes the backbone's own.
        std: Standard deviation of each colour; null takes the backbone's own.
    """

    backbone: str = "van_b0"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    image_size: list[int] = field(default_factory=lambda: [256, 192])
    sigma: float = 2.0
    deconvolutions: int = 3
    channels: int = 256
    frozen_stages: int = 0
    freeze_norm: bool = False
    mean: list[float] | None = None
    std: list[float] | None = None


class SimpleBaseline(nn.Module):
    """A backbone, deconvolutions that double its last map, and one heat map for each keypoint.

    Args:
        backbone: Gives a list of feature maps; the last one is used.
        keypoints: Number of keypoints K.
        deconvolutions: How many times the map is doubled (4x4, stride 2, BatchNorm, ReLU).
        channels: Channels of each deconvolution.
        mean: Mean of each colour, images from 0 to 1.
        std: Standard deviation of each colour.
        device: Where the parameters are made; "meta" for counting.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        backbone: Backbone,
        keypoints: int = 17,
        deconvolutions: int = 3,
        channels: int = 256,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.keypoints = keypoints
        self.stride = backbone.strides[-1] // 2**deconvolutions
        self.backbone = backbone
        layers: list[nn.Module] = []
        width = backbone.channels[-1]
        for _ in range(deconvolutions):
            layers += [
                nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False, device=device),
                nn.BatchNorm2d(channels, device=device),
                nn.ReLU(inplace=True),
            ]
            width = channels
        self.deconvolutions = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, keypoints, 1, device=device)
        self.register_buffer("mean", torch.tensor(mean, device=device).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, device=device).view(1, 3, 1, 1), persistent=False)
        for module in (*self.deconvolutions, self.head):
            if isinstance(module, nn.ConvTranspose2d | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.001)  # as Xiao et al. do
        nn.init.zeros_(self.head.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W), uint8 or floating point from 0 to 1, to heat maps (B, K, H / stride, W / stride)."""
        images = images.to(self.mean.dtype) / 255 if images.dtype == torch.uint8 else images
        return self.head(self.deconvolutions(self.backbone((images - self.mean) / self.std)[-1]))


def build_pose(
    options: PoseOptions,
    keypoints: int = 17,
    pretrained: str | None = None,
    device: torch.device | str | None = None,
) -> SimpleBaseline:
    """Build the network that options describe.

    Args:
        options: Backbone, sizes, head.
        keypoints: Number of keypoints.
        pretrained: Weights of the backbone: a file of any known layout or "hub"; None for random ones.
        device: Where it is built; "meta" for counting.

    Raises:
        VanError: a number is out of its range, the image size does not fit the network, or the backbone is unknown.
    """
    if options.deconvolutions < 0 or options.channels < 1 or not options.sigma > 0:
        raise VanError(
            f"deconvolutions is {options.deconvolutions}, channels {options.channels} and sigma {options.sigma}, "
            "expected at least 0, at least 1 and a number above 0."
        )
    backbone = Backbone(
        options.backbone,
        pretrained,
        out_indices=(3,),
        frozen_stages=options.frozen_stages,
        freeze_norm=options.freeze_norm,
        device=device,
        **options.backbone_args,
    )
    size = options.image_size
    stride = backbone.strides[-1]
    if len(size) != 2 or min(size) < stride or any(side % stride for side in size):
        raise VanError(f"image_size is {size}, expected a height and a width that are multiples of {stride}.")
    if 2**options.deconvolutions > stride:
        raise VanError(
            f"deconvolutions is {options.deconvolutions}, but the last map of {options.backbone} has stride {stride}: "
            "the heat maps would be larger than the image."
        )
    mean, std = options.mean or backbone.mean, options.std or backbone.std
    if (options.mean is None) != (options.std is None) or len(mean) != 3 or len(std) != 3:
        raise VanError(f"mean is {options.mean} and std {options.std}, expected three numbers each, or null for both.")
    return SimpleBaseline(backbone, keypoints, options.deconvolutions, options.channels, mean, std, device)


def complete_options(options: PoseOptions, model: SimpleBaseline) -> PoseOptions:
    """Return options that build the same network without its first weights: what these brought is written down.

    Args:
        options: What the network was built from.
        model: The network.
    """
    return replace(
        options,
        backbone_args=dict(model.backbone.model_args),
        mean=[round(value, 6) for value in model.mean.flatten().tolist()],
        std=[round(value, 6) for value in model.std.flatten().tolist()],
    )


def gaussian_maps(
    keypoints: torch.Tensor, size: tuple[int, int], stride: int, sigma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the heat maps that a network should give, and which of them count.

    Args:
        keypoints: (B, K, 3): x and y in pixels of the image, visibility (0 for unknown).
        size: Height and width of the heat maps.
        stride: Pixels of the image per pixel of the heat maps.
        sigma: Standard deviation in pixels of the heat maps.

    Returns:
        Heat maps (B, K, h, w) with 1 at the keypoint, which may lie between pixels, and weights (B, K): 0 for unknown
        keypoints and those so far outside that nothing of them is on the map, else 1.
    """
    points = keypoints.float()
    x, y = points[..., 0, None] / stride, points[..., 1, None] / stride
    height, width = size
    across = torch.exp(-((torch.arange(width, device=points.device) - x) ** 2) / (2 * sigma**2))
    down = torch.exp(-((torch.arange(height, device=points.device) - y) ** 2) / (2 * sigma**2))
    reach = _SUPPORT * sigma
    inside = (x > -reach) & (x < width - 1 + reach) & (y > -reach) & (y < height - 1 + reach)
    weights = ((points[..., 2] > 0) & inside[..., 0]).float()
    return down[..., :, None] * across[..., None, :], weights


def decode_maps(maps: torch.Tensor) -> torch.Tensor:
    """Find the keypoints in heat maps: the largest value, moved by a quarter of a pixel to its larger neighbour.

    Args:
        maps: (B, K, h, w).

    Returns:
        (B, K, 3): x and y in pixels of the heat maps, value of the map there. At the border nothing is moved.
    """
    maps = maps.float()
    batch, keypoints, height, width = maps.shape
    values, index = maps.flatten(2).max(2)
    x, y = index % width, index // width
    padded = maps.new_zeros(batch, keypoints, height + 2, width + 2)
    padded[..., 1:-1, 1:-1] = maps
    flat = padded.flatten(2)

    def at(dx: int, dy: int) -> torch.Tensor:
        return flat.gather(2, ((y + 1 + dy) * (width + 2) + x + 1 + dx).unsqueeze(2)).squeeze(2)

    move_x = torch.sign(at(1, 0) - at(-1, 0)) * ((x > 0) & (x < width - 1))
    move_y = torch.sign(at(0, 1) - at(0, -1)) * ((y > 0) & (y < height - 1))
    return torch.stack([x + 0.25 * move_x, y + 0.25 * move_y, values], 2)


def average_flipped(maps: torch.Tensor, flipped: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Average the heat maps of an image with those of its mirror image.

    Where pixel x of the image is pixel x / stride of the heat map, mirroring back lands up to a pixel too far left:
    the mirrored maps are moved by one pixel to the right, as all implementations do.

    Args:
        maps: Heat maps (B, K, h, w) of images.
        flipped: Heat maps of the same images, mirrored left to right.
        pairs: Numbers of the keypoints that change places in a mirror, such as left and right eye.
    """
    back = flipped.flip(3)[:, mirror_order(maps.shape[1], pairs)]
    back[..., 1:] = back[..., :-1].clone()
    return (maps + back) / 2


def mirror_order(keypoints: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Return for each keypoint the number of the one that it becomes in a mirror."""
    order = list(range(keypoints))
    for left, right in pairs:
        order[left], order[right] = right, left
    return order


def image_keypoints(maps: torch.Tensor, matrices: torch.Tensor, stride: int) -> torch.Tensor:
    """Find the keypoints in heat maps of crops, in pixels of the images that the crops are from.

    Args:
        maps: (B, K, h, w).
        matrices: (B, 2, 3), from pixels of the crop to those of the image.
        stride: Pixels of the crop per pixel of the heat maps.

    Returns:
        (B, K, 3): x, y, value of the map, on the CPU.
    """
    points = decode_maps(maps).cpu()
    matrices = matrices.float().cpu()
    moved = stride * points[..., :2] @ matrices[:, :, :2].mT + matrices[:, None, :, 2]
    return torch.cat([moved, points[..., 2:]], 2)


def person_scores(keypoints: torch.Tensor, box_scores: torch.Tensor) -> torch.Tensor:
    """Return how certain persons are: the score of the box times the mean of the confident heat-map values.

    Args:
        keypoints: (B, K, 3): x, y, value of the map.
        box_scores: (B,).
    """
    values = keypoints[..., 2]
    confident = values > CONFIDENT
    return box_scores.cpu() * (values * confident).sum(1) / confident.sum(1).clamp(min=1)


def coco_results(maps: torch.Tensor, batch: dict[str, Any], stride: int) -> list[dict[str, Any]]:
    """Return what COCO's results JSON says of the persons of a batch.

    Args:
        maps: Heat maps (B, K, h, w).
        batch: What a PoseDataset gives: matrix, score, image_id, category_id.
        stride: Pixels of the crop per pixel of the heat maps.
    """
    keypoints = image_keypoints(maps, batch["matrix"], stride)
    scores = person_scores(keypoints, batch["score"].float())
    return [
        {
            "image_id": image_id,
            "category_id": category_id,
            "keypoints": [round(number, digits) for x, y, v in points for number, digits in ((x, 2), (y, 2), (v, 4))],
            "score": round(score, 6),
        }
        for image_id, category_id, points, score in zip(
            batch["image_id"].tolist(), batch["category_id"].tolist(), keypoints.tolist(), scores.tolist(), strict=True
        )
    ]
