"""What the exported file of a pose network computes."""

from typing import TYPE_CHECKING

import torch

from van.data.pose import PADDING
from van.engine.graph import Graph
from van.networks.pose import CONFIDENT, average_flipped, decode_maps
from van.networks.resizing import apply_weights, number

if TYPE_CHECKING:
    from van.engine.predictor import Predictor


class PoseGraph(Graph):
    """images -> heat maps (B, K, h, w), or with postprocess keypoints (B, K, 3): x, y and score, and scores (B,).

    With preprocess the images are bytes of any size, each of which shows one person, and keypoints are in its pixels;
    without it the images are normalized crops of the network's size, and keypoints are in pixels of these.

    Args:
        predictor: Of a pose network.
        preprocess: See Graph.
        postprocess: Return keypoints and the scores of the persons.
    """

    def __init__(self, predictor: "Predictor", preprocess: bool, postprocess: bool) -> None:
        super().__init__(predictor, preprocess, postprocess, ("keypoints", "scores") if postprocess else None)
        self.flip = predictor.inference.flip_test
        self.pairs = [tuple(pair) for pair in predictor.extra["flip_pairs"]]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images (B, 3, H, W) to heat maps, or keypoints and scores."""
        crops, scale, left, top = self._crops(images) if self.preprocess else (images, 1.0, 0.0, 0.0)
        prepared = self.network.prepare(crops / 255) if self.preprocess else crops
        [maps] = self.core(prepared)
        if not self.postprocess:
            return (maps,)
        if self.flip:
            maps = average_flipped(maps, self.core(prepared.flip(3))[0], self.pairs)
        points = decode_maps(maps)
        values = points[..., 2]
        x, y = (points[..., i] * self.network.stride for i in (0, 1))
        x, y = x * scale + left, y * scale + top
        confident = (values > CONFIDENT).float()
        scores = (values * confident).sum(1) / confident.sum(1).clamp(min=1)
        return torch.stack([x, y, values], 2), scores

    def _crops(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return crops (B, 3, H, W) of bytes around whole images, and the map from their pixels to those of the images.

        What lies outside of the image is black; where images shrink by two or more, whole pixels are averaged first.
        """
        size = self.network.input_size[1:]
        height, width = (number(side, images) for side in images.shape[-2:])
        scale = PADDING * torch.maximum(width, height * size[1] / size[0]) / size[1]
        shrink = scale.floor().clamp(min=1)
        matrices, starts = [], []
        for length, side, count in zip(images.shape[-2:], (height, width), size, strict=True):
            start = (side - 1) / 2 - scale * (count - 1) / 2
            places = torch.arange(count, dtype=torch.float32, device=images.device) * scale + start
            places = (places - (shrink - 1) / 2) / shrink
            cells = (torch.arange(length, dtype=torch.float32, device=images.device) / shrink + 1e-4).floor()
            last = ((side - 1) / shrink + 1e-4).floor()
            inside = (places >= -0.5) & (places < last + 0.5)
            near = (1 - (places.clamp(min=0).minimum(last)[:, None] - cells).abs()).clamp(min=0)
            members = torch.where(cells < last, shrink, side - last * shrink)
            matrices.append(near * inside[:, None] / members)
            starts.append(start)
        return apply_weights(images, *matrices), scale, starts[1], starts[0]
