"""Trained networks for inference: fused copies, export formats, inference engines."""
