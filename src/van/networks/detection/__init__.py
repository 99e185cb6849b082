"""Detectors and instance segmentation on a VAN: torchvision's, those of T11 that no library has, and DETRs.

The options alone import without torch; the rest loads on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from van.heads.detection.options import Architecture, DetectorOptions

if TYPE_CHECKING:
    from van.heads.detection.detector import Detector, build_detector

__all__ = ["Architecture", "Detector", "DetectorOptions", "build_detector"]


def __getattr__(name: str) -> Any:
    if name not in ("Detector", "build_detector"):
        raise AttributeError(f"module 'van.heads.detection' has no attribute {name!r}")
    return getattr(import_module("van.heads.detection.detector"), name)
