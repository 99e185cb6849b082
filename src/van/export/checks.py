"""What every export checks first."""

from importlib import import_module
from typing import Any

from torch import nn

from van.errors import VanError


def package(name: str, extra: str = "export") -> Any:
    """Import a package of an extra.

    Raises:
        VanError: it is missing.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise VanError(
            f"The package {name} is missing; install it with pip install 'visual-attention-network[{extra}]' ({error})."
        ) from error


def check_evaluation(model: nn.Module) -> None:
    """Refuse a network that is in training mode.

    Raises:
        VanError: it is.
    """
    if any(module.training for module in model.modules()):
        raise VanError(
            "The model is in training mode, in which dropout and BatchNorm act differently. Call model.eval() first."
        )
