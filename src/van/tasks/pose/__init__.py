"""Pose estimation: keypoints of persons."""
