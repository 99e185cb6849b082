"""Visual Attention Network: VAN-B0 to B6 and large kernel attention.

Importing this package registers the models with timm, so that `timm.create_model("van_b0")` works. The registration
waits until timm itself is imported, and every public name loads what it needs on first use: the import costs nothing.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from van.errors import DataError, VanError, WeightsError
    from van.export.fuse import fuse
    from van.inference.predictor import Predictor
    from van.models import VAN, LargeKernelAttention, create_model, decompose, load_weights

__version__ = "0.1.0"
__all__ = [
    "VAN",
    "DataError",
    "LargeKernelAttention",
    "Predictor",
    "VanError",
    "WeightsError",
    "create_model",
    "decompose",
    "fuse",
    "load_weights",
]

_HOME = {
    "DataError": "van.errors",
    "Predictor": "van.inference.predictor",
    "VanError": "van.errors",
    "WeightsError": "van.errors",
    "fuse": "van.export.fuse",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'van' has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "van.models")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register(timm: ModuleType) -> None:
    import_module("van.models.van")


wrapt.register_post_import_hook(_register, "timm")
