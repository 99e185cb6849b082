"""The network, its large kernel attention and its weights; importing this registers VAN-B0 to B6 with timm."""

from van.models.factory import create_model
from van.models.lka import GatedAttention, LargeKernelAttention, decompose
from van.models.van import VAN, VANBlock, VANStage
from van.models.weights import Checkpoint, load_weights, read_checkpoint, write_checkpoint

__all__ = [
    "VAN",
    "Checkpoint",
    "GatedAttention",
    "LargeKernelAttention",
    "VANBlock",
    "VANStage",
    "create_model",
    "decompose",
    "load_weights",
    "read_checkpoint",
    "write_checkpoint",
]
