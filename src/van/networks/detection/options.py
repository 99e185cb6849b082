"""What a detector is made of: one set of options for command line, recipes, weight files and Python."""

from dataclasses import dataclass, field
from typing import Any, Literal

Architecture = Literal[
    "retinanet",
    "fcos",
    "faster_rcnn",
    "mask_rcnn",
    "cascade_mask_rcnn",
    "mask2former",
    "atss",
    "gfl",
    "deformable_detr",
    "rt_detr",
]


@dataclass
class DetectorOptions:
    """The detector: architecture, backbone, size of the images inside it.

    Attributes:
        architecture: retinanet, fcos, atss, gfl (boxes, one stage), faster_rcnn (boxes, two stages), mask_rcnn,
            cascade_mask_rcnn (boxes and masks), mask2former (masks and their boxes; through transformers),
            deformable_detr or rt_detr (boxes, no anchors; through transformers).
        backbone: van_b0 to van_b6, or any network of timm with four stages.
        backbone_args: More arguments of the backbone, such as drop_path_rate or embed_dims.
        min_size: Short edge in pixels to which images are scaled; of several, training takes one at random for each
            image and evaluation the last.
        max_size: Largest long edge; larger images are scaled further down.
        pyramid_channels: Width of the feature pyramid and of the heads on it.
        frozen_stages: Stages of the backbone, from the stem on, that stay as they are.
        freeze_norm: Whether all BatchNorm of the backbone stays as it is.
        mean: Mean of each colour, images from 0 to 1; null takes the backbone's own.
        std: Standard deviation of each colour; null takes the backbone's own.
        arguments: More arguments of the architecture, by the names of the function that builds it
            (van.heads.detection), such as anchor_sizes or detections_per_img.
    """

    architecture: Architecture = "retinanet"
    backbone: str = "van_b0"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    min_size: list[int] = field(default_factory=lambda: [800])
    max_size: int = 1333
    pyramid_channels: int = 256
    frozen_stages: int = 0
    freeze_norm: bool = False
    mean: list[float] | None = None
    std: list[float] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
