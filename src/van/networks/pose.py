"""SimpleBaseline (Xiao et al. 2018, arXiv 1804.06208): keypoints as heat maps, on crops around persons."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from van.errors import DataError, VanError
from van.models.backbone import Backbone
from van.networks.options import SimpleBaselineOptions

CONFIDENT = 0.2  # as in Xiao et al.: keypoints with a smaller heat map value do not count for a person's score
_SUPPORT = 3.0  # standard deviations after which a Gaussian is taken to end


class SimpleBaseline(nn.Module):
    """A backbone, deconvolutions that double its last feature map, and one heat map for each keypoint.

    Args:
        backbone: The last of its feature maps is used.
        keypoints: Number of keypoints K.
        options: What the network is built from, with mean and std.

    Attributes:
        options: Those options.
        stride: Pixels of the crop per pixel of the heat maps.
        input_size: (3, H, W) of the crops.
        core_outputs: Names of what core returns.
        core_batched: Whether core takes several images at once.

    Raises:
        VanError: The image size or the deconvolutions do not fit the backbone.
    """

    core_outputs: ClassVar[tuple[str, ...]] = ("heat_maps",)
    core_batched: ClassVar[bool] = True
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: Backbone, keypoints: int, options: SimpleBaselineOptions) -> None:
        super().__init__()
        size, stride = options.image_size, backbone.strides[-1]
        if len(size) != 2 or min(size) < stride or any(side % stride for side in size):
            raise VanError(f"image_size is {size}, expected a height and a width that are multiples of {stride}.")
        if 2**options.deconvolutions > stride:
            raise VanError(
                f"deconvolutions is {options.deconvolutions}, but the last map of {options.backbone} has stride "
                f"{stride}: the heat maps would be larger than the image."
            )
        self.options = options
        self.keypoints = keypoints
        self.stride = stride // 2**options.deconvolutions
        self.input_size: tuple[int, int, int] = (3, size[0], size[1])
        self.backbone = backbone
        layers: list[nn.Module] = []
        width = backbone.channels[-1]
        for _ in range(options.deconvolutions):
            layers += [
                nn.ConvTranspose2d(width, options.channels, 4, 2, 1, bias=False),
                nn.BatchNorm2d(options.channels),
                nn.ReLU(inplace=True),
            ]
            width = options.channels
        self.deconvolutions = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, keypoints, 1)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(options, name)).view(1, 3, 1, 1), persistent=False)
        for module in (*self.deconvolutions, self.head):
            if isinstance(module, nn.ConvTranspose2d | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.001)  # as Xiao et al. do
        nn.init.zeros_(self.head.bias)  # pyright: ignore[reportArgumentType]

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize crops (B, 3, H, W), bytes or floats from 0 to 1."""
        images = images.to(self.mean.dtype) / 255 if images.dtype == torch.uint8 else images
        return (images - self.mean) / self.std

    def core(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalized crops (B, 3, H, W) to heat maps (B, K, h, w); inference engines take the place of this."""
        return self.head(self.deconvolutions(self.backbone(images)[-1]))

    def forward(
        self, images: torch.Tensor, targets: torch.Tensor | None = None
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Find keypoints.

        Args:
            images: Crops (B, 3, H, W), uint8 or floats from 0 to 1.
            targets: In training keypoints (B, K, 3): x and y in pixels of the crop, visibility (0 for unlabeled).

        Returns:
            In training with targets, the loss by its name; otherwise heat maps (B, K, H / stride, W / stride).

        Raises:
            DataError: The targets have the wrong shape.
        """
        maps = self.core(self.prepare(images))
        if not self.training or targets is None:
            return maps
        return {"heat_map": self.loss(maps, targets)}

    def loss(self, maps: torch.Tensor, keypoints: torch.Tensor) -> torch.Tensor:
        """Return the heat map loss of outputs, also in evaluation.

        Args:
            maps: Heat maps (B, K, h, w).
            keypoints: (B, K, 3), as in forward.

        Raises:
            DataError: The keypoints have the wrong shape.
        """
        if tuple(keypoints.shape) != (*maps.shape[:2], 3):
            raise DataError(
                f"Targets have shape {tuple(keypoints.shape)}, expected ({len(maps)}, {self.keypoints}, 3): x, y and "
                "visibility of every keypoint."
            )
        size = (maps.shape[2], maps.shape[3])
        target, weights = gaussian_maps(keypoints, size, self.stride, self.options.sigma, self.options.round_centers)
        return heat_map_loss(maps, target, weights, self.options.average_over == "all")


def heat_map_loss(
    maps: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, over_all: bool = False
) -> torch.Tensor:
    """Return the mean squared error over the heat maps that count.

    Args:
        maps: (B, K, h, w).
        target: The same shape.
        weights: (B, K), 0 for keypoints without a label.
        over_all: Divide by the number of all keypoints, not only of those with a label.
    """
    errors = (maps.float() - target).square().mean((2, 3)) * weights
    return errors.mean() if over_all else errors.sum() / weights.sum().clamp(min=1.0)


def gaussian_maps(
    keypoints: torch.Tensor, size: tuple[int, int], stride: int, sigma: float, rounded: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return target heat maps and which of them count.

    Args:
        keypoints: (B, K, 3): x and y in pixels of the image, visibility (0 for unlabeled).
        size: Height and width of the heat maps.
        stride: Pixels of the image per pixel of the heat maps.
        sigma: Standard deviation in pixels of the heat maps.
        rounded: Round keypoints to pixels and cut the Gaussians off, as Xiao et al.

    Returns:
        Heat maps (B, K, h, w) with 1 at the keypoint, which may lie between pixels, and weights (B, K): 0 for unlabeled
        keypoints and those so far outside that their Gaussian does not reach the map, otherwise 1.
    """
    points = keypoints.float()
    across, columns = _profile(points[..., 0, None] / stride, size[1], sigma, rounded)
    down, rows = _profile(points[..., 1, None] / stride, size[0], sigma, rounded)
    weights = ((points[..., 2] > 0) & columns & rows).float()
    return down[..., :, None] * across[..., None, :], weights


def _profile(middle: torch.Tensor, length: int, sigma: float, rounded: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Gaussians (..., length) around middles (..., 1), and whether they reach the map (...)."""
    reach, pixels = _SUPPORT * sigma, torch.arange(length, device=middle.device)
    if rounded:
        middle = (middle + 0.5).trunc()
        near = (pixels - middle).abs() <= reach
        inside = (middle >= -reach - 1) & (middle < length + reach)  # some that just miss the map count there
    else:
        near, inside = True, (middle > -reach) & (middle < length - 1 + reach)
    return torch.exp(-((pixels - middle) ** 2) / (2 * sigma**2)) * near, inside[..., 0]


def decode_maps(maps: torch.Tensor) -> torch.Tensor:
    """Find the keypoints in heat maps: the maximum, moved a quarter pixel towards its larger neighbors, as Xiao et al.

    Args:
        maps: (B, K, h, w).

    Returns:
        (B, K, 3): x and y in pixels of the heat maps, value of the map there. Nothing is moved within two pixels of the
        left or top edge, or at the right or bottom edge. A map without a positive value gives x and y 0.
    """
    maps = maps.float()
    height, width = maps.shape[2:]
    flat = maps.flatten(2)
    values, index = flat.max(2)
    x, y = index % width, index // width
    refined = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    index = index * refined  # position 0 where nothing is moved
    last = height * width - 1

    def slope(step: int) -> torch.Tensor:
        after, before = ((index + move).clamp(0, last).unsqueeze(2) for move in (step, -step))
        return torch.sign(flat.gather(2, after) - flat.gather(2, before)).squeeze(2) * refined

    points = torch.stack([x + 0.25 * slope(1), y + 0.25 * slope(width)], 2) * (values > 0).unsqueeze(2)
    return torch.cat([points, values.unsqueeze(2)], 2)


def average_flipped(maps: torch.Tensor, flipped: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Average the heat maps of an image with those of its mirror image.

    Pixel x of the image is pixel x / stride of the heat map, so mirroring back lands up to a pixel too far left: the
    mirrored maps are shifted one pixel to the right, as all implementations do.

    Args:
        maps: Heat maps (B, K, h, w) of images.
        flipped: Heat maps of the same images, mirrored left to right.
        pairs: Indices of the keypoints that swap in a mirror, such as left and right eye.
    """
    back = flipped.flip(3)[:, mirror_order(maps.shape[1], pairs)]
    back[..., 1:] = back[..., :-1].clone()
    return (maps + back) / 2


def mirror_order(keypoints: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Return for each keypoint the index of the one that it becomes in a mirror."""
    order = list(range(keypoints))
    for left, right in pairs:
        order[left], order[right] = right, left
    return order


def image_keypoints(maps: torch.Tensor, matrices: torch.Tensor, stride: int) -> torch.Tensor:
    """Find the keypoints in heat maps of crops, in pixels of the original images.

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
    """Return the scores of persons: the box's score times the mean of the confident heat map values.

    Args:
        keypoints: (B, K, 3): x, y, value of the map.
        box_scores: (B,).
    """
    values = keypoints[..., 2]
    confident = values > CONFIDENT
    total = (values * confident).sum(1) + 0.0  # no -0.0 where none is confident
    return box_scores.cpu() * total / confident.sum(1).clamp(min=1)


def coco_results(maps: torch.Tensor, batch: dict[str, Any], stride: int) -> list[dict[str, Any]]:
    """Return the entries of COCO's results JSON for the persons of a batch.

    Args:
        maps: Heat maps (B, K, h, w).
        batch: Of a pose dataset: matrix, score, image_id, category_id.
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
