"""The network, its large kernel attention and its weights.

Every name loads its module on first use: options that only need the names of the variants import no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from van.models.attention import Attention, GatedAttention
    from van.models.factory import create_model
    from van.models.layouts import LayerNames
    from van.models.lka import LargeKernelAttention, decompose
    from van.models.van import VAN, VANBlock, VANStage
    from van.models.weights import Checkpoint, load_weights, read_checkpoint, write_checkpoint

_HOME = {
    "VAN": "van",
    "Attention": "attention",
    "Checkpoint": "weights",
    "GatedAttention": "attention",
    "LargeKernelAttention": "lka",
    "LayerNames": "layouts",
    "VANBlock": "van",
    "VANStage": "van",
    "create_model": "factory",
    "decompose": "lka",
    "load_weights": "weights",
    "read_checkpoint": "weights",
    "write_checkpoint": "weights",
}
__all__ = [
    "VAN",
    "Attention",
    "Checkpoint",
    "GatedAttention",
    "LargeKernelAttention",
    "LayerNames",
    "VANBlock",
    "VANStage",
    "create_model",
    "decompose",
    "load_weights",
    "read_checkpoint",
    "write_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'van.models' has no attribute {name!r}")
    return getattr(import_module(f"van.models.{_HOME[name]}"), name)
