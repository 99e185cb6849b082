"""RetinaNet (Lin et al. 2017, arXiv 1708.02002)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from van.errors import VanError
from van.networks.detection.options import OneStageOptions

if TYPE_CHECKING:
    from torch import nn

    from van.models.backbone import Backbone


@dataclass
class RetinaNetOptions(OneStageOptions):
    """RetinaNet: boxes from anchors, one stage.

    Attributes:
        architecture: retinanet.
        anchor_sizes: Side length in pixels of the anchors of each of the five levels; a list gives all sizes of its
            level.
        scales_per_octave: Number of sizes made of each single number: it times 2**(i / scales_per_octave).
        aspect_ratios: Height divided by width of the anchors.
        foreground_iou: Anchors that overlap a box by at least this IoU learn it.
        background_iou: Anchors that overlap every box by less learn background.
    """

    architecture: Literal["retinanet"] = "retinanet"
    anchor_sizes: list[float | list[float]] = field(default_factory=lambda: [32, 64, 128, 256, 512])
    scales_per_octave: int = 3
    aspect_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    foreground_iou: float = 0.5
    background_iou: float = 0.4

    def detector(self, backbone: "Backbone", num_classes: int) -> "nn.Module":
        """Return RetinaNet on the stages with strides 8 to 32 and two levels above."""
        from torchvision.models.detection.anchor_utils import AnchorGenerator

        from van.networks.detection.one_stage import RetinaNet
        from van.networks.detection.parts import Pyramid, Transform, float_outputs, sizes_per_level

        octave = [2 ** (i / self.scales_per_octave) for i in range(self.scales_per_octave)]
        per_level = sizes_per_level(
            [size if isinstance(size, list) else [size * scale for scale in octave] for size in self.anchor_sizes], 5
        )
        if len({len(sizes) for sizes in per_level}) != 1:
            raise VanError(f"anchor_sizes is {self.anchor_sizes}, expected the same number of sizes for each level.")
        model = RetinaNet(
            Pyramid(backbone, self.pyramid_channels, "input"),
            num_classes,
            anchor_generator=AnchorGenerator(per_level, (tuple(self.aspect_ratios),) * 5),
            fg_iou_thresh=self.foreground_iou,
            bg_iou_thresh=self.background_iou,
            **self.postprocessing(),
        )
        model.transform = Transform(self)
        float_outputs(model.backbone, model.head)
        return model
