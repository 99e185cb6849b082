"""What exported files of networks that predict per pixel share: scaling, averaging with the mirror image, enlarging."""

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F

from van.networks.resizing import resize

if TYPE_CHECKING:
    from van.networks.segmentation.views import View


def seen_size(size: "torch.Size | tuple[int, int]", view: "View") -> tuple[int, int]:
    """Return View.size_for, whose height and width are dynamic: in whole numbers, which exporters can express."""
    height, width = size
    if view.image_size:
        return view.seen(*view.image_size)
    if not view.fit:
        return view.seen(height, width)
    short, long = cast(Any, torch.sym_min(height, width)), cast(Any, torch.sym_max(height, width))
    found = (
        torch.sym_min(_divided(side * min(view.fit), short), _divided(side * max(view.fit), long))
        for side in (height, width)
    )
    high, wide = (cast(Any, torch.sym_max(side, 1)) for side in found)
    return view.seen(high, wide)


def _divided(number: int, by: int) -> int:
    """Return number / by, rounded as round does: halves to even numbers."""
    below = (2 * number + by) // (2 * by)
    half = 1 - cast(Any, torch.sym_min((2 * number + by) % (2 * by), 1))
    return below - half * (below % 2)


def scaled(images: torch.Tensor, view: "View") -> torch.Tensor:
    """Return images of bytes (B, 3, H, W) at the size at which a network sees them, as floats from 0 to 1."""
    if view.fit or view.image_size or view.seen(33, 33) != (33, 33):
        images = resize(images, seen_size(images.shape[-2:], view), antialias=view.antialias)
    return images.float() / 255


def enlarged(scores: torch.Tensor, size: "torch.Size | tuple[int, int]") -> torch.Tensor:
    """Bring scores (B, K, h, w) to a size by bilinear interpolation."""
    return F.interpolate(scores, size=tuple(size), mode="bilinear", align_corners=False)
