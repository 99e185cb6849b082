"""What segmentation networks are built from. Imports no torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from van.errors import VanError
from van.networks.options import IGNORED, NetworkOptions

if TYPE_CHECKING:
    from torch import nn

    from van.models.backbone import Backbone


@dataclass
class SemanticOptions(NetworkOptions):
    """What networks share that give every pixel a class.

    Attributes:
        dropout: Dropout rate of the channels before the classifiers.
        loss_over: Pixels that the loss is averaged over: those that are labeled, or all, where ignored ones count as 0
            (avg_non_ignore=False in MMSegmentation).
    """

    dropout: float = 0.1
    loss_over: Literal["labeled", "all"] = "labeled"

    def check(self, outputs: int) -> None:
        """Raise VanError where there are more classes than labels, or loss_over is unknown."""
        if self.loss_over not in ("labeled", "all"):
            raise VanError(f"loss_over is {self.loss_over!r}, expected labeled or all.")
        if outputs > IGNORED:
            raise VanError(f"num_classes is {outputs}, expected at most {IGNORED}: that label marks ignored pixels.")


@dataclass
class SemanticFPNOptions(SemanticOptions):
    """Semantic FPN: a feature pyramid and one light head on all its levels.

    Attributes:
        architecture: semantic_fpn.
        pyramid_channels: Channels of the feature pyramid.
        channels: Channels of the head.
    """

    architecture: Literal["semantic_fpn"] = "semantic_fpn"
    pyramid_channels: int = 256
    channels: int = 128

    def network(self, backbone: "Backbone", outputs: int) -> "nn.Module":
        """Return the network on a backbone."""
        from van.networks.segmentation.semantic_fpn import SemanticFPN

        return SemanticFPN(backbone, outputs, self)


@dataclass
class UPerNetOptions(SemanticOptions):
    """UPerNet: pyramid pooling and a feature pyramid. Needs the extra segmentation.

    Attributes:
        architecture: upernet.
        channels: Channels of the head.
        pool_scales: Side lengths of the maps that the last feature map is pooled to.
        auxiliary_channels: Channels of the auxiliary head on the third feature map, which only training uses.
        auxiliary_weight: Weight of the auxiliary loss.
    """

    architecture: Literal["upernet"] = "upernet"
    channels: int = 512
    pool_scales: list[int] = field(default_factory=lambda: [1, 2, 3, 6])
    auxiliary_channels: int = 256
    auxiliary_weight: float = 0.4

    def network(self, backbone: "Backbone", outputs: int) -> "nn.Module":
        """Return the network on a backbone."""
        from van.networks.segmentation.upernet import UPerNet

        return UPerNet(backbone, outputs, self)


@dataclass
class Mask2FormerOptions(NetworkOptions):
    """Mask2Former: each query gives a mask and its class. Needs the extra segmentation.

    Attributes:
        architecture: mask2former.
        pyramid_channels: Width of pixel decoder and queries, at least 64, a multiple of 32 and of heads.
        queries: Number of queries, the most segments of an image.
        encoder_layers: Layers of deformable attention in the pixel decoder.
        encoder_width: Hidden width of their feed-forward networks.
        decoder_layers: Layers of the transformer decoder.
        decoder_width: Hidden width of their feed-forward networks.
        heads: Attention heads.
        dropout: Dropout rate in all layers.
        points: Points sampled to compare masks in training.
        class_weight: Weight of the classification loss.
        mask_weight: Weight of the masks' cross-entropy.
        dice_weight: Weight of the masks' Dice loss.
        no_object_weight: Weight of queries without an object in the classification loss.
    """

    architecture: Literal["mask2former"] = "mask2former"
    pyramid_channels: int = 256
    queries: int = 100
    encoder_layers: int = 6
    encoder_width: int = 1024
    decoder_layers: int = 9
    decoder_width: int = 2048
    heads: int = 8
    dropout: float = 0.0
    points: int = 12544
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1

    def check(self, outputs: int) -> None:
        """Raise VanError where an option is out of range."""
        width, counts = self.pyramid_channels, (self.queries, self.encoder_layers, self.decoder_layers, self.points)
        if width < 64 or width % 32 or self.heads < 1 or width % self.heads or min(counts) < 1:
            raise VanError(
                f"pyramid_channels is {width}, heads {self.heads}, queries {self.queries}, encoder_layers "
                f"{self.encoder_layers}, decoder_layers {self.decoder_layers} and points {self.points}, expected at "
                "least 1 of each, and pyramid_channels at least 64, a multiple of 32 and of heads."
            )

    def network(self, backbone: "Backbone", outputs: int) -> "nn.Module":
        """Return the network on a backbone."""
        from van.networks.segmentation.mask2former import Mask2Former

        return Mask2Former(backbone, outputs, self)
