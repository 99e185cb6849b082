"""Semantic and panoptic segmentation: Semantic FPN, UPerNet, Mask2Former. The options import without torch."""
