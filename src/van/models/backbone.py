"""Feature maps for dense tasks: VAN, or any network of timm, behind one interface."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.layers import Format
from timm.models import FeatureListNet, group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from van.errors import VanError
from van.models.factory import create_model
from van.models.van import VAN, VANStage
from van.models.variants import VARIANTS


class Backbone(nn.Module):
    """The stages of a network, as a list of maps at strides 4, 8, 16, 32.

    Frozen modules have no gradient, and their BatchNorm stays in evaluation mode even after train(), so that neither
    weights nor running statistics change.

    Args:
        name: "van_b0" to "van_b6", optionally with one of timm's tags; or any network of timm with four stages.
        pretrained: None for random weights, "hub" for the published ones, else a weight file of any known layout or a
            folder with one; its classifier is ignored.
        out_indices: The maps to return, in ascending order: 0 has stride 4, 3 has stride 32. Stages after the last one
            are not built.
        frozen_stages: Number of stages, from the stem on, that are not trained.
        freeze_norm: Whether to freeze every BatchNorm.
        device: Where the parameters are created; "meta" allocates none.
        **model_args: Arguments of van.models.VAN (or of timm's network), such as drop_path_rate or kernel_size.

    Attributes:
        channels: Channels of each map.
        strides: Stride of each map.
        mean: Mean of each channel that the weights expect, for pixels from 0 to 1.
        std: Standard deviation likewise.
        model_args: model_args, plus those that belong to the weights (the epsilon of the LayerNorms).

    Raises:
        VanError: there is no such network, argument or stage, or the weights do not fit.
    """

    def __init__(
        self,
        name: str = "van_b0",
        pretrained: str | Path | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = 0,
        freeze_norm: bool = False,
        device: torch.device | str | None = None,
        **model_args: Any,
    ) -> None:
        super().__init__()
        if sorted(set(out_indices)) != list(out_indices) or not out_indices or not set(out_indices) <= set(range(4)):
            raise VanError(f"out_indices is {list(out_indices)}, expected some of 0, 1, 2, 3 in ascending order.")
        if not 0 <= frozen_stages <= 4:
            raise VanError(f"frozen_stages is {frozen_stages}, expected 0 (none) to 4 (all).")
        self.name = name
        self.model_args = dict(model_args)
        if name.partition(".")[0] in VARIANTS:
            body, cfg = self._van(name, pretrained, out_indices, device)
        else:
            body, cfg = _other(name, pretrained, out_indices, device, model_args)
        self.body = body
        info: Any = body.feature_info
        self.channels: list[int] = list(info.channels())
        self.strides: list[int] = list(info.reduction())
        if self.strides != [4 * 2**i for i in out_indices]:
            raise VanError(
                f"{name} has maps at strides {self.strides}, expected {[4 * 2**i for i in out_indices]}. Use a network "
                "whose last four stages have strides 4, 8, 16 and 32, such as a VAN with output_stride 32."
            )
        self.mean: tuple[float, ...] = tuple(cfg["mean"])
        self.std: tuple[float, ...] = tuple(cfg["std"])
        self._frozen = self._first_stages(frozen_stages)
        if freeze_norm:
            self._frozen += [name for name, m in body.named_modules() if isinstance(m, _BatchNorm)]
        for module in self._frozen:
            body.get_submodule(module).requires_grad_(False)
        self.train(self.training)

    def _van(
        self, name: str, pretrained: str | Path | None, out_indices: Sequence[int], device: torch.device | str | None
    ) -> tuple[FeatureListNet, dict[str, Any]]:
        unknown = set(self.model_args) - set(inspect.signature(VAN).parameters)
        if unknown:
            known = ", ".join(k for k in inspect.signature(VAN).parameters if k not in ("num_classes", "device"))
            raise VanError(f"{name} has no argument {sorted(unknown)[0]!r}. It has {known}.")
        args = {**self.model_args, "num_classes": 0, "device": device}
        try:
            model = create_model(name, pretrained or False, **args)
        except ValueError as error:
            raise VanError(f"{name} cannot be built: {error}") from error
        if len(model.stages) != 4:
            raise VanError(f"{name} was given {len(model.stages)} stages, expected 4 for dense tasks.")
        if pretrained:  # the epsilon belongs to the weights: building the same network again needs it
            self.model_args.setdefault("norm_eps", cast(Any, model.stages[0]).norm.eps)
        cfg = cast(dict[str, Any], model.pretrained_cfg)
        return FeatureListNet(model, out_indices=tuple(out_indices), flatten_sequential=True), cfg

    def _first_stages(self, count: int) -> list[str]:
        """Return the names of the modules from the stem to the end of stage number `count`."""
        if count == 0:
            return []
        body = cast(Any, self.body)
        info = body.feature_info
        last = next(i["module"] for i in info.info if i["reduction"] == 2 ** (count + 1)).replace(".", "_")
        names = list(body) if isinstance(body, FeatureListNet) else []
        if last not in names and max(self.strides) >= 2 ** (count + 1):
            raise VanError(
                f"frozen_stages is {count}, but the stages of timm's {type(body).__name__} cannot be told apart. Use 0."
            )
        return names[: names.index(last) + 1 if last in names else None]

    def train(self, mode: bool = True) -> "Backbone":
        """Switch to training or evaluation mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        for name in self._frozen:  # by name: a synchronized BatchNorm may have taken the place of the first one
            self.body.get_submodule(name).eval()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of storing them; see VAN.set_grad_checkpointing.

        Raises:
            VanError: the network cannot do that without counting each batch twice in its BatchNorms.
        """
        body = cast(Any, self.body)
        stages = [module for module in body.modules() if isinstance(module, VANStage)]
        for stage in stages:
            stage.grad_checkpointing = enable
        if stages:
            return
        norms = any(isinstance(module, _BatchNorm) for module in body.modules())
        if norms or not hasattr(body, "set_grad_checkpointing"):
            reason = "would count each batch twice in its BatchNorms" if norms else "cannot do that"
            raise VanError(f"Activations of {self.name} cannot be recomputed: timm {reason}. Use a VAN.")
        body.set_grad_checkpointing(enable)

    def layer_depths(self) -> dict[str, int]:
        """Return the depth of each parameter: 0 for the stem, then one more for each block; see VAN.layer_depths.

        Raises:
            VanError: timm does not say how the layers of the network follow each other.
        """
        with torch.device("meta"):
            whole: Any = timm.create_model(self.name, **{**self.model_args, "num_classes": 0})
        matcher = whole.group_matcher(coarse=False) if hasattr(whole, "group_matcher") else {}
        depths = cast(dict[str, int], group_parameters(whole, matcher, reverse=True)) if matcher else {}
        # the body has joined the first components of some names
        joined = {name.replace(".", "_"): depth for name, depth in depths.items()}
        names = [name for name, _ in self.body.named_parameters()]
        plain = {name: name.removeprefix("model.").replace(".", "_") for name in names}
        if not set(plain.values()) <= joined.keys():
            raise VanError(
                f"layer_decay is not available for {self.name}, whose layers timm does not order. Use a VAN."
            )
        return {f"body.{name}": joined[plain[name]] for name in names}

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map images (B, 3, H, W) to one map (B, C, ceil(H/stride), ceil(W/stride)) per out index."""
        maps = self.body(x)
        if getattr(self.body, "output_fmt", None) == Format.NHWC:
            return [m.permute(0, 3, 1, 2) for m in maps]
        return maps


def _other(
    name: str,
    pretrained: str | Path | None,
    out_indices: Sequence[int],
    device: torch.device | str | None,
    model_args: dict[str, Any],
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a network of timm that is no VAN."""
    if not timm.is_model(name.partition(".")[0]):
        raise VanError(
            f"There is no network {name!r}, expected one of {', '.join(VARIANTS)} or a name that timm knows."
        )
    args = dict(model_args)
    if pretrained not in (None, "hub"):
        args["pretrained_cfg_overlay"] = {"file": str(pretrained), **args.get("pretrained_cfg_overlay", {})}
    with torch.device(device or torch.get_default_device()):
        last_four = tuple(i - 4 for i in out_indices)  # some networks have a map at stride 2 before
        body = timm.create_model(name, bool(pretrained), features_only=True, out_indices=last_four, **args)
    return body, cast(dict[str, Any], body.pretrained_cfg)
