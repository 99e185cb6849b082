"""Parts of a network by name: which parameters a name stands for, and what is kept from training."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from van.errors import VanError, nearest
from van.models.backbone import Backbone
from van.models.van import VAN


def fits(name: str, part: str) -> bool:
    """Return whether a dotted name has a part in it as whole components; the part may hold wildcards."""
    return fnmatchcase(f".{name}.", f"*.{part}.*")


def trained_names(network: nn.Module, option: str, part: str) -> list[str]:
    """Return the names of the trained parameters that a part of the network has.

    Args:
        network: The network.
        option: Option that names the part, for messages.
        part: Its name.

    Raises:
        VanError: there are none.
    """
    named = dict(network.named_parameters())
    found = [name for name in named if fits(name, part)]
    if not found:
        modules = [name for name, _ in network.named_modules() if name]
        known = list(dict.fromkeys([*(word for name in named for word in name.split(".")), *modules, *named]))
        raise VanError(f"{option} names {part!r}, which no parameter of the network has.{nearest(part, known)}")
    trained = [name for name in found if named[name].requires_grad]
    if not trained:
        raise VanError(f"{option} names {part!r}, which is not trained in any case. Leave it out.")
    return trained


def freeze(network: nn.Module, parts: Iterable[str]) -> None:
    """Keep parts of a network from being trained; see still_modules for their statistics.

    Args:
        network: The network.
        parts: Names of the parts.

    Raises:
        VanError: a name fits nothing, or nothing is left to be trained.
    """
    for names in [trained_names(network, "freeze", part) for part in parts]:
        for name in names:
            network.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise VanError("Every parameter of the network is frozen, so there is nothing to train. Freeze less.")


def still_modules(network: nn.Module, parts: Sequence[str], batchnorm: bool) -> list[nn.Module]:
    """Return the modules that stay in evaluation mode: those of frozen parts, and all BatchNorms if asked for.

    They are looked up by name each time: synchronized BatchNorms take the place of the first ones.
    """
    return [
        module
        for name, module in network.named_modules()
        if (batchnorm and isinstance(module, _BatchNorm)) or any(fits(name, part) for part in parts)
    ]


def checkpoint_gradients(network: nn.Module) -> None:
    """Compute the activations of the backbone again in the backward pass instead of keeping them.

    Raises:
        VanError: there is no backbone, or it cannot do that.
    """
    bodies = [module for module in network.modules() if isinstance(module, VAN | Backbone)]
    if not bodies:
        raise VanError("checkpoint_gradients needs a network with a backbone. Leave it out.")
    for body in bodies:
        body.set_grad_checkpointing()


def layer_depths(network: nn.Module) -> tuple[dict[str, int], int]:
    """Return the depth of each parameter of the backbone, by its name in the network, and the depth of the head.

    Raises:
        VanError: there is no backbone.
    """
    for name, module in network.named_modules():
        if isinstance(module, VAN | Backbone):
            prefix = f"{name}." if name else ""
            depths = {prefix + own: depth for own, depth in module.layer_depths().items()}
            return depths, max(depths.values()) + 1
    raise VanError("layer_decay needs a network with a backbone. Leave it out.")
