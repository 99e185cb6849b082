"""What the detectors' options share. Imports no torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from van.errors import VanError
from van.networks.options import NetworkOptions

if TYPE_CHECKING:
    from torch import nn

    from van.models.backbone import Backbone


@dataclass
class DetectorOptions(NetworkOptions):
    """A detector. A subclass defines the method detector.

    Attributes:
        min_size: Short edge in pixels that images are resized to. Given several, one is picked at random for each
            training image and evaluation takes the last. Training images are resized where they are loaded.
        max_size: Largest long edge in pixels; larger images are scaled down further.
        pyramid_channels: Width of the feature pyramid and of the heads on it.
    """

    min_size: list[int] = field(default_factory=lambda: [800])
    max_size: int = 1333
    pyramid_channels: int = 256

    def check(self, outputs: int) -> None:
        """Raise VanError where an option is out of range."""
        if not self.min_size or min(self.min_size) < 32 or self.max_size < max(self.min_size):
            raise VanError(
                f"min_size is {self.min_size} and max_size {self.max_size}, expected at least 32 pixels, and max_size "
                "at least min_size."
            )
        for name in ("score_threshold", "nms_threshold"):
            if not 0 <= (value := getattr(self, name, 0)) <= 1:
                raise VanError(f"{name} is {value}, expected a number from 0 to 1.")
        for name in ("detections_per_image", "topk_candidates"):
            if (value := getattr(self, name, 1)) < 1:
                raise VanError(f"{name} is {value}, expected at least 1.")

    def network(self, backbone: "Backbone", outputs: int) -> "nn.Module":
        """Return the detector behind the interface of all detectors."""
        from van.networks.detection.detector import Detector

        return Detector(self.detector(backbone, outputs), self, outputs)

    def detector(self, backbone: "Backbone", num_classes: int) -> "nn.Module":
        """Return the network itself.

        It maps images, and in training targets, to losses or detections as torchvision's detectors do, but labels count
        from 0. Its counted_forward maps (B, 3, H, W) through every layer; has_masks says whether it predicts masks.
        """
        raise NotImplementedError


@dataclass
class OneStageOptions(DetectorOptions):
    """A detector that classifies every position of the pyramid.

    Attributes:
        score_threshold: Detections with a smaller score are dropped.
        nms_threshold: Of two boxes of a class that overlap by a larger IoU, only the better one is kept.
        detections_per_image: Largest number of detections per image.
        topk_candidates: Largest number of detections per pyramid level before non-maximum suppression.
    """

    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections_per_image: int = 100
    topk_candidates: int = 1000

    out_indices: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def postprocessing(self) -> dict[str, Any]:
        """Return these options under torchvision's names."""
        return {
            "score_thresh": self.score_threshold,
            "nms_thresh": self.nms_threshold,
            "detections_per_img": self.detections_per_image,
            "topk_candidates": self.topk_candidates,
        }


@dataclass
class DETROptions(DetectorOptions):
    """A detector of transformers: queries find objects, without anchors. Needs the extra detection.

    Attributes:
        queries: Number of queries, the most objects of an image.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder, at least 2.
        feedforward_width: Hidden width of the feed-forward networks.
        score_threshold: Detections with a smaller score are dropped.
        detections_per_image: Largest number of detections per image.
    """

    queries: int = 300
    encoder_layers: int = 6
    decoder_layers: int = 6
    feedforward_width: int = 1024
    score_threshold: float = 0.0
    detections_per_image: int = 100

    out_indices: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def check(self, outputs: int) -> None:
        """Raise VanError where an option is out of range."""
        super().check(outputs)
        if self.decoder_layers < 2:
            raise VanError(
                f"decoder_layers is {self.decoder_layers}, expected at least 2: each layer refines the boxes of the "
                "previous one."
            )
        if self.pyramid_channels % 32:
            raise VanError(
                f"pyramid_channels is {self.pyramid_channels}, expected a multiple of 32: there are 8 attention heads "
                "and position codes in 4 parts."
            )
