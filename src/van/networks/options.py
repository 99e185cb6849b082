"""What every network is built from, and the options of the pose and saliency networks. Imports no torch."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from van.errors import VanError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from van.models.backbone import Backbone

IGNORED = 255  # label of pixels that do not count


@dataclass
class NetworkOptions:
    """A network and the backbone it stands on.

    An architecture is a subclass with a default for architecture, fields of its own and a network method; it becomes
    known by its line in van.networks.registry, or by van.networks.registry.register.

    Attributes:
        architecture: Name of the architecture.
        backbone: van_b0 to van_b6, or any timm model with stages at strides 4, 8, 16 and 32.
        backbone_args: Further arguments of the backbone, such as drop_path_rate or embed_dims.
        frozen_stages: Number of backbone stages, counted from the stem, that are not trained.
        freeze_norm: Freeze all BatchNorm layers of the backbone.
        mean: Mean of each color channel for images from 0 to 1; null takes the backbone's own.
        std: Standard deviation of each color channel; null takes the backbone's own.
    """

    architecture: Any  # a string; each subclass narrows it to its own name
    backbone: str = "van_b0"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    frozen_stages: int = 0
    freeze_norm: bool = False
    mean: list[float] | None = None
    std: list[float] | None = None

    out_indices: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)  # feature maps of the backbone that the network takes

    def build(
        self, outputs: int, pretrained: str | Path | None = None, device: "torch.device | str | None" = None
    ) -> Any:
        """Build the network.

        Args:
            outputs: Number of classes without the background, or of keypoints; 1 for saliency.
            pretrained: Weights of the backbone: None for random ones, "hub" for the published ones, else a weight file
                in any known layout or a folder with one.
            device: Where the parameters are created; "meta" allocates none, for counting.

        Returns:
            The network, an nn.Module in training mode. Its options are these, completed with everything that came with
            the weights: building from them without pretrained gives the same network. Its input_size is the (3, H, W)
            to count with.

        Raises:
            VanError: An option is out of range, a package is missing, or the weights do not fit.
        """
        from contextlib import nullcontext

        import torch

        from van.models.backbone import Backbone

        if self.architecture != (own := type(self).architecture):
            raise VanError(f"architecture is {self.architecture!r}, but these are the options of {own!r}.")
        if outputs < 1:
            raise VanError(
                f"{own} was asked for {outputs} outputs, expected at least 1. The background does not count."
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != 3:
                raise VanError(f"{name} is {values}, expected one number for each of the 3 color channels.")
        self.check(outputs)
        with torch.device(device) if device is not None else nullcontext():
            backbone = Backbone(
                self.backbone,
                pretrained,
                self.out_indices,
                self.frozen_stages,
                self.freeze_norm,
                device,
                **self.backbone_args,
            )
            completed = replace(
                self,
                mean=list(self.mean or backbone.mean),
                std=list(self.std or backbone.std),
                backbone_args=dict(backbone.model_args),
            )
            network = completed.network(backbone, outputs)
        # transformers creates some parameters on the CPU whatever the context says
        return network if device is None else network.to(device)

    def check(self, outputs: int) -> None:
        """Raise VanError where an option is out of range; called before anything is built."""

    def network(self, backbone: "Backbone", outputs: int) -> "nn.Module":
        """Return the network on a backbone; mean and std are set, and the network keeps these options."""
        raise NotImplementedError


@dataclass
class SimpleBaselineOptions(NetworkOptions):
    """SimpleBaseline: keypoints as heat maps.

    Attributes:
        architecture: simple_baseline.
        image_size: Height and width in pixels of the crop around a person.
        sigma: Standard deviation of the Gaussians in the target heat maps, in heat map pixels.
        round_centers: Center the Gaussians on the nearest pixel and cut them off after three standard deviations, as
            the code of SimpleBaseline and MMPose; otherwise they are exact.
        average_over: Keypoints over which the squared errors are averaged: the labeled ones, or all, as in that code,
            where those without a label count as zero.
        deconvolutions: How many times the last feature map is doubled.
        channels: Channels of each deconvolution.
    """

    architecture: Literal["simple_baseline"] = "simple_baseline"
    image_size: list[int] = field(default_factory=lambda: [256, 192])
    sigma: float = 2.0
    round_centers: bool = False
    average_over: Literal["labeled", "all"] = "labeled"
    deconvolutions: int = 3
    channels: int = 256

    out_indices: ClassVar[tuple[int, ...]] = (3,)

    def __post_init__(self) -> None:
        if len(self.image_size) != 2:  # the data needs it before there is a network
            raise VanError(f"image_size is {self.image_size}, expected a height and a width.")

    def check(self, outputs: int) -> None:
        """Raise VanError where an option is out of range."""
        if self.deconvolutions < 0 or self.channels < 1 or not self.sigma > 0:
            raise VanError(
                f"deconvolutions is {self.deconvolutions}, channels {self.channels} and sigma {self.sigma}, expected "
                "at least 0, at least 1 and a number above 0."
            )

    def network(self, backbone: "Backbone", outputs: int) -> "nn.Module":
        """Return the network on a backbone."""
        from van.networks.pose import SimpleBaseline

        return SimpleBaseline(backbone, outputs, self)


@dataclass
class EDNOptions(NetworkOptions):
    """EDN: salient object detection.

    Attributes:
        architecture: edn.
        channels: Channels of the decoder at each of its six levels, the finest first; even numbers.
        global_channels: Channels of the extremely downsampled block.
        dice_weight: Weight of the Dice loss relative to the cross-entropy.
    """

    architecture: Literal["edn"] = "edn"
    channels: list[int] = field(default_factory=lambda: [32, 64, 128, 256, 128, 128])
    global_channels: int = 256
    dice_weight: float = 1.0

    def check(self, outputs: int) -> None:
        """Raise VanError where an option is out of range."""
        if outputs != 1:
            raise VanError(f"edn was asked for {outputs} outputs, expected 1: a pixel is salient or not.")
        if len(self.channels) != 6 or any(width < 4 or width % 2 for width in self.channels):
            raise VanError(f"channels is {self.channels}, expected six even numbers of at least 4, one for each level.")

    def network(self, backbone: "Backbone", outputs: int) -> "nn.Module":
        """Return the network on a backbone."""
        from van.networks.saliency import EDN

        return EDN(backbone, self)


@dataclass
class LegacyEDNOptions(NetworkOptions):
    """EDN as versions up to 0.1.0 built it; only their files name it.

    Attributes:
        architecture: edn_legacy.
        channels: Channels of the decoder, a multiple of the number of dilations.
        global_channels: Channels of the extremely downsampled block.
        dilations: Dilations of the pyramid convolutions.
        dice_weight: Weight of the Dice loss relative to the cross-entropy.
    """

    architecture: Literal["edn_legacy"] = "edn_legacy"
    channels: int = 128
    global_channels: int = 256
    dilations: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    dice_weight: float = 1.0

    def network(self, backbone: "Backbone", outputs: int) -> "nn.Module":
        """Return the network on a backbone."""
        from van.networks.saliency_legacy import LegacyEDN

        return LegacyEDN(backbone, self)
