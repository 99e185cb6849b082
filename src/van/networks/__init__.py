"""Heads on a backbone: objects, keypoints, labels of pixels."""
