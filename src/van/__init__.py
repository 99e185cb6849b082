"""Visual Attention Network: VAN-B0 to B6 and large kernel attention, from training to inference.

Importing this package registers the models with timm, so that `timm.create_model("van_b0")` works, and loads nothing
heavy: the registration waits until timm is imported, and every public name loads what it needs when it is first used.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

import wrapt as _wrapt

if _TYPE_CHECKING:
    from van.engine.api import evaluate, label, load, train, tune
    from van.engine.predictor import Predictor
    from van.engine.registry import register_task
    from van.engine.result import Result
    from van.engine.run import Run
    from van.engine.showing import show_data
    from van.errors import DataError, VanError, WeightsError
    from van.export import export
    from van.export.fuse import fuse
    from van.models import VAN, LargeKernelAttention, create_model, decompose, load_weights
    from van.networks.registry import register as register_network

__version__ = "0.1.0"
__all__ = [
    "VAN",
    "DataError",
    "LargeKernelAttention",
    "Predictor",
    "Result",
    "Run",
    "VanError",
    "WeightsError",
    "create_model",
    "decompose",
    "evaluate",
    "export",
    "fuse",
    "label",
    "load",
    "load_weights",
    "register_network",
    "register_task",
    "show_data",
    "train",
    "tune",
]

_HOME = {
    "DataError": "van.errors",
    "Predictor": "van.engine.predictor",
    "Result": "van.engine.result",
    "Run": "van.engine.run",
    "VanError": "van.errors",
    "WeightsError": "van.errors",
    "evaluate": "van.engine.api",
    "export": "van.export",
    "fuse": "van.export.fuse",
    "label": "van.engine.api",
    "load": "van.engine.api",
    "register_network": "van.networks.registry:register",
    "register_task": "van.engine.registry",
    "show_data": "van.engine.showing",
    "train": "van.engine.api",
    "tune": "van.engine.api",
}  # all others are in van.models


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'van' has no attribute {name!r}")
    module, _, attribute = _HOME.get(name, "van.models").partition(":")
    return getattr(_import_module(module), attribute or name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


# the post import hook takes a function of the module that was imported
_wrapt.register_post_import_hook(lambda timm: _import_module("van.models.van"), "timm")
