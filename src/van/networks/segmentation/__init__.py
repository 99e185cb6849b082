"""Segmentation and saliency on a VAN: Semantic FPN, UPerNet, Mask2Former, EDN."""

from van.heads.pixels.building import build_saliency, build_segmenter
from van.heads.pixels.checkpoints import is_openmmlab, load_openmmlab, segmenter_from_openmmlab
from van.heads.pixels.edn import EDN
from van.heads.pixels.options import Architecture, SaliencyOptions, SegmenterOptions
from van.heads.pixels.parts import IGNORED, PixelModel
from van.heads.pixels.semantic_fpn import SemanticFPN

__all__ = [
    "EDN",
    "IGNORED",
    "Architecture",
    "PixelModel",
    "SaliencyOptions",
    "SegmenterOptions",
    "SemanticFPN",
    "build_saliency",
    "build_segmenter",
    "is_openmmlab",
    "load_openmmlab",
    "segmenter_from_openmmlab",
]
