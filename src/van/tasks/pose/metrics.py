"""What is measured of a pose network."""

from van.engine.coco import coco_metrics

KEYPOINT = coco_metrics("keypoints", "keypoint")
