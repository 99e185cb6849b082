"""Detectors and instance segmentation on a VAN: torchvision's, and those of T11 that no library has."""

from van.heads.detection.detector import Detector, build_detector
from van.heads.detection.options import Architecture, DetectorOptions

__all__ = ["Architecture", "Detector", "DetectorOptions", "build_detector"]
